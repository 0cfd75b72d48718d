# Shared by the other files of this directory: the checked experiment, wildcard constraints, input functions, digests.
# Nothing is planned before the config is valid.
import functools
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod
from snakemake_interface_executor_plugins.settings import ExecMode

ROOT = Path(workflow.basedir)
PACKAGE = ROOT / "src" / "flashtrail"
sys.path.insert(0, str(ROOT / "src"))
try:
    from flashtrail import caches
    from flashtrail.base import documents, provenance
    from flashtrail.claims import claims as claim_files, named_files
    from flashtrail.experiment import embodiments, plans, refits
    from flashtrail.policies import facts as policy_facts
    from flashtrail.policies import registry as families
    from flashtrail.experiment import config as experiments
    from flashtrail.experiment.report_files import CHAPTERS
    from flashtrail.experiment.shard import config_digest
    from flashtrail.checkpoints import stores
    from flashtrail.base.errors import UserError
    from flashtrail.base.names import file_name
    from flashtrail.simulators import registry as simulators
except ModuleNotFoundError as missing:
    sys.exit(
        f"error: {missing.name} is missing beside snakemake: run `make setup` and use .venv/bin/snakemake, "
        "or make its environment from envs/workflow.yaml"
    )

# Every job's environment imports the package from here without installing it; rendering needs no display.
os.environ.update(PYTHONPATH=str(ROOT / "src"))
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ.setdefault("MUJOCO_GL", "osmesa"))
caches.settle()
# Snakemake writes its interpreter's path into bash commands as it is: a space or a quote in it would end the word.
# Every job passes here again, with the interpreter's own path.
sys.executable = shlex.quote(sys.executable)


# --- the experiment ---


def checked_experiment():
    """config.yaml, then the profile's overlay, then --config; the first mistake ends the run with one line."""
    settings = workflow.config_settings
    try:
        layers = [documents.mapping(path) for path in ("config.yaml", *settings.configfiles)]
        experiment = experiments.parse(experiments.merge(*layers, settings.config))
        named_files.check(experiment)
        return experiment
    except UserError as error:
        elsewhere = "" if Path("config.yaml").exists() else f": say -d {shlex.quote(str(ROOT))}"
        sys.exit(f"error: {error}{elsewhere}")


def planned_experiment():
    """In a job of a run, what the run was planned as; else what config.yaml says, its plan's name told to every job."""
    settings = workflow.config_settings
    if not workflow.is_main_process:
        try:
            return plans.planned(settings.config, PLANS)
        except UserError as error:
            sys.exit(f"error: {error}")
    experiment = checked_experiment()
    settings.config_args = [*(settings.config_args or []), f"{plans.KEY}={plans.name_of(experiment)}"]
    return experiment


PLANS = Path(".snakemake/flashtrail")  # where every node sees it, beside Snakemake's own record of the run
EXPERIMENT = planned_experiment()
FILES = EXPERIMENT.files  # those of the experiment as a whole, by the name of its report
SUCCESS = claim_files.load(EXPERIMENT.claims).success  # the one that the pages count
if workflow.is_main_process:
    from flashtrail.base import forkserver
    from flashtrail.report import early, live  # not in jobs: they would import jinja2 for nothing
    from flashtrail.rollouts import keeper

    early.remove(Path(FILES.page))  # left by a run that was killed, it would be taken for the report
CHECKUP = experiments.CHECKUP
ARMS = {file_name(arm): arm for arm in EXPERIMENT.all_arms}  # the wildcard {arm} is a name of files
TAKEN = [name for name, policy in EXPERIMENT.policies.items() if policy.artifact]  # a finished one, as it is
CONVERTED = [name for name, policy in EXPERIMENT.policies.items() if policy.candidates]
REFITTED = [name for name, policy in EXPERIMENT.policies.items() if policy.refit]  # another one, trained further
TRAINED = {name: policy.train for name, policy in EXPERIMENT.policies.items() if policy.train}  # from demonstrations


