# Serving: kernels are compared, the server boots in time, then two episodes run, before anything long.
#
# REQUIRED INPUTS
#   results/environments/handle.json    the server's interpreter
#   results/artifacts/{policy}/         the artifact
# OUTPUTS
#   results/kernels/{policy}/check.json, backend.json           on a GPU with backend auto: kernels against PyTorch
#   results/smoke/{policy}/boot.json                            seconds to readiness, one answered round (claim C3)
#   results/smoke/{policy}/{episodes,rounds,steps}.parquet      two episodes of one task (claim C4)
#   results/smoke/{policy}/ledger.json


rule check_kernels:
    """Compare the kernels with PyTorch on this device; they serve where they are right and faster, PyTorch elsewhere."""
    input:
        unpack(lambda w: artifact_of(w.policy)),
    output:
        handle="results/kernels/{policy}/backend.json",
        record="results/kernels/{policy}/check.json",
    log:
        "results/logs/check_kernels/{policy}.log",
    benchmark:
        "results/benchmarks/check_kernels/{policy}.tsv"
    params:
        engine=lambda w: {key: policy_of(w)[key] for key in ("device", "dtype")},
        together=EXPERIMENT.rollout.simulators,
        code=code_digest("check_kernels.py", "benchmark/__main__.py"),
    threads: 1
    priority: 90
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/model.yaml"
    message:
        "Examining the kernels of {wildcards.policy} on this device"
    script:
        "../scripts/check_kernels.py"


rule boot_server:
    """Start the policy server, wait for /healthz with a time limit, ask for one round, take it down."""
    input:
        unpack(lambda w: served(w.policy)),
        model="results/environments/handle.json",
    output:
        record="results/smoke/{policy}/boot.json",
    log:
        "results/logs/boot_server/{policy}.log",
    benchmark:
        "results/benchmarks/boot_server/{policy}.tsv"
    params:
        engine=engine_of,
        code=lambda w: code_digest("boot_server.py", *server_modules(w.policy)),
    threads: 1
    priority: 90
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/libero.yaml"
    message:
        "Booting the server of {wildcards.policy}"
    script:
        "../scripts/boot_server.py"


rule smoke:
    """Roll out two episodes of one task: server, simulator and recorder work together."""
    input:
        unpack(lambda w: served(w.policy)),
        model="results/environments/handle.json",
    output:
        **shard_files("results/smoke/{policy}"),
    log:
        "results/logs/smoke/{policy}.log",
    benchmark:
        "results/benchmarks/smoke/{policy}.tsv"
    params:
        arm=smoke_of,
        task=lambda w: EXPERIMENT.smoke_task(w.policy),
        code=lambda w: code_digest("roll_out_shard.py", *shard_modules(w.policy)),
    threads: 1
    priority: 80
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/libero.yaml"
    message:
        "Smoke test of {wildcards.policy}: episodes of task {params.task}"
    script:
        "../scripts/roll_out_shard.py"
