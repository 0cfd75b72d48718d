"""``flashtrail audit``: check a bundle against its own records. One line a check; exit code 1 if one fails."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from flashtrail.base.errors import UserError
from flashtrail.record import archive, conclusions, manifest
from flashtrail.record import checks as questions
from flashtrail.record.checks import Check
from flashtrail.record.run import ABOUT, LOGS, PARTS, Run
from flashtrail.report import early

_SHOWN = 5
_NO_RUN = (
    f"no finished part of a run ({', '.join(PARTS)}) has a record in {LOGS}: get the bundle "
    "again, or finish the run with make report and bundle it again"
)
_BEFORE_A_RERUN = ("checksums", "digest")  # what has to hold before anything of a bundle is run


def checks(run: Run, digest: str | None = None) -> Iterator[Check]:
    """Yield every check of a bundle in order; `digest` is the manifest's own, as it was published elsewhere."""
    yield _guarded("checksums", lambda: questions.checksums(run))
    if digest is not None:
        yield _guarded("digest", lambda: questions.as_published(run, digest))
    if not run.finished:  # every further question would say so again
        yield Check("run", "", [_NO_RUN])
        return
    if early.is_early(run.path(run.outputs.page)):
        yield Check("report", "", [f"{run.outputs.page} is the page of a run that had not ended"])
    for name, question in (
        ("row digests", questions.row_digests),
        ("RO-Crate", questions.described),
        ("engine's record", questions.engine_record),
        ("config", questions.config_agrees),
        ("ledgers", questions.ledgers),
        ("integrality", questions.integrality),
    ):
        yield _guarded(name, lambda ask=question: ask(run))  # type: ignore[misc]
    for name, several in (
        ("tables", questions.merged),
        ("summaries", questions.summarised),
        ("verdicts", questions.verdicts),
        ("drills and checkup", _concluded),
    ):
        try:
            yield from several(run)
        except Exception as error:
            yield _broken(name, error)


def _concluded(run: Run) -> Iterator[Check]:
    """Yield a check for each part that the run has beside the report."""
    for part, question in conclusions.QUESTIONS.items():
        if part in run.parts:
            yield _guarded(part, lambda ask=question: ask(run))  # type: ignore[misc]


def _guarded(name: str, ask: object) -> Check:
    """Return a check's answer; what cannot even be read is a failed check, not the end of the audit."""
    try:
        return ask()  # type: ignore[operator,no-any-return]
    except Exception as error:  # a stranger's file may raise anything
        return _broken(name, error)


def _broken(name: str, error: Exception) -> Check:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    problem = (
        str(error) if isinstance(error, UserError) else f"a record is not what flashtrail bundle writes ({reason})"
    )
    return Check(name, "could not be checked", [problem])


def report(check: Check) -> bool:
    """Print a check as one line, with the first problems by name; return whether all is well."""
    if not check.problems:
        print(f"ok    {check.name}: {check.detail}", flush=True)
        return True
    shown = "; ".join(check.problems[:_SHOWN])
    more = f"; and {len(check.problems) - _SHOWN} more" if len(check.problems) > _SHOWN else ""
    print(f"FAIL  {check.name}: {shown}{more}", flush=True)
    return False


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add("bundle", type=Path, help="a bundle: its directory or its zip")
    add("--digest", metavar="SHA256", help="the digest printed when it was made, kept elsewhere")
    add("--rerun", metavar="SHARE", help="rerun a random sample of the episodes and compare: 5%% or a number")
    add("--seed", type=int, default=0, help="which sample (default: 0)")
    add("--artifacts", type=Path, metavar="DIR", help="results/artifacts, where the bundle has no weights")
    add("--python", type=Path, metavar="FILE", help="model environment's interpreter (default: this checkout's)")


def run(arguments: argparse.Namespace) -> int:
    """Audit a bundle; 0 if every check passes, 1 if one does not."""
    if arguments.rerun is not None:
        from flashtrail.record import sample

        sample.size(arguments.rerun, 1)  # report a malformed --rerun before the checks
    with tempfile.TemporaryDirectory(prefix="flashtrail-audit-") as scratch:
        given = arguments.bundle
        bundle = Run(archive.unpack(given, Path(scratch)) if given.is_file() else given)
        _is_bundle(bundle, given)
        _files_only(bundle)
        if note := questions.other_code(bundle):
            print(note)
        checked = list(_reported(checks(bundle, arguments.digest)))
        if arguments.rerun is not None and bundle.finished:
            checked += _reported(_rerun(bundle, arguments, [check.name for check in checked if check.problems]))
    well = [not check.problems for check in checked]
    failed = well.count(False)
    print(f"{len(well) - failed} of {len(well)} checks passed", file=sys.stdout if not failed else sys.stderr)
    return int(failed > 0)


def _reported(checked: Iterator[Check]) -> Iterator[Check]:
    for check in checked:
        report(check)
        yield check


def _rerun(bundle: Run, arguments: argparse.Namespace, failed: Sequence[str]) -> Iterator[Check]:
    """Yield the checks of a rerun; of a bundle that is not what its manifest says, nothing is run."""
    from flashtrail.record import replay, sample

    if changed := [name for name in _BEFORE_A_RERUN if name in failed]:
        yield Check("rerun", "", [f"nothing of this bundle was run, since its {' and '.join(changed)} failed"])
        return
    try:
        here = replay.Here(bundle.root, arguments.artifacts, arguments.python)
        yield from sample.rerun(bundle, arguments.rerun, arguments.seed, here)
    except Exception as error:
        yield _broken("rerun", error)


def _is_bundle(bundle: Run, path: Path) -> None:
    """UserError for a folder that is not a bundle, instead of one failed check after another."""
    if not any((bundle.root / name).exists() for name in (manifest.NAME, ABOUT)):
        raise UserError(f"{path} is not a bundle: it has no {manifest.NAME}; make one with flashtrail bundle")


def _files_only(bundle: Run) -> None:
    """UserError for a bundle with anything but files and folders: a link leads elsewhere, a pipe never ends."""
    for path in bundle.root.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is neither a file nor a folder: a bundle has no links, pipes or devices")