def one_of(names):
    """A wildcard's constraint: one of these names; no name at all where there is none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    policy=one_of(EXPERIMENT.policies),
    arm=one_of(ARMS),
    task=r"\d+",
    chapter=one_of(CHAPTERS),


def refuse_other_reports():
    """A report of another experiment that is there would be taken for an input that nothing has to make."""
    own = {FILES.page, *map(FILES.chapter, CHAPTERS), "reports/drills.html", "reports/checkup.html"}
    for option, word in zip(sys.argv, sys.argv[1:]):
        if option != "--report" and re.fullmatch(r"reports/[^/]+\.html", word) and word not in own:
            sys.exit(f"error: {word}: this config makes {FILES.page}: use the profile that makes the other report")


def plan_without_conda():
    """A dry run plans also where conda is not installed; a real run with --sdm conda still asks for it."""
    dry = any(re.fullmatch(r"--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", word) for word in sys.argv)
    settings = workflow.deployment_settings
    if dry and shutil.which("conda") is None and DeploymentMethod.CONDA in settings.deployment_method:
        settings.deployment_method = set(settings.deployment_method) - {DeploymentMethod.CONDA}
        print("note: conda was not found; planning without looking at its environments", file=sys.stderr)


plan_without_conda()
if workflow.is_main_process:
    refuse_other_reports()


onerror:
    if workflow.exec_mode == ExecMode.DEFAULT:  # not one of its jobs
        print(
            f"Stopped. Kept: the results of {len(list(workflow.dag.finished_jobs))} finished jobs and every finished "
            "episode of the others (results/rollouts/*/*/parts). The same command goes on from there.",
            file=sys.stderr,
        )


def note_profile():
    """Note the profile of this run, by which the report says how to repeat it; one elsewhere on the machine is not."""
    words = [part for word in sys.argv for part in word.split("=", 1)]
    named = [Path(after) for word, after in zip(words, words[1:]) if word == "--profile"]
    if named and not named[-1].is_absolute():
        (PLANS / "profile").write_text(str(named[-1]), encoding="utf-8")
    else:
        (PLANS / "profile").unlink(missing_ok=True)


onstart:
    plans.freeze(EXPERIMENT, PLANS)
    note_profile()
    if workflow.exec_mode == ExecMode.DEFAULT:  # as above
        live.start(workflow, EXPERIMENT)
        if (
            workflow.local_exec
            and not workflow.touch
            and any(job.rule.name == "roll_out_shard" for job in workflow.dag.jobs)
        ):
            arms = EXPERIMENT.all_arms
            tasks = {(EXPERIMENT.suite_of(arm), task) for arm in arms for task in EXPERIMENT.tasks_of(arm)}
            keeper.start(2 * EXPERIMENT.rollout.simulators * len(tasks), *shlex.split(sys.executable))
        if workflow.local_exec and not workflow.touch:  # after the keeper, which names itself to all jobs
            if forks := forkserver.start(*shlex.split(sys.executable)):
                sys.executable = forks.words


# --- digests: what a job depends on beside its input files ---


def family_of(policy):
    """A policy's family: an artifact's manifest names it, a checkpoint is one of pi0; a refit has its parent's."""
    if policy in TRAINED:
        return embodiments.FAMILY
    artifact = EXPERIMENT.artifact(policy)
    try:
        return families.PI0 if artifact is None else families.family_of(Path(artifact))
    except UserError as error:
        sys.exit(f"error: {error}")


def server_modules(policy):
    """The modules of `python -m flashtrail serve` for a policy."""
    return ["__main__.py", "serving/command.py", families.source_of(family_of(policy))]


def shard_modules(policy, suite=None):
    """The modules of a shard: its policy's server (the expert) and its suite's simulator; none: where it is tried."""
    suite = EXPERIMENT.home_of(policy)[0] if suite is None else suite
    expert = EXPERIMENT.policies[policy].expert
    own = [simulators.source_of(suite, simulators.EXPERTS)] if expert else server_modules(policy)
    return [*own, simulators.source_of(suite)]


@functools.cache
def code_digest(script, *modules, notebook=None):
    """A digest over a script and exactly the package modules that it, what it starts and its notebook reach.

    With the files that it starts from, so that a job can tell whether it still runs that code (jobs.py).
    """
    files = [f"scripts/{script}", *(f"src/flashtrail/{module}" for module in modules)]
    if notebook is not None and (ROOT / (file := f"notebooks/{notebook}.ipynb")).exists():
        files.append(file)
    return {"digest": provenance.code_digest(*(ROOT / file for file in files)), "of": files}


def source_digest(policy):
    """Digest of a policy's local source files, so that a retrained policy is noticed; remote ones by name."""
    spec = EXPERIMENT.policies[policy]
    places = [p for p in (*spec.candidates, spec.draft, spec.tokenizer, spec.artifact) if p and "://" not in p]
    return provenance.digest_json({place: _listing(Path(place)) for place in places})


