# Checkpoints: from candidate locations to an artifact that was compared with its source.
#
# REQUIRED INPUTS
#   config: policies.{policy}.candidates, .draft, .tokenizer    gs://, hf:// or local paths
#           or policies.{policy}.artifact                       a finished artifact, of any family
#           policies.{policy}.horizon and other facts           what the tree does not hold (docs/checkpoints.md)
#   resources/checkpoints/known.yaml                            the facts of public checkpoints
# OUTPUTS
#   results/checkpoints/{policy}/record.json      verdict on each candidate, with its reason; exactly one must match
#   results/checkpoints/{policy}/fetched.json     what was downloaded to source/, sizes and hashes
#   results/artifacts/{policy}/{base,draft}/      safetensors artifact; manifest.json names and digests its files
#   results/parity/{policy}.json                  source against artifact, stage by stage


rule probe_checkpoints:
    """Read each candidate's metadata, tell what it is, and stop unless exactly one matches."""
    input:
        known="resources/checkpoints/known.yaml",
    output:
        record="results/checkpoints/{policy}/record.json",
    log:
        "results/logs/probe_checkpoints/{policy}.log",
    benchmark:
        "results/benchmarks/probe_checkpoints/{policy}.tsv"
    params:
        source=source_of,
        content=lambda w: source_digest(w.policy),
        code=code_digest("probe_checkpoints.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Probing the checkpoint candidates of {wildcards.policy}"
    script:
        "../scripts/probe_checkpoints.py"


rule fetch_checkpoint:
    """Download the one match, its tokenizer and its draft; resumes, checks sizes and hashes."""
    input:
        record="results/checkpoints/{policy}/record.json",
    output:
        fetched="results/checkpoints/{policy}/fetched.json",
    log:
        "results/logs/fetch_checkpoint/{policy}.log",
    benchmark:
        "results/benchmarks/fetch_checkpoint/{policy}.tsv"
    params:
        source=source_of,
        code=code_digest("fetch_checkpoint.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Fetching the checkpoint of {wildcards.policy}"
    script:
        "../scripts/fetch_checkpoint.py"


rule convert_base:
    """Stream the checkpoint's leaves into the base artifact."""
    input:
        fetched="results/checkpoints/{policy}/fetched.json",
    output:
        manifest="results/artifacts/{policy}/base/manifest.json",
        weights="results/artifacts/{policy}/base/model.safetensors",
        norm_stats="results/artifacts/{policy}/base/norm_stats.json",
        tokenizer="results/artifacts/{policy}/base/tokenizer.model",
    wildcard_constraints:
        policy=one_of(CONVERTED),
    log:
        "results/logs/convert_base/{policy}.log",
    benchmark:
        "results/benchmarks/convert_base/{policy}.tsv"
    params:
        dtype=lambda w: policy_of(w)["dtype"],
        code=code_digest("convert_base.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Converting the base model of {wildcards.policy}"
    script:
        "../scripts/convert_base.py"


rule take_artifact:
    """Check a finished artifact against its own manifest and copy it: a policy that is not converted here."""
    output:
        manifest="results/artifacts/{policy}/base/manifest.json",
    wildcard_constraints:
        policy=one_of(TAKEN),
    log:
        "results/logs/take_artifact/{policy}.log",
    benchmark:
        "results/benchmarks/take_artifact/{policy}.tsv"
    params:
        artifact=lambda w: policy_of(w)["artifact"],
        content=lambda w: source_digest(w.policy),
        code=code_digest("take_artifact.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Taking the artifact of {wildcards.policy}"
    script:
        "../scripts/take_artifact.py"


rule convert_draft:
    """Read the draft head's .pt (tensors only, nothing is executed) into the draft artifact."""
    input:
        fetched="results/checkpoints/{policy}/fetched.json",
        base="results/artifacts/{policy}/base/manifest.json",
    output:
        manifest="results/artifacts/{policy}/draft/manifest.json",
        weights="results/artifacts/{policy}/draft/model.safetensors",
    log:
        "results/logs/convert_draft/{policy}.log",
    benchmark:
        "results/benchmarks/convert_draft/{policy}.tsv"
    params:
        dtype=lambda w: policy_of(w)["dtype"],
        code=code_digest("convert_draft.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Converting the draft head of {wildcards.policy}"
    script:
        "../scripts/convert_draft.py"


rule check_parity:
    """Compare the stages of source model and artifact on fixed noise; name the first one that diverges."""
    input:
        unpack(lambda w: artifact_of(w.policy)),
        fetched="results/checkpoints/{policy}/fetched.json",
    output:
        record="results/parity/{policy}.json",
    log:
        "results/logs/check_parity/{policy}.log",
    benchmark:
        "results/benchmarks/check_parity/{policy}.tsv"
    params:
        code=code_digest("check_parity.py"),
    threads: 1
    resources:
        mem_mb=lambda w: 32_000 if policy_of(w)["device"] == "cuda" else 8_000,  # the source is restored whole
    priority: 90
    conda:
        "../envs/model.yaml"
    message:
        "Comparing the artifact of {wildcards.policy} with its source"
    script:
        "../scripts/check_parity.py"
