# Serving: the server gets ready within its time limit, then two episodes, before anything long.
#
# REQUIRED INPUTS
#   results/environments/handle.json    the server's interpreter
#   results/artifacts/{policy}/         the artifact
# OUTPUTS
#   results/smoke/{policy}/boot.json                            seconds to readiness, one answered round (claim C3)
#   results/smoke/{policy}/{episodes,rounds,steps}.parquet      two episodes of one task (claim C4)
#   results/smoke/{policy}/ledger.json


rule boot_server:
    """Start the policy server, wait for /healthz with a time limit, ask for one round, take it down."""
    input:
        unpack(lambda w: artifact_of(w.policy)),
        model="results/environments/handle.json",
    output:
        record="results/smoke/{policy}/boot.json",
    log:
        "results/logs/boot_server/{policy}.log",
    benchmark:
        "results/benchmarks/boot_server/{policy}.tsv"
    params:
        engine=engine_of,
        code=code_digest("boot_server.py", *SERVER),
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
        unpack(lambda w: artifact_of(w.policy)),
        model="results/environments/handle.json",
    output:
        **shard_files("results/smoke/{policy}"),
    log:
        "results/logs/smoke/{policy}.log",
    benchmark:
        "results/benchmarks/smoke/{policy}.tsv"
    params:
        arm=smoke_of,
        task=EXPERIMENT.smoke.task,
        code=code_digest("roll_out_shard.py", *SERVER),
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