def _listing(place):
    try:  # links are followed, as the probe follows them; what is wrong with a tree is the probe's to say
        files = [place / entry.name for entry in stores.local_entries(place)]
    except (FileNotFoundError, UserError) as error:
        return [[str(place), str(error)]]
    return [[str(f), _content(f)] for f in files]


def _content(file, whole=64 << 20):
    """SHA-256 of a file; of a large one, its size: hashing 12 GB would slow down every plan."""
    size = file.stat().st_size
    return provenance.sha256_file(file) if size <= whole else size


# --- slices of the experiment: a job's params hold what it needs and nothing else ---


def arm_of(wildcards):
    return EXPERIMENT.arm(ARMS[wildcards.arm])


def policy_of(wildcards):
    return EXPERIMENT.policy(wildcards.policy)


def source_of(wildcards):
    """Where a policy comes from and what is declared of its checkpoint, without the settings of its server."""
    spec = policy_of(wildcards)
    return {key: spec[key] for key in ("policy", "candidates", "draft", "tokenizer", *policy_facts.NAMES)}


def engine_of(wildcards):
    """How a policy's server is started: device, dtype, backend, threads, FLASH settings, time limit, perhaps a robot."""
    robot = refits.tried_as(EXPERIMENT, wildcards.policy)
    return {
        **EXPERIMENT.engine(wildcards.policy),
        "flash": EXPERIMENT.flash.model_dump(mode="json"),
        "ready_timeout_s": EXPERIMENT.rollout.server_ready_timeout_s,
        **({"settings": robot} if robot else {}),
    }


def gpus(policy):
    """GPUs that a job with this policy's server takes."""
    return int(EXPERIMENT.policies[policy].device == "cuda")


def devices():
    checked = {EXPERIMENT.checkup.policy} if EXPERIMENT.checkup else set()
    return sorted({EXPERIMENT.policies[name].device for name in {*EXPERIMENT.used_policies, *checked}})


# All cores of this machine, for a job that must be alone; on a cluster the profile's set-threads says how many.
EVERY_CORE = workflow.resource_settings.cores or 1

# --- files ---

TABLES = ["episodes", "rounds", "steps"]


def artifact_of(policy):
    """Handles of a policy's artifact: manifests name and digest all its files."""
    kinds = ["base"] + (["draft"] if EXPERIMENT.policies[policy].draft else [])
    return {kind: f"results/artifacts/{policy}/{kind}/manifest.json" for kind in kinds}


def served(policy):
    """What a policy is served from: its artifact and, where the backend is left open on a GPU, the kernels' verdict."""
    spec = EXPERIMENT.policies[policy]
    examined = spec.device == "cuda" and spec.backend == "auto" and family_of(policy) == families.PI0
    return artifact_of(policy) | ({"kernels": f"results/kernels/{policy}/backend.json"} if examined else {})


def shard_files(directory):
    return table_files(directory) | {"sheets": f"{directory}/sheets.parquet", "ledger": f"{directory}/ledger.json"}


def table_files(directory):
    return {table: f"{directory}/{table}.parquet" for table in TABLES}


def reported(files, caption, category, **labels):
    """A rule's outputs by name, flagged for Snakemake's own report: its caption, a category, labels."""
    kept = {"caption": f"captions/{caption}.rst", "category": category}
    return {name: report(file, labels={**labels, "file": name}, **kept) for name, file in files.items()}


def shard_inputs(arm, name):
    return [f"results/rollouts/{file_name(arm)}/task_{task}/{name}" for task in EXPERIMENT.tasks_of(arm)]


def policy_of_arm(wildcards):
    return EXPERIMENT.all_arms[ARMS[wildcards.arm]].policy


def modules_of_arm(wildcards):
    """The modules of an arm's shards; also its suite's expert, where the policy may hand over to it."""
    arm = ARMS[wildcards.arm]
    suite = EXPERIMENT.suite_of(arm)
    expert = [simulators.source_of(suite, simulators.EXPERTS)] if EXPERIMENT.has_expert(arm) else []
    return [*dict.fromkeys([*shard_modules(policy_of_arm(wildcards), suite), *expert])]


