# Corrections: what the expert did where a policy handed over, and policies trained further on it (rounds of HG-DAgger).
#
# REQUIRED INPUTS
#   config: policies.{policy}.refit                             of which policy, on which arms' corrections, how
#   results/rollouts/{arm}/task_{task}/{episodes,steps}.parquet the episodes of an arm in which the expert acts
#   results/artifacts/{of}/base/manifest.json                   the policy that training begins from
# OUTPUTS
#   results/lift/{demos,scenes}.hdf5              demonstrations and scenes of Lift, where a refit names no others
#   results/corrections/{arm}/task_{task}.hdf5    frames before the expert's steps, and what it did (training/lift/files.py)
#   results/artifacts/{policy}/base/              the refit, served as any artifact
#   results/measured/refit_{policy}.json          how many corrections, their steps, the seconds of the refit


rule record_lift_demonstrations:
    """Record the scripted expert in Lift; killed, it goes on with the next part (results/lift/parts)."""
    output:
        demonstrations="results/lift/demos.hdf5",
        scenes="results/lift/scenes.hdf5",
    log:
        "results/logs/record_lift_demonstrations.log",
    benchmark:
        "results/benchmarks/record_lift_demonstrations.tsv"
    params:
        code=code_digest("record_lift_demonstrations.py"),
    threads: 2
    conda:
        "../envs/libero.yaml"
    message:
        "Recording demonstrations of Lift"
    script:
        "../scripts/record_lift_demonstrations.py"


rule record_corrections:
    """Replay an arm's episodes for what was seen where the expert acted."""
    input:
        episodes="results/rollouts/{arm}/task_{task}/episodes.parquet",
        steps="results/rollouts/{arm}/task_{task}/steps.parquet",
    output:
        corrections="results/corrections/{arm}/task_{task}.hdf5",
    log:
        "results/logs/record_corrections/{arm}/task_{task}.log",
    benchmark:
        "results/benchmarks/record_corrections/{arm}/task_{task}.tsv"
    params:
        arm=lambda w: {key: arm_of(w).get(key) for key in ("arm", "suite", "server", "seed", "rollout", "condition")},
        task=lambda w: int(w.task),
        code=code_digest("record_corrections.py"),
    threads: 1
    conda:
        "../envs/libero.yaml"
    message:
        "Recording the corrections of {wildcards.arm}, task {wildcards.task}"
    script:
        "../scripts/record_corrections.py"


rule refit_policy:
    """Train a policy further on corrections and demonstrations, and put it where an arm takes it from."""
    input:
        parent=lambda w: artifact_of(EXPERIMENT.policies[w.policy].refit.of)["base"],
        demonstrations=lambda w: EXPERIMENT.policies[w.policy].refit.demonstrations,
        corrections=corrections_of,
    output:
        manifest="results/artifacts/{policy}/base/manifest.json",
        record="results/measured/refit_{policy}.json",
    wildcard_constraints:
        policy=one_of(REFITTED),
    log:
        "results/logs/refit_policy/{policy}.log",
    benchmark:
        "results/benchmarks/refit_policy/{policy}.tsv"
    params:
        refit=lambda w: EXPERIMENT.policies[w.policy].refit.model_dump(mode="json"),
        code=code_digest("refit_policy.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Refitting {wildcards.policy}"
    script:
        "../scripts/refit_policy.py"
