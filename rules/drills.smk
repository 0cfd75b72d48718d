# Drills: the silent failures of a loop on demand, each one toggle from the clean run, and what tells them apart. Their
# arms are rolled out and merged by the ordinary rules; nothing of reports/final.html depends on them.
#
# REQUIRED INPUTS
#   results/tables/drill_reference/              clean episodes of other init states: what bounds are derived from
#   results/tables/drill_clean/, drill_{name}/   the clean run and the drills, on the same init states and seeds
#   results/rollouts/drill_{name}/task_{task}/   for the step logs
#   notebooks/drills.ipynb
# OUTPUTS
#   results/rollouts/{arm}/task_{task}/steps.jsonl   a shard's steps as JSON lines; no final target asks for others
#   results/drills/bounds.json                       bounds of the predicates
#   results/drills/diagnosis.json                    predicate x drill, power, false alarms
#   reports/episodes/drills.html                     every start with its end in every drill
#   reports/drills.{ipynb,html}
DRILL_ARMS = [arm for arm in EXPERIMENT.drill_arms if arm != "drill_reference"]


rule write_step_log:
    """Write a shard's steps as JSON lines: step, img_mean, action, reward, tag."""
    input:
        episodes="results/rollouts/{arm}/task_{task}/episodes.parquet",
        steps="results/rollouts/{arm}/task_{task}/steps.parquet",
    output:
        **reported(
            {"step_log": "results/rollouts/{arm}/task_{task}/steps.jsonl"},
            "step_log",
            "Drills",
            arm="{arm}",
            task="{task}",
        ),
    log:
        "results/logs/write_step_log/{arm}/task_{task}.log",
    benchmark:
        "results/benchmarks/write_step_log/{arm}/task_{task}.tsv"
    params:
        tag=lambda w: w.arm.removeprefix("drill_"),
        code=code_digest("write_step_log.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Writing the step log of {wildcards.arm}, task {wildcards.task}"
    script:
        "../scripts/write_step_log.py"


rule derive_bounds:
    """Derive the predicates' bounds from clean episodes that the drills do not use."""
    input:
        unpack(tables_of_reference),
    output:
        **reported({"bounds": "results/drills/bounds.json"}, "bounds", "Drills"),
    log:
        "results/logs/derive_bounds.log",
    benchmark:
        "results/benchmarks/derive_bounds.tsv"
    params:
        code=lambda w: code_digest("derive_bounds.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Deriving the bounds of the predicates"
    script:
        "../scripts/derive_bounds.py"


rule diagnose_drills:
    """Evaluate the predicates on each episode; count what they say of each drill and of clean runs."""
    input:
        **drill_tables(DRILL_ARMS),
        bounds="results/drills/bounds.json",
    output:
        **reported({"diagnosis": "results/drills/diagnosis.json"}, "diagnosis", "Drills"),
    log:
        "results/logs/diagnose_drills.log",
    benchmark:
        "results/benchmarks/diagnose_drills.tsv"
    params:
        arms=DRILL_ARMS,
        code=lambda w: code_digest("diagnose_drills.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Diagnosing the drills"
    script:
        "../scripts/diagnose_drills.py"


rule index_drill_episodes:
    """Show every episode by arm, and every start with its end in the clean run and in every drill."""
    input:
        episodes=[f"results/tables/{arm}/episodes.parquet" for arm in DRILL_ARMS],
        rounds=[f"results/tables/{arm}/rounds.parquet" for arm in DRILL_ARMS],
        sheets=sheet_files(DRILL_ARMS),
    output:
        **reported({"page_index": "reports/episodes/drills.html"}, "index", "Drills"),
    log:
        "results/logs/index_drill_episodes.log",
    benchmark:
        "results/benchmarks/index_drill_episodes.tsv"
    params:
        arms=DRILL_ARMS,
        report="../drills.html",
        code=code_digest("index_episodes.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Listing the episodes of the drills"
    script:
        "../scripts/index_episodes.py"


rule render_drills:
    """Show which drill which predicate tells from the clean run, after how many episodes, and with what false alarms."""
    input:
        **drill_tables(DRILL_ARMS),
        sheets=sheet_files(DRILL_ARMS),
        pages=page_files(DRILL_ARMS),
        page_index="reports/episodes/drills.html",
        logs=[file for arm in DRILL_ARMS for file in shard_inputs(arm, "steps.jsonl")],
        bounds="results/drills/bounds.json",
        diagnosis="results/drills/diagnosis.json",
        notebook="notebooks/drills.ipynb",
    output:
        **reported({"notebook": "reports/drills.ipynb", "html": "reports/drills.html"}, "drills", "Drills"),
    log:
        "results/logs/render_drills.log",
    benchmark:
        "results/benchmarks/render_drills.tsv"
    params:
        arms=DRILL_ARMS,
        grids={},
        code=lambda w: code_digest("render_report.py", notebook="drills"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Rendering reports/drills.html"
    script:
        "../scripts/render_report.py"
