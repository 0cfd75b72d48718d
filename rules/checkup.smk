# Checkup: one task at all its init states against the policy's published success. The ordinary rules make its arm's
# shard, tables, summary and episode pages; nothing of reports/final.html depends on it.
#
# REQUIRED INPUTS
#   results/tables/checkup/, results/summaries/checkup.json, reports/episodes/checkup/
#   resources/published/*.yaml        published success, of which the config names one (policies.*.published)
#   notebooks/checkup.ipynb
# OUTPUTS
#   results/checkup/checkup.json      success, difference with interval, verdict, what would settle it
#   reports/checkup.{ipynb,html}


rule judge_checkup:
    """Hold the checkup's success to the published one: healthy, suspicious, broken or open, by the interval."""
    input:
        episodes=episodes_of_checkup,
        published=sorted(str(path) for path in Path("resources/published").glob("*.yaml")),
    output:
        **reported({"checkup": "results/checkup/checkup.json"}, "checkup_verdict", "Checkup"),
    log:
        "results/logs/judge_checkup.log",
    benchmark:
        "results/benchmarks/judge_checkup.tsv"
    params:
        key=published_key,
        scene_seed=EXPERIMENT.scene_seed,
        code=code_digest("judge_checkup.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Judging the checkup"
    script:
        "../scripts/judge_checkup.py"


rule render_checkup:
    """Show the verdict, the step of the first gripper closing by outcome, and every episode."""
    input:
        **{table: f"results/tables/checkup/{table}.parquet" for table in TABLES},
        summaries="results/summaries/checkup.json",
        sheets=sheets_of_checkup,
        pages="reports/episodes/checkup/index.html",
        checkup="results/checkup/checkup.json",
        notebook="notebooks/checkup.ipynb",
    output:
        **reported({"notebook": "reports/checkup.ipynb", "html": "reports/checkup.html"}, "checkup", "Checkup"),
    log:
        "results/logs/render_checkup.log",
    benchmark:
        "results/benchmarks/render_checkup.tsv"
    params:
        arms=[CHECKUP],
        grids={},
        code=code_digest("render_report.py", notebook="checkup"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Rendering reports/checkup.html"
    script:
        "../scripts/render_report.py"
