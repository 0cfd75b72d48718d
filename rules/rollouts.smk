# Rollouts: the episodes of one arm and task, one policy server for all of them.
#
# REQUIRED INPUTS
#   results/artifacts/{policy}/           the artifact of the arm's policy
#   results/environments/handle.json      the server's interpreter
#   results/smoke/{policy}/ledger.json    nothing long starts before two episodes went well
#   (none of these for an arm with `server: ws://host:port` or of the simulator's expert)
#   the table of rounds that an arm's clock replays, where it does
# OUTPUTS
#   results/rollouts/{arm}/task_{task}/{episodes,rounds,steps,sheets}.parquet, ledger.json
#   (videos/ beside them: films of failures and of one success, as the arm's `video` says)
#   (parts/ beside them holds finished episodes: a shard that was killed resumes at the next one, a longer one runs
#   what is new; so do the tables themselves and, where the config names them, those of other runs: `reuse`)


rule roll_out_shard:
    """Run simulators against a policy server of the model environment, record every step."""
    input:
        unpack(needs_of_arm),
    output:
        # Kept while the job runs: their episodes are taken from them where parts/ is missing, as in a bundle.
        **reported(
            {kind: update(file) for kind, file in shard_files("results/rollouts/{arm}/task_{task}").items()},
            "shard",
            "Rollouts",
            arm="{arm}",
            task="{task}",
        ),
    log:
        "results/logs/roll_out_shard/{arm}/task_{task}.log",
    benchmark:
        "results/benchmarks/roll_out_shard/{arm}/task_{task}.tsv"
    params:
        arm=arm_of,
        task=lambda w: int(w.task),
        code=lambda w: code_digest("roll_out_shard.py", *modules_of_arm(w)),
        reuse=lambda w, output: EXPERIMENT.reuse,  # with `output`, a change of it runs nothing again
    priority: long_first
    threads: lambda w: EXPERIMENT.rollout.simulators
    resources:
        gpu=gpus_of_arm,
    conda:
        "../envs/libero.yaml"
    message:
        "Rolling out {wildcards.arm}, task {wildcards.task}"
    script:
        "../scripts/roll_out_shard.py"
