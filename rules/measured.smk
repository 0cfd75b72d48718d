# Measured: figures that no episode has, one measurement a file, each only where `measured:` of the config has its key.
#
# REQUIRED INPUTS
#   none: what is learned from ships with scikit-learn or is drawn from the seed
# OUTPUTS
#   results/measured/{substrate}.json     the core of fluid on digits, moving digits, volumes


def substrate_of(wildcards):
    """The name of a substrate; where the config does not list it nothing is planned."""
    name = wildcards.substrate
    if name not in EXPERIMENT.measured.substrate:
        sys.exit(
            f"error: config: measured.substrate lacks {name}: add measured: {{substrate: [{name}]}} to config.yaml"
        )
    return name


rule measure_substrate:
    """Train the core and its controls on one of the substrates and compare them on what was held out."""
    output:
        measurement="results/measured/{substrate}.json",
    log:
        "results/logs/measure_substrate/{substrate}.log",
    benchmark:
        "results/benchmarks/measure_substrate/{substrate}.tsv"
    wildcard_constraints:
        substrate="digits|moving|volumes",
    params:
        substrate=substrate_of,
        code=code_digest("measure_substrate.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Measuring the core on {wildcards.substrate}"
    script:
        "../scripts/measure_substrate.py"
