# FLASHTrail: from a public checkpoint to reports/final.html. The design is in docs/DESIGN.md, the workflow in
# docs/workflow.md; every rule file opens with what it needs and what it gives.
from snakemake.utils import min_version

min_version("9.20")


# First: it reads config.yaml by itself and says in one line what is wrong with it.
include: "rules/common.smk"


configfile: "config.yaml"


include: "rules/environments.smk"
include: "rules/checkpoints.smk"
include: "rules/serving.smk"
include: "rules/rollouts.smk"
include: "rules/profile.smk"
include: "rules/measured.smk"
include: "rules/corrections.smk"
include: "rules/robots.smk"
include: "rules/datasets.smk"
include: "rules/evidence.smk"
include: "rules/reports.smk"
include: "rules/drills.smk"
include: "rules/checkup.smk"


rule all:
    default_target: True
    input:
        FILES.page,


# Seconds each, and the network: on a cluster these run where snakemake runs, all others are submitted.
localrules:
    all,
    probe_checkpoints,
    fetch_checkpoint,
    merge_shards,
    evaluate_claims,
    judge_checkup,
    write_step_log,
    derive_bounds,
    diagnose_drills,
    write_episode_pages,
    index_episodes,
    index_drill_episodes,
    render_chapter,
    render_final,
    render_drills,
    render_checkup,
