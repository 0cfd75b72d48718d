# Robots: policies of one or several robots, trained from demonstrations of each.
#
# REQUIRED INPUTS
#   config: policies.{policy}.train                 which robots, how many demonstrations of each, from what it begins
#   results/artifacts/{of}/base/manifest.json       the policy that training begins from, if any
# OUTPUTS
#   results/lift/robots/{robot}/demos.hdf5          demonstrations of one robot, as many as a policy asks for at most
#   results/artifacts/{policy}/base/                the policy, served as any artifact
#   results/measured/train_{policy}.json            robots, frames, steps, seconds
#   (results/lift/robots/runs/ has what is under way: a run that was killed goes on)
ROBOTS = {robot: max(t.robots.get(robot, 0) for t in TRAINED.values()) for t in TRAINED.values() for robot in t.robots}


rule record_robot_demonstrations:
    """Record the scripted expert with one robot; killed or asked for more, it goes on with the next part."""
    output:
        demonstrations="results/lift/robots/{robot}/demos.hdf5",
    wildcard_constraints:
        robot=one_of(ROBOTS),
    log:
        "results/logs/record_robot_demonstrations/{robot}.log",
    benchmark:
        "results/benchmarks/record_robot_demonstrations/{robot}.tsv"
    params:
        demonstrations=lambda w: ROBOTS[w.robot],
        code=code_digest("record_robot_demonstrations.py"),
    threads: 1
    conda:
        "../envs/libero.yaml"
    message:
        "Recording demonstrations of {wildcards.robot}"
    script:
        "../scripts/record_robot_demonstrations.py"


rule train_robots:
    """Train a policy from demonstrations of its robots, and put it where an arm takes it from."""
    input:
        demonstrations=demonstrations_of,
        parent=trained_from,
    output:
        manifest="results/artifacts/{policy}/base/manifest.json",
        record="results/measured/train_{policy}.json",
    wildcard_constraints:
        policy=one_of(TRAINED),
    log:
        "results/logs/train_robots/{policy}.log",
    benchmark:
        "results/benchmarks/train_robots/{policy}.tsv"
    params:
        train=lambda w: TRAINED[w.policy].model_dump(mode="json"),
        code=code_digest("train_robots.py"),
    threads: 1
    conda:
        "../envs/model.yaml"
    message:
        "Training {wildcards.policy}"
    script:
        "../scripts/train_robots.py"
