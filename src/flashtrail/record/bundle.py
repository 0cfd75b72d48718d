"""``flashtrail bundle``: one directory with everything that a stranger needs to check a finished run, and a zip of it.

Keeps the run's relative paths; adds what the engine says of the run (`engine`), a digest of every row (`rows`), an
RO-Crate (`crate`) and checksums (`manifest`), then audits the result: a bundle that does not pass is not left behind.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashtrail import __version__
from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import file_name
from flashtrail.experiment import config, progress
from flashtrail.record import audit, crate, manifest, private, rows, snakemake_record
from flashtrail.record.run import ABOUT, PARTS, SHARD_FILES, Run
from flashtrail.report import early
from flashtrail.tables.pictures import SENT

CHECKOUT = provenance.PACKAGE_ROOT.parents[1]
WEIGHTS_BYTES = 64 << 20  # artifacts up to this size travel along, so that episodes can be rerun from the bundle alone
_CODE = (
    "src",
    "rules",
    "scripts",
    "notebooks",
    "profiles",
    "envs",
    "resources/published",
    "resources/drills",
    "resources/measured",
)
_FILES = ("Snakefile", "Makefile", "pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "config.yaml")
_RECORDS = (
    "results/tables/*/*.parquet",
    "results/summaries/*.json",
    "results/claims/*.json",
    "results/claims/*.parquet",
    "results/drills/*.json",
    "results/checkup/*.json",
    "results/profile/*/*.parquet",
    "results/profile/*/*.json",
    "results/smoke/*/*.json",
    "results/smoke/*/*.parquet",
    "results/checkpoints/*/*.json",
    "results/artifacts/*/*/manifest.json",
    "results/parity/*.json",
    "results/measured/*.json",
    "results/scaling/rows.parquet",
    "results/datasets/*.json",
    "results/datasets/*.jpg",
    "results/kernels/*/*.json",
    "results/environments/model.json",  # handle.json names this machine's interpreter
    "results/environments/**/libero.json",
    "results/benchmarks/**/*.tsv",
    "results/logs/**/*",
    "reports/**/*.html",
    "reports/*.ipynb",
    f"{snakemake_record.METADATA}/**/*",
)
_LEFT_OUT = ("__pycache__", ".egg-info", ".ipynb_checkpoints", ".partial", progress.FILE)
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Settings:
    """What goes into a bundle. `profile`: the Snakemake profile of the run; None leaves out what the engine says."""

    profile: str | None = "profiles/local"
    videos: bool = False
    weights_bytes: int = WEIGHTS_BYTES


def build(root: str | Path, out: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Bundle the finished run in `root` as directory `out` and ``out.zip``; return record/bundle.json with the digest.

    Raises UserError for a run that is not finished or contradicts itself, naming what; then nothing is left behind.
    """
    settings, target = settings or Settings(), Path(out)
    run = Run(root, own=True, report=_report(Path(root), settings.profile))
    if target.exists() and not (target / manifest.NAME).is_file():
        raise UserError(f"{target} exists and is not a bundle: give another --out, or remove it")
    with provenance.write_atomic(target) as staged:
        staged.mkdir()
        chosen = _chosen(run, settings)
        for file in chosen:
            (staged / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run.path(file), staged / file)
        about = _about(run, settings, staged) | {"cleaned": _clean(run, staged, chosen)}
        provenance.json_dump(about, staged / ABOUT)
        rows.write_digests(staged, [f for f in chosen if f.endswith(".parquet")])
        bundle = Run(staged)
        inputs = ["config.yaml", run.evaluation["input"]["claims"]]
        crate.write(staged, list(bundle.files()), "FLASHTrail run", inputs, _results(run))
        about["digest"] = manifest.write(staged, bundle.files())
        failed = [check for check in audit.checks(bundle) if check.problems]
        if failed:
            text = f"{failed[0].name}: {failed[0].problems[0]}"
            raise UserError(f"this run does not pass its own audit: {text}{_remedy(run, text)}")
    _zip(target)
    return about


