# Profile: what a round of each route takes, alone on the device.
#
# REQUIRED INPUTS
#   results/artifacts/{policy}/           the artifact
#   results/environments/handle.json      the server's interpreter, the device's name
#   results/smoke/{policy}/ledger.json    nothing long starts before two episodes went well
# OUTPUTS
#   results/profile/{policy}/observations.npz   what the policy saw in a few episodes of each task
#   results/profile/{policy}/rounds.parquet     timed rounds: batch 1, warmed per prompt and route, synchronised
#   results/profile/{policy}/control.json       the full route against itself with other noise: what a radius can accept
PROFILED = {"rounds": "rounds.parquet", "control": "control.json"}


rule record_observations:
    """Run a few episodes of each task and keep the observations that the policy was asked about."""
    input:
        unpack(lambda w: served(w.policy)),
        model="results/environments/handle.json",
        smoke="results/smoke/{policy}/ledger.json",
    output:
        **reported(
            {"observations": "results/profile/{policy}/observations.npz"}, "observations", "Profile", policy="{policy}"
        ),
    log:
        "results/logs/record_observations/{policy}.log",
    benchmark:
        "results/benchmarks/record_observations/{policy}.tsv"
    params:
        arm=profiled_arm,
        tasks=lambda w: EXPERIMENT.home_of(w.policy)[1],
        shard=lambda w: code_digest("roll_out_shard.py", *shard_modules(w.policy)),  # shares simulators and server
        code=lambda w: code_digest("record_observations.py", *shard_modules(w.policy)),
    priority: 1  # one core for long: beside the shards, before what is alone on the device
    threads: 1
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/libero.yaml"
    message:
        "Recording observations for profiling {wildcards.policy}"
    script:
        "../scripts/record_observations.py"


rule profile_routes:
    """Time the full and the draft route on recorded observations; takes all cores, so that it is alone."""
    input:
        unpack(lambda w: served(w.policy)),
        model="results/environments/handle.json",
        observations="results/profile/{policy}/observations.npz",
    output:
        **reported(
            {kind: f"results/profile/{{policy}}/{file}" for kind, file in PROFILED.items()},
            "profile",
            "Profile",
            policy="{policy}",
        ),
    log:
        "results/logs/profile_routes/{policy}.log",
    # No `benchmark:`: twice a second Snakemake would read the memory map of the process that is timed, 4 to 10 % of two
    # cores, and the record would say that other programs were at work.
    params:
        engine=engine_of,
        samples=EXPERIMENT.profile.samples,
        warmup=EXPERIMENT.profile.warmup,
        seed=EXPERIMENT.seed,
        code=lambda w: code_digest(
            "profile_routes.py", *({families.source_of(family_of(w.policy))} - {families.source_of(families.PI0)})
        ),
    threads: EVERY_CORE
    resources:
        gpu=lambda w: gpus(w.policy),
    conda:
        "../envs/model.yaml"
    message:
        "Profiling the routes of {wildcards.policy}, alone on the device"
    script:
        "../scripts/profile_routes.py"
