# Evidence: shards to tables, tables to summaries, summaries to verdicts.
#
# REQUIRED INPUTS
#   results/rollouts/{arm}/task_*/       every shard of the arm; a missing or failed episode stops the merge by name,
#                                        and so does a shard whose config, artifact or code is not the planned one
#   results/artifacts/{policy}/          the artifact that the shards must have run on
#   results/profile/, results/smoke/, results/parity/, results/environments/
#   claims.yaml                          the claims as data
# OUTPUTS
#   results/tables/{arm}/{episodes,rounds,steps}.parquet
#   results/summaries/{arm}.json         k/n with intervals, routes, latency
#   results/claims/claims.json           a computed verdict for each claim (of report `lift`: lift.json)
#   results/claims/looks.parquet         when each comparison was looked at: not an output, since Snakemake removes
#                                        those (of report `lift`: lift-looks.parquet)


rule merge_shards:
    """Put an arm's shards together and count; refuses holes, doubles and shards of another plan."""
    input:
        unpack(artifact_of_arm),
        **{table: lambda w, table=table: shard_inputs(ARMS[w.arm], f"{table}.parquet") for table in TABLES},
        ledgers=lambda w: shard_inputs(ARMS[w.arm], "ledger.json"),
    output:
        **reported(
            {**table_files("results/tables/{arm}"), "summary": "results/summaries/{arm}.json"},
            "merged",
            "Evidence",
            arm="{arm}",
        ),
    log:
        "results/logs/merge_shards/{arm}.log",
    benchmark:
        "results/benchmarks/merge_shards/{arm}.tsv"
    params:
        expected=expected_of,
        code=code_digest("merge_shards.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Merging the shards of {wildcards.arm}"
    script:
        "../scripts/merge_shards.py"


rule evaluate_claims:
    """Compute the verdict of every claim from the tables; prose cannot override one."""
    input:
        **evidence_files(),
        claims=EXPERIMENT.claims,
    output:
        **reported({"claims": FILES.claims}, "claims", "Evidence"),
    log:
        f"results/logs/{FILES.job('evaluate_claims')}.log",
    benchmark:
        f"results/benchmarks/{FILES.job('evaluate_claims')}.tsv"
    params:
        arms=lambda w: list(EXPERIMENT.arms),
        planned=lambda w: {
            name: len(EXPERIMENT.tasks_of(name)) * len(arm.init_states) * arm.repeats
            for name, arm in EXPERIMENT.arms.items()
        },
        looks=FILES.looks,
        code=code_digest("evaluate_claims.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Evaluating the claims"
    script:
        "../scripts/evaluate_claims.py"
