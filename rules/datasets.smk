# Datasets: what a set of demonstrations holds, for the report's chapter "Data"; only sets that the config names.
#
# REQUIRED INPUTS
#   datasets.{dataset}.path of the config    a LeRobot set or one to train on, read where it is
# OUTPUTS
#   results/datasets/{dataset}.json       episodes, lengths, statistics of states and actions, what loaders refuse
#   results/datasets/{dataset}.jpg        first and last pictures of some episodes


rule summarise_dataset:
    """Read a whole set of demonstrations once, every picture included."""
    output:
        record="results/datasets/{dataset}.json",
        sheet="results/datasets/{dataset}.jpg",
    log:
        "results/logs/summarise_dataset/{dataset}.log",
    benchmark:
        "results/benchmarks/summarise_dataset/{dataset}.tsv"
    wildcard_constraints:
        dataset=one_of(EXPERIMENT.datasets),
    params:
        dataset=lambda w: EXPERIMENT.datasets[w.dataset].model_dump(mode="json"),
        files=files_of_dataset,
        code=code_digest("summarise_dataset.py"),
    threads: 1
    conda:
        "../envs/libero.yaml"
    message:
        "Summarising the demonstrations of {wildcards.dataset}"
    script:
        "../scripts/summarise_dataset.py"