def _clean(run: Run, bundle_dir: Path, chosen: Sequence[str]) -> dict[str, str]:
    """Take what is personal out of a bundle's texts; return the SHA-256 that cleaned files had, as jobs read them.

    UserError where a file that is not to be changed, of code or of a table, holds any of it.
    """
    code = [f for f in chosen if _is_code(f)]
    ordinary = "\n".join((bundle_dir / f).read_text("utf-8", "replace") for f in code)
    named = (bundle_dir / f for f in chosen if f.endswith((".json", ".yaml")) and not _is_code(f))
    own = private.Private(run.root, ordinary, private.places_in(named))
    cleaned = {}
    for file in Run(bundle_dir).files():
        if not _is_code(file) and (before := private.clean(bundle_dir / file, own)) is not None and file in chosen:
            cleaned[file] = before
        private.check(bundle_dir / file, file, own)
    return cleaned


def _is_code(file: str) -> bool:
    return file in _FILES[:-1] or any(file.startswith(f"{folder}/") for folder in _CODE if folder != "profiles")


def _chosen(run: Run, settings: Settings) -> list[str]:
    """Return the files of the run that are bundled, relative and sorted; UserError for a missing one."""
    needed = [*_FILES, run.evaluation["input"]["claims"], *_results(run)]
    for arm in run.arms:
        needed += [path.relative_to(run.root).as_posix() for path in run.tables(arm).values()]
        needed += [f"{shard.directory}/{name}" for shard in run.shards(arm) for name in SHARD_FILES]
    missing = [file for file in needed if not run.path(file).is_file()]
    early.refuse(run.path(run.outputs.page))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        remedy = _remedy(run, missing[0]) or "; make report, then try again"
        raise UserError(f"{missing[0]}{more} missing: this run is not finished{remedy}")
    files = {*needed, *_under(run.root, [f"{folder}/**/*" for folder in _CODE]), *_under(run.root, _RECORDS)}
    if settings.videos:
        files |= set(_under(run.root, [f"results/rollouts/*/task_*/videos/*{suffix}" for suffix in (".mp4", SENT)]))
    weights = set(_under(run.root, ["results/artifacts/*/*/*"])) - files
    if sum(run.path(file).stat().st_size for file in weights) <= settings.weights_bytes:
        files |= weights
    return sorted(files)


def _results(run: Run) -> list[str]:
    """Return what the finished parts of the run ended in, the report's first."""
    own = {"report": (run.evaluation["output"]["claims"], run.outputs.page)}
    return [file for part in run.parts for file in own.get(part, PARTS[part][1])]


def _remedy(run: Run, text: str) -> str:
    """Return what to do about a part beside the report that is named in a problem; empty where none is."""
    words = set(re.findall(r"\w+", text))
    for part, arms in run.parts.items():
        if part != "report" and words & {part, *arms}:
            return f"; make {part} again, or remove results/{part} to leave that part out"
    return ""


def _under(root: Path, patterns: Iterable[str]) -> list[str]:
    files = [p.relative_to(root) for pattern in patterns for p in root.glob(pattern) if p.is_file()]
    return [f.as_posix() for f in files if not any(part.endswith(_LEFT_OUT) for part in f.parts)]


def _about(run: Run, settings: Settings, bundle_dir: Path) -> dict[str, Any]:
    described: dict[str, Any] = {"profile": None, "up_to_date": None}
    configs = ["config.yaml", *_overlays(run.root, settings.profile)]
    if settings.profile is not None:
        _same_workflow(run.root, settings.profile)
        described = {
            "profile": settings.profile,
            "up_to_date": snakemake_record.describe(run.root, bundle_dir, settings.profile, run.outputs.page),
        }
    sources = provenance.source_files(run.root / "src/flashtrail")
    return {
        "format": "flashtrail-bundle",
        "version": 1,
        "flashtrail": __version__,
        "code": provenance.digest_tree(sources, run.root / "src") if sources else "",
        "commit": _commit(run.root),
        "configs": configs,
        "report": run.outputs.report,
        **described,
    }


