# Measured: figures that no episode has, one measurement a file, each only where `measured:` of the config has its key.
#
# REQUIRED INPUTS
#   results/environments/handle.json      the device's name (scaling); substrates learn from what ships with scikit-learn
#   results/artifacts/{policy}/, results/profile/{policy}/observations.npz      policies to ask (sensitivity)
# OUTPUTS
#   results/measured/scaling.json         slopes and ratios with their intervals
#   results/scaling/rows.parquet          each pass: its peak of memory and its time
#   results/measured/sensitivity_{policy}.json    what the policy looks at (docs/drills.md, Does it look)
#   results/measured/{substrate}.json     the core of fluid on digits, moving digits, volumes, in pick2d


rule profile_scaling:
    """Memory and time of a field and of attention by the number of tokens; takes all cores, so that it is alone."""
    input:
        model="results/environments/handle.json",
    output:
        measurement="results/measured/scaling.json",
        rows="results/scaling/rows.parquet",
    log:
        "results/logs/profile_scaling.log",
    # No `benchmark:`, as for profile_routes: Snakemake would read the memory map of the process that is timed.
    params:
        scaling=scaling_of,
        code=code_digest("profile_scaling.py"),
    threads: EVERY_CORE
    resources:
        gpu=int(EXPERIMENT.measured.scaling is not None and EXPERIMENT.measured.scaling.device == "cuda"),
    conda:
        "../envs/model.yaml"
    message:
        "Measuring memory and time by the number of tokens, alone on the device"
    script:
        "../scripts/profile_scaling.py"


rule measure_substrate:
    """Train the core and its controls on one of the substrates and compare them on what was held out."""
    output:
        measurement="results/measured/{substrate}.json",
    log:
        "results/logs/measure_substrate/{substrate}.log",
    benchmark:
        "results/benchmarks/measure_substrate/{substrate}.tsv"
    wildcard_constraints:
        substrate="digits|moving|volumes|pick2d",
    params:
        substrate=substrate_of,
        code=code_digest("measure_substrate.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Measuring the core on {wildcards.substrate}"
    script:
        "../scripts/measure_substrate.py"


rule check_sensitivity:
    """Ask a policy recorded queries with a part of another query in them: does its answer move?"""
    input:
        unpack(lambda w: served(w.policy)),
        observations="results/profile/{policy}/observations.npz",
    output:
        measurement="results/measured/sensitivity_{policy}.json",
    log:
        "results/logs/check_sensitivity/{policy}.log",
    benchmark:
        "results/benchmarks/check_sensitivity/{policy}.tsv"
    params:
        engine=engine_of,
        seed=EXPERIMENT.seed,
        code=lambda w: code_digest("check_sensitivity.py", families.source_of(family_of(w.policy))),
    threads: 1
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/model.yaml"
    message:
        "Asking what {wildcards.policy} looks at"
    script:
        "../scripts/check_sensitivity.py"