def needs_of_arm(wildcards):
    """What a shard needs of other jobs: little, where no server is started for it."""
    table = EXPERIMENT.replayed(ARMS[wildcards.arm])
    arm = EXPERIMENT.all_arms[ARMS[wildcards.arm]]
    replayed = {"latencies": table} if table else {}
    if EXPERIMENT.server_of(arm):
        return replayed
    if arm.execution.action_stats:
        replayed |= {"action_stats": arm.execution.action_stats}
    policy = policy_of_arm(wildcards)
    smoke = f"results/smoke/{policy}/ledger.json"
    return served(policy) | {"model": "results/environments/handle.json", "smoke": smoke} | replayed


def gpus_of_arm(wildcards):
    """GPUs that a shard takes: none, where no server is started for it."""
    arm = EXPERIMENT.all_arms[ARMS[wildcards.arm]]
    return 0 if EXPERIMENT.server_of(arm) else gpus(arm.policy)


def long_first(wildcards):
    """A shard's priority, 0 to 1: the longer it is expected to run the sooner, so that no core waits for the last one.

    An undisturbed episode under the paused clock mostly ends in success, in a third of the time that others take.
    """
    arm = EXPERIMENT.all_arms[ARMS[wildcards.arm]]
    plain = (
        EXPERIMENT.all_conditions[arm.condition].kind == "none" and ARMS[wildcards.arm] not in EXPERIMENT.running_arms
    )
    work = arm.episodes * arm.repeats * (1 if plain else 3)
    return work / (work + 1)


def smoke_of(wildcards):
    return EXPERIMENT.plain_arm("smoke", wildcards.policy, EXPERIMENT.smoke.episodes)


def profiled_arm(wildcards):
    return EXPERIMENT.plain_arm("profile", wildcards.policy, EXPERIMENT.profile.episodes)


def expected_of(wildcards):
    """The episodes that an arm must have and the plan that they are of: the merge holds the shards to both."""
    arm = arm_of(wildcards)
    keys = ("arm", "policy", "suite", "seed", "init_states", "repeats")
    planned = {
        "config_digest": config_digest(arm),
        "code_digest": code_digest("roll_out_shard.py", *modules_of_arm(wildcards))["digest"],
    }
    return {key: arm[key] for key in keys} | {"tasks": EXPERIMENT.tasks_of(arm["arm"]), "planned": planned}


def artifact_of_arm(wildcards):
    """The manifests of the artifact that an arm's shards must have run on: none, where no server is started."""
    arm = EXPERIMENT.all_arms[ARMS[wildcards.arm]]
    return {} if EXPERIMENT.server_of(arm) else artifact_of(arm.policy)


def evidence_files(arms=None):
    """Everything that claims and the final report are computed from, as lists of files by kind."""
    arms = list(EXPERIMENT.arms) if arms is None else arms
    policies = EXPERIMENT.used_policies
    converted = [policy for policy in policies if policy in CONVERTED]
    kinds = {"refit": REFITTED, "train": TRAINED}
    made = [f"results/measured/{kind}_{p}.json" for kind, own in kinds.items() for p in policies if p in own]
    return {
        **{table: [f"results/tables/{file_name(arm)}/{table}.parquet" for arm in arms] for table in TABLES},
        "summaries": [f"results/summaries/{file_name(arm)}.json" for arm in arms],
        "profile": f"results/profile/{EXPERIMENT.profile.policy}/rounds.parquet",
        "control": f"results/profile/{EXPERIMENT.profile.policy}/control.json",
        "published": f"resources/published/{claim_files.load(EXPERIMENT.claims).published}.yaml",
        "records": [f"results/checkpoints/{policy}/record.json" for policy in converted],
        "parity": [f"results/parity/{policy}.json" for policy in converted],
        "boots": [f"results/smoke/{policy}/boot.json" for policy in policies],
        "smokes": [f"results/smoke/{policy}/ledger.json" for policy in policies],
        "environments": ["results/environments/model.json", FILES.simulators],
        "measured": [*EXPERIMENT.measured.files.values(), *made],
    }


def corrections_of(wildcards):
    """What a refit is trained on beside demonstrations: the corrections of its arms, task by task."""
    arms = EXPERIMENT.policies[wildcards.policy].refit.corrections
    return [
        f"results/corrections/{file_name(arm)}/task_{task}.hdf5" for arm in arms for task in EXPERIMENT.tasks_of(arm)
    ]


def demonstrations_of(wildcards):
    """The demonstrations that a policy trained here learns from, robot by robot."""
    return [f"results/lift/robots/{robot}/demos.hdf5" for robot in TRAINED[wildcards.policy].robots]


