# Reports: notebooks executed with the tables as parameters; each HTML is one file that needs no network.
#
# REQUIRED INPUTS
#   notebooks/{chapter}.ipynb, notebooks/final.ipynb
#   results/tables/, results/summaries/, results/profile/, results/claims/, results/environments/
#   resources/published/       published figures, to stand beside ours
# OUTPUTS
#   reports/{baseline,profiling,robustness,guard,clock,claims}.{ipynb,html}
#   reports/final.{ipynb,html}


rule render_chapter:
    """Execute one chapter's notebook on the arms that it shows, and export it."""
    input:
        unpack(lambda w: chapter_files(w.chapter)),
        notebook="notebooks/{chapter}.ipynb",
    output:
        notebook="reports/{chapter}.ipynb",
        html="reports/{chapter}.html",
    log:
        "results/logs/render_chapter/{chapter}.log",
    benchmark:
        "results/benchmarks/render_chapter/{chapter}.tsv"
    params:
        arms=lambda w: arms_of_chapter(w.chapter),
        grids=lambda w: EXPERIMENT.grid_cells(arms_of_chapter(w.chapter)),
        code=lambda w: code_digest("render_report.py", notebook=w.chapter),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Rendering reports/{wildcards.chapter}.html"
    script:
        "../scripts/render_report.py"


rule render_final:
    """Bring the chapters together: headline, claim matrix, success, routes, latency, guard, failures."""
    input:
        **evidence_files(),
        sheets=sheet_files(EXPERIMENT.arms),
        claims="results/claims/claims.json",
        environments=["results/environments/model.json", "results/environments/libero.json"],
        chapters=expand("reports/{chapter}.html", chapter=CHAPTERS),
        notebook="notebooks/final.ipynb",
    output:
        notebook="reports/final.ipynb",
        html="reports/final.html",
    log:
        "results/logs/render_final.log",
    benchmark:
        "results/benchmarks/render_final.tsv"
    params:
        arms=list(EXPERIMENT.arms),
        grids=EXPERIMENT.grid_cells(),
        code=code_digest("render_report.py", notebook="final"),
    threads: 1
    conda:
        "../envs/report.yaml"
    message:
        "Rendering reports/final.html"
    script:
        "../scripts/render_report.py"
