"""``flashtrail report-run``: the report on runs that were imported, through the same summaries, claims and notebook."""

from __future__ import annotations

import argparse
import shlex
import shutil
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.base.names import file_name
from flashtrail.claims import published
from flashtrail.imports import writing
from flashtrail.tables import schemas

_PROJECT = provenance.PACKAGE_ROOT.parents[1]


class Report:
    """``flashtrail report-run DIR...``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add = parser.add_argument
        add("runs", type=Path, nargs="*", metavar="DIR", help="what import-run wrote; several are shown side by side")
        add("--out", type=Path, metavar="DIR", help="where the report goes (default: the first DIR)")
        claims = "the claims to judge (default: claims.yaml, where it names an arm or a profile that is there)"
        add("--claims", type=Path, metavar="FILE", help=claims)
        counts = "instead of DIR: policies by the counts that resources/published/NAME.yaml keeps of them"
        add("--published", metavar="NAME", help=counts)
        notebook = _PROJECT / "notebooks" / "final.ipynb"
        add("--notebook", type=Path, default=notebook, metavar="FILE", help="what is rendered (default: final.ipynb)")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Summarise each arm, judge the claims on them, and render the page."""
        from flashtrail.claims import verdicts
        from flashtrail.report import published_page, rendering

        if bool(arguments.published) == bool(arguments.runs):
            raise UserError("give either directories that import-run wrote, or --published NAME")
        if arguments.published:
            published_page.write(arguments.published, arguments.out or Path("reports") / arguments.published)
            return 0
        out = arguments.out or arguments.runs[0]
        rendering.check_notebook(arguments.notebook)
        if arguments.out:
            writing.check_out(out)
            writing.make_directory(out)
        inputs = prepare(arguments.runs, out)
        claims = arguments.claims or _usual_claims(inputs)
        if claims:
            provenance.json_dump(verdicts.evaluate(claims, inputs), out / "claims.json")
            inputs["claims"] = str((out / "claims.json").resolve())
        inputs |= write_pages(inputs, out)
        inputs["repeat"] = repeated_by(arguments.runs)
        rendering.render(arguments.notebook, out / "report.ipynb", out / "report.html", inputs)
        return 0


def repeated_by(runs: list[Path]) -> str:
    """Return the command that makes the report again; of an absolute path the name only: a page tells no machine."""
    return f"flashtrail report-run {shlex.join(root.name if root.is_absolute() else str(root) for root in runs)}"


def _usual_claims(inputs: dict[str, Any]) -> Path | None:
    """Return claims.yaml where any of its claims is about what was imported; else None would be tested."""
    from flashtrail.claims import claims

    path = _PROJECT / "claims.yaml"
    named = {getattr(claim, side, None) for claim in claims.load(path).claims for side in ("arm", "control")}
    return path if inputs["profile"] or named & {*inputs["arms"]} else None


def write_pages(inputs: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the pages of all episodes below `out`; return the inputs by which the report links to them.

    Without episodes nothing is written, and an earlier report's pages are removed.
    """
    from flashtrail.report import episode_browser, episode_pages
    from flashtrail.tables import links

    directory = out.resolve() / links.DIRECTORY
    pages = []
    for number in range(len(inputs["arms"])):
        files = {name: inputs[name][number] for name in schemas.SCHEMAS}
        arm = inputs["arms"][number]
        episode_pages.write_arm(directory / links.directory(arm), files, report="../../report.html")
        pages.append(str(directory / links.directory(arm) / links.INDEX))
    _remove_earlier(directory, {Path(page).parent.name for page in pages})
    index = directory / links.INDEX
    if not pages:
        if index.is_file() and _made(index):
            index.unlink()
        return {}
    episode_browser.write_index(index, inputs, inputs["arms"], report="../report.html")
    return {"pages": pages, "page_index": str(index)}


def _remove_earlier(directory: Path, kept: set[str]) -> None:
    """Remove the pages of arms that are not in this report any more; only what an earlier report wrote."""
    from flashtrail.tables import links

    for index in sorted(directory.glob(f"*/{links.INDEX}")):
        if _made(index) and index.parent.name not in kept and not index.parent.is_symlink():
            shutil.rmtree(index.parent)


def _made(index: Path) -> bool:
    """Return whether a list of episodes was written by a report, not by its reader."""
    from flashtrail.report import episode_pages

    return episode_pages.FOOTER in index.read_text(encoding="utf-8", errors="replace")


def prepare(runs: list[Path], out: Path) -> dict[str, Any]:
    """Write a summary of each arm below `out` and return the inputs of a report: kinds of files and their paths.

    UserError for a directory that is not an import, a duplicate arm, or a second profile: a page judges one.
    """
    from flashtrail.claims import summaries

    inputs: dict[str, Any] = {name: [] for name in (*schemas.SCHEMAS, "summaries", "arms", "profile")}
    for root in runs:
        writing.check_finished(root)
        directories = sorted(path.parent for path in (root / "tables").glob("*/episodes.parquet"))
        profiles = sorted((root / "profile").glob("*/rounds.parquet"))
        if not directories and not profiles:
            raise UserError(
                f"{root} has neither tables/ARM nor profile/NAME: give a directory that flashtrail import-run wrote"
            )
        inputs["profile"] += [str(path.resolve()) for path in profiles]
        for directory in directories:
            files = {name: str((directory / f"{name}.parquet").resolve()) for name in schemas.SCHEMAS}
            arm = _arm(files["episodes"])
            if arm in inputs["arms"]:
                raise UserError(f"arm {arm!r} is in two runs: import one of them with another --arm")
            summary = (out / "summaries" / f"{file_name(arm)}.json").resolve()
            provenance.json_dump(summaries.summarize_arm(**files), summary)
            for name, path in {**files, "summaries": str(summary), "arms": arm}.items():
                inputs[name].append(path)
    inputs["published"] = [str(published.DEFAULT)]
    if len(inputs["profile"]) > 1:
        raise UserError(
            f"{len(inputs['profile'])} profiles ({', '.join(inputs['profile'])}): a report shows one; omit the others"
        )
    return inputs


def _arm(episodes: str) -> str:
    arms = schemas.read_table(episodes, schemas.EPISODES, ["arm"])["arm"].unique().to_pylist()
    if len(arms) != 1:
        raise UserError(f"{episodes} holds {len(arms)} arms, one was expected: import it again")
    return str(arms[0])