def trained_from(wildcards):
    """The manifest of the policy that training begins from, if any."""
    of = TRAINED[wildcards.policy].of
    return [artifact_of(of)["base"]] if of else []


def sheet_files(arms):
    """Contact sheets: straight from the shards, since no table or verdict is computed from a picture."""
    return [file for arm in arms for file in shard_inputs(arm, "sheets.parquet")]


def dataset_files(suffix):
    """The records (.json) or pictures (.jpg) of the sets of demonstrations that the config names."""
    return [f"results/datasets/{name}{suffix}" for name in EXPERIMENT.datasets]


def page_files(arms):
    """Lists of the arms' episodes, to which the numbers of a report link."""
    return [f"reports/episodes/{file_name(arm)}/index.html" for arm in arms]


def drill_tables(arms):
    """What is concluded of drills from: the tables of these arms, as lists of files by kind."""
    return {table: [f"results/tables/{file_name(arm)}/{table}.parquet" for arm in arms] for table in TABLES}


def tables_of_reference(wildcards):
    """The tables of the clean reference; without drills in the config there are none, and nothing is planned."""
    if EXPERIMENT.drills is None:
        sys.exit("error: config: drills is missing: add drills: {policy: ...} to config.yaml")
    return drill_tables(["drill_reference"])


def upwards_of(wildcards):
    """Where an episode's page leads up to, seen from it: the report of its arm and, if it has one, the index of starts."""
    if wildcards.arm == CHECKUP:
        return {"report": "../../checkup.html", "index": None}
    if wildcards.arm in EXPERIMENT.drill_arms:
        return {"report": "../../drills.html", "index": "../drills.html"}
    pages = Path(f"reports/episodes/{wildcards.arm}")
    return {kind: os.path.relpath(file, pages) for kind, file in (("report", FILES.page), ("index", FILES.page_index))}


def episodes_of_checkup(wildcards):
    """The checkup's episodes; without a checkup in the config there are none, and nothing is planned."""
    if EXPERIMENT.checkup is None:
        sys.exit("error: config: checkup is missing: add checkup: {policy: ...} to config.yaml")
    return "results/tables/checkup/episodes.parquet"


def published_key(wildcards):
    """The published figure that the checkup is held to, source/method, or None."""
    return EXPERIMENT.checkup.published or EXPERIMENT.policies[EXPERIMENT.checkup.policy].published


def sheets_of_checkup(wildcards):
    """The contact sheets of the checkup's shard; none where the config has no checkup, which its episodes refuse."""
    return sheet_files([CHECKUP] if EXPERIMENT.checkup else [])


def chapter_files(chapter):
    """What a chapter shows: its arms' tables and summaries, or the profile, or the verdicts."""
    arms = EXPERIMENT.arms_of_chapter(chapter)
    files = evidence_files(arms)
    if chapter == "claims":
        pages = {"pages": page_files(arms), "page_index": FILES.page_index}
        verdicts = {"claims": FILES.claims}
        return verdicts | {kind: files[kind] for kind in ("summaries", "published")} | pages
    chosen = [*TABLES, "summaries", "published"]
    chosen += ["control"] if chapter != "clock" else []  # acceptance always stands beside it
    chosen += ["profile"] if chapter == "profiling" else []
    sheets = {} if chapter == "profiling" else {"sheets": sheet_files(arms)}
    return {kind: files[kind] for kind in chosen} | sheets | {"pages": page_files(arms)}


def scaling_of(wildcards):
    """The sizes of the scaling; without them in the config nothing is planned."""
    if EXPERIMENT.measured.scaling is None:
        sys.exit("error: config: measured.scaling is missing: add measured: {scaling: {}} to config.yaml")
    return EXPERIMENT.measured.scaling.model_dump(mode="json")


def files_of_dataset(wildcards):
    """Digest of the names, sizes and times of a set's files: they may be many gigabytes, and lie outside the run."""
    root = Path(EXPERIMENT.datasets[wildcards.dataset].path)
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    found = ((str(f.relative_to(root)), f.stat()) for f in files if os.path.isfile(f))  # is_file may fail
    return provenance.digest_json(sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in found))


def substrate_of(wildcards):
    """The name of a substrate; where the config does not list it nothing is planned."""
    name = wildcards.substrate
    if name not in EXPERIMENT.measured.substrate:
        sys.exit(
            f"error: config: measured.substrate lacks {name}: add measured: {{substrate: [{name}]}} to config.yaml"
        )
    return name
