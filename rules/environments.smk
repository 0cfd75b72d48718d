# Environments: prove that each one can do its stage's work before anything long is started.
#
# REQUIRED INPUTS
#   envs/model.yaml, envs/libero.yaml (with --sdm conda two environments, otherwise the caller's)
# OUTPUTS
#   results/environments/{model,libero}.json   versions, device, checks: provenance, and an early end of
#                                              the run if something is missing (nothing waits for them but the report)
#   results/environments/handle.json           the model environment's interpreter: by it a simulator-side job starts a
#                                              policy server


rule locate_model_env:
    """Write where the model environment's interpreter is; changes with envs/model.yaml and with nothing else."""
    output:
        handle="results/environments/handle.json",
    log:
        "results/logs/locate_model_env.log",
    benchmark:
        "results/benchmarks/locate_model_env.tsv"
    params:
        devices=devices(),
        code=code_digest("locate_model_env.py"),
    threads: 1
    resources:
        gpu=int("cuda" in devices()),
    conda:
        "../envs/model.yaml"
    message:
        "Locating the model environment"
    script:
        "../scripts/locate_model_env.py"


rule check_model_env:
    """Import what the model side needs and multiply matrices on each device that a policy asks for."""
    output:
        record="results/environments/model.json",
    log:
        "results/logs/check_model_env.log",
    benchmark:
        "results/benchmarks/check_model_env.tsv"
    params:
        devices=devices(),
        code=code_digest("check_model_env.py"),
    threads: 1
    priority: 100
    resources:
        gpu=int("cuda" in devices()),
    conda:
        "../envs/model.yaml"
    message:
        "Checking the model environment"
    script:
        "../scripts/check_model_env.py"


rule check_libero_env:
    """Import what the simulator side needs and render one frame of each suite."""
    output:
        record=FILES.simulators,
    log:
        f"results/logs/{FILES.job('check_libero_env')}.log",
    benchmark:
        f"results/benchmarks/{FILES.job('check_libero_env')}.tsv"
    params:
        suites=EXPERIMENT.used_suites,
        code=code_digest("check_libero_env.py", *map(simulators.source_of, EXPERIMENT.used_suites)),
    threads: 1
    priority: 100
    conda:
        "../envs/libero.yaml"
    message:
        "Checking the simulator environment"
    script:
        "../scripts/check_libero_env.py"
