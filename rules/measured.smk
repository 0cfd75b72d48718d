# Measurements: figures that no episode has, each file one measurement (src/flashtrail/tables/measurements.py).
#
# REQUIRED INPUTS
#   config: measured.sensitivity                      policies to ask
#   results/artifacts/{policy}/, results/profile/{policy}/observations.npz
# OUTPUTS
#   results/measured/sensitivity_{policy}.json        what the policy looks at (docs/drills.md, Does it look)


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
