# Reports: notebooks executed with the tables as parameters; each HTML is one file that needs no network. Beside them
# the pages of the episodes, to which their numbers link; reports/ can be moved as a whole.
#
# REQUIRED INPUTS
#   notebooks/{chapter}.ipynb, notebooks/final.ipynb
#   results/tables/, results/summaries/, results/profile/, results/claims/, results/environments/
#   results/rollouts/{arm}/task_*/sheets.parquet, with the films beside them
#   results/datasets/          sets of demonstrations, where the config names any
#   resources/published/       published figures, to stand beside ours
# OUTPUTS
#   reports/{baseline,profiling,robustness,guard,clock,claims}.{ipynb,html}
#   reports/final.{ipynb,html}
#   reports/episodes/index.html
#   reports/episodes/{arm}/index.html    (an episode's page and film beside it: reports/episodes/{arm}/*.html, videos/)
# Another name of the report (config: report: lift) gives reports/lift.*, lift-{chapter}.* and episodes/lift.html.


rule write_episode_pages:
    """Write a page for each of an arm's episodes, and the list of them."""
    input:
        **table_files("results/tables/{arm}"),
        sheets=lambda w: shard_inputs(ARMS[w.arm], "sheets.parquet"),
    output:
        **reported({"pages": "reports/episodes/{arm}/index.html"}, "episodes", "Reports", arm="{arm}"),
    log:
        "results/logs/write_episode_pages/{arm}.log",
    benchmark:
        "results/benchmarks/write_episode_pages/{arm}.tsv"
    params:
        upwards=upwards_of,
        code=code_digest("write_episode_pages.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Writing the episodes of {wildcards.arm}"
    script:
        "../scripts/write_episode_pages.py"


rule index_episodes:
    """Show every episode by arm, and every start with its end in every arm."""
    input:
        episodes=[f"results/tables/{file_name(arm)}/episodes.parquet" for arm in EXPERIMENT.arms],
        rounds=[f"results/tables/{file_name(arm)}/rounds.parquet" for arm in EXPERIMENT.arms],
        summaries=[f"results/summaries/{file_name(arm)}.json" for arm in EXPERIMENT.arms],
        sheets=sheet_files(EXPERIMENT.arms),
    output:
        **reported({"page_index": FILES.page_index}, "index", "Reports"),
    log:
        f"results/logs/{FILES.job('index_episodes')}.log",
    benchmark:
        f"results/benchmarks/{FILES.job('index_episodes')}.tsv"
    params:
        arms=lambda w: list(EXPERIMENT.arms),
        report=os.path.relpath(FILES.page, Path(FILES.page_index).parent),
        code=code_digest("index_episodes.py"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Listing the episodes of all arms"
    script:
        "../scripts/index_episodes.py"


rule render_chapter:
    """Execute one chapter's notebook on the arms that it shows, and export it."""
    input:
        unpack(lambda w: chapter_files(w.chapter)),
        notebook="notebooks/{chapter}.ipynb",
    output:
        **reported(
            {"notebook": FILES.chapter("{chapter}", ".ipynb"), "html": FILES.chapter("{chapter}")},
            "chapter",
            "Reports",
            chapter="{chapter}",
        ),
    log:
        f"results/logs/{FILES.chapter_job('{chapter}')}.log",
    benchmark:
        f"results/benchmarks/{FILES.chapter_job('{chapter}')}.tsv"
    params:
        arms=lambda w: EXPERIMENT.arms_of_chapter(w.chapter),
        grids=lambda w: EXPERIMENT.grid_cells(EXPERIMENT.arms_of_chapter(w.chapter)),
        success=SUCCESS,
        code=lambda w: code_digest("render_report.py", notebook=w.chapter),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        f"Rendering {FILES.chapter('{wildcards.chapter}')}"
    script:
        "../scripts/render_report.py"


rule render_final:
    """Bring the chapters together: headline, claim matrix, success, routes, latency, guard, failures."""
    input:
        **evidence_files(),
        sheets=sheet_files(EXPERIMENT.arms),
        datasets=dataset_files(".json"),
        dataset_sheets=dataset_files(".jpg"),
        pages=page_files(EXPERIMENT.arms),
        page_index=FILES.page_index,
        claims=FILES.claims,
        chapters=[FILES.chapter(chapter) for chapter in EXPERIMENT.chapters],
        notebook="notebooks/final.ipynb",
    output:
        **reported({"notebook": FILES.page.replace(".html", ".ipynb"), "html": FILES.page}, "final", "Reports"),
    log:
        f"results/logs/{FILES.job('render_final')}.log",
    benchmark:
        f"results/benchmarks/{FILES.job('render_final')}.tsv"
    params:
        arms=lambda w: list(EXPERIMENT.arms),
        grids=lambda w: EXPERIMENT.grid_cells(),
        success=SUCCESS,
        code=code_digest("render_report.py", notebook="final"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        f"Rendering {FILES.page}"
    script:
        "../scripts/render_report.py"