def _report(root: Path, profile: str | None) -> str:
    """Return the name of the report that a profile makes."""
    return config.load(root / "config.yaml", *(root / file for file in _overlays(root, profile))).report


def _same_workflow(root: Path, profile: str) -> None:
    """UserError where the engine would execute another workflow than this checkout's: a run's folder is data."""
    if root.resolve() == CHECKOUT:
        return
    for name in ("Snakefile", "rules", "scripts", f"{profile}/profile.yaml", f"{profile}/config.yaml"):
        theirs, ours = (_content(path / name) for path in (root, CHECKOUT))
        if theirs != ours:
            raise UserError(
                f"{root / name} differs from this checkout's and would be executed: bundle from the run's own checkout"
            )


def _content(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    return {p.relative_to(path.parent).as_posix(): provenance.sha256_file(p) for p in files}


def _overlays(root: Path, profile: str | None) -> list[str]:
    """Return the config files that a Snakemake profile adds."""
    if profile is None:
        return []
    profiles = [p for p in (root / profile / "profile.yaml", root / profile / "config.yaml") if p.is_file()]
    if not profiles:
        raise UserError(f"{profile} has no profile.yaml: give the profile of the run, as --profile profiles/local")
    files = documents.mapping(profiles[0], "cores: 2").get("configfile", [])
    return [files] if isinstance(files, str) else [str(file) for file in files]


def _commit(root: Path) -> str:
    """Return the commit of the code, with ``+`` where files differ from it; empty outside of git."""
    if root.resolve() != CHECKOUT:
        return ""  # a repository's own settings name programs
    argv = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(argv, capture_output=True, encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _zip(directory: Path) -> None:
    """Write the directory as a zip beside it; the same files give the same bytes."""
    with (
        provenance.write_atomic(directory.with_name(f"{directory.name}.zip")) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file in Run(directory).files():
            entry = zipfile.ZipInfo(f"{directory.name}/{file}", _FIRST_DAY)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, (directory / file).read_bytes())


def _beside(run: Run) -> list[str]:
    """Return the arms that were rolled out but belong to no finished part: interrupted, or of an earlier config."""
    return sorted(
        {p.name for p in (run.root / "results/rollouts").glob("*") if p.is_dir()} - {file_name(arm) for arm in run.arms}
    )


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("--root", type=Path, default=Path(), metavar="DIR", help="where the run is (default: here)")
    add("--out", type=Path, default=Path("bundle"), metavar="DIR", help="the bundle (default: bundle, and bundle.zip)")
    add("--profile", default="profiles/local", metavar="DIR", help="the Snakemake profile of the run")
    add("--videos", action="store_true", help="take the films along")
    add("--no-weights", action="store_true", help=f"leave the artifacts out, also below {WEIGHTS_BYTES >> 20} MiB")


def run(arguments: argparse.Namespace) -> int:
    """Build the bundle and print where it is, its size and its digest."""
    settings = Settings(arguments.profile, arguments.videos, 0 if arguments.no_weights else WEIGHTS_BYTES)
    about = build(arguments.root, arguments.out, settings)
    files = list(Run(arguments.out).files())
    size = sum((arguments.out / file).stat().st_size for file in files)
    if about["up_to_date"] is False:
        print("note: code or config changed since this run: make report would run some of it again")
    print(f"{arguments.out}: {len(files)} files, {size / 1e6:.1f} MB, and {arguments.out}.zip; audited")
    counted = ", ".join(f"{len(arms)} of the {part}" for part, arms in Run(arguments.out).parts.items())
    print(f"arms: {counted}")
    if beside := _beside(Run(arguments.root, report=about["report"])):
        print(f"note: {', '.join(beside)}: not part of a finished experiment, neither audited nor rerun")
    print(f"digest {about['digest']}  (keep it elsewhere: flashtrail audit --digest compares)")
    return 0
