"""``flashtrail reports``: one page over all reports of a directory, and what became of the source documents' claims.

A report is listed by what its own page says first. A claim is quoted from where its source printed it (claims.yaml,
resources/published/), beside the verdict that was computed here and where its evidence stands. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import published
from flashtrail.claims.campaign import Campaign
from flashtrail.experiment import report_files
from flashtrail.experiment.report_files import ReportFiles
from flashtrail.report import cards, checkup_chapter, claims_chapter, count_links, drills_chapter, early, layout, page
from flashtrail.report.page import Html
from flashtrail.statistics.wording import DASH, listed, plural

FOOTER = "Made by FLASHTrail from the reports of this directory and the verdicts that they rest on."
_FILES = ("lift", "fluid", "deployment")  # sources with a claims file and a profile of their own
_APART = {
    "Y": "corrections",
    "J": "robots",
}  # claims of the source `deployment` with a file of their own, by their letter
_BESIDE = ("drills", "checkup", "report")  # after the experiments' own reports, before chapters
_SAID = [re.compile(rf'<p class="{kind}">(.*?)</p>', re.DOTALL) for kind in ("said(?: long)?", "line note")]
_TAGS = re.compile(r"<[^>]+>")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add(
        "directory", type=Path, nargs="?", default=Path("reports"), metavar="DIR", help="the reports (default: reports)"
    )
    add(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="what they were made of (default: results)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write DIR/index.html and say how much is on it."""
    reports = write(arguments.directory, arguments.results)
    print(f"{arguments.directory / 'index.html'}: {plural(reports, 'report')}")
    return 0


def write(directory: Path, results: Path) -> int:
    """Write the page and return how many reports it lists; UserError where there is none."""
    judged = list(report_files.judged(results))
    entries = [entry for path in _reports(directory, judged) if (entry := _entry(directory, path))]
    if not entries:
        raise UserError(f"{directory} has no report: run `make report`, or `flashtrail report-run` on an imported run")
    runs = [_campaign(directory, results, files) for files in judged or [ReportFiles()]]
    heads = {"report": "Report", "said": "Says first", "written": "Written (UTC)"}
    body = page.join(
        page.header(
            "Reports", f"{plural(len(entries), 'report')}, and the claims of their source documents.", Html("")
        ),
        page.table(entries, heads, caption="Reports of this directory", stacked=True),
        page.heading("What the sources claim, and what was found", anchor="sources"),
        *_matrix(runs),
    )
    with provenance.write_atomic(directory / "index.html") as target:
        target.write_text(layout.document("FLASHTrail: reports", body, FOOTER), encoding="utf-8")
    return len(entries)


def _reports(directory: Path, judged: Sequence[ReportFiles]) -> list[Path]:
    """Return the pages: those of runs here, then their chapters, then imported runs in directories of their own."""
    own = [path for path in directory.glob("*.html") if path.name != "index.html" and path.is_file()]
    first = list(dict.fromkeys([report_files.FINAL, *(files.report for files in judged), *_BESIDE]))
    own.sort(key=lambda path: (path.stem not in first, first.index(path.stem) if path.stem in first else 0, path.stem))
    return own + sorted(path for path in directory.glob("*/report.html") if path.is_file())


def _entry(directory: Path, path: Path) -> dict[str, Any] | None:
    """Return a report's title as a link, what it says first, and when it was written; None for another's page."""
    text = path.read_text(encoding="utf-8", errors="replace")
    title = re.search(r"<title>(?:FLASHTrail: )?(.*?)</title>", text)
    said = next((match for kind in _SAID if (match := kind.search(text))), None)
    if title is None or 'name="generator" content="FLASHTrail"' not in text[:4000]:
        return None
    words = unescape(" ".join(_TAGS.sub("", said[1] if said else "").split()))
    place = path.relative_to(directory).as_posix()
    written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return {
        "report": page.link(unescape(title[1]), place),
        "said": "a run under way"
        if early.is_early(path)
        else count_links.in_text(words, [partial(page.link, target=place)]),
        "written": DASH if early.is_early(path) else written.strftime("%Y-%m-%d %H:%M"),
    }


# --- the claims of the source documents ---


def _campaign(directory: Path, results: Path, own: ReportFiles) -> Campaign:
    """Return the verdicts of a report, with the pages of the episodes that they count."""
    chapter, index = (directory / Path(file).relative_to("reports") for file in (own.chapter("claims"), own.page_index))
    there = {
        "claims": results / Path(own.claims).relative_to("results"),
        "diagnosis": results / "drills/diagnosis.json",
        "checkup": results / "checkup/checkup.json",
        "page_index": index,
        "chapters": chapter,
    }
    lists = {"summaries": results.glob("summaries/*.json"), "pages": directory.glob("episodes/*/index.html")}
    lists |= {"episodes": results.glob("tables/*/episodes.parquet")}
    files = {kind: str(path) for kind, path in there.items() if path.is_file()}
    return Campaign(files | {kind: [str(path) for path in sorted(paths)] for kind, paths in lists.items()})


def _matrix(runs: Sequence[Campaign]) -> Iterator[Html]:
    """One table a source document: its claim in its own words, what was found, where the evidence stands."""
    others = sorted(set(published.DEFAULT.parent.glob("*.yaml")) - {published.DEFAULT})
    figures = published.load_all([published.DEFAULT, *others])
    claims = [(run, claim) for run in runs if run.claims for claim in run.claims["claims"]]
    if not claims:
        yield page.paragraph("No claim was judged here: run `make report`.", "note")
    judged = {claim["id"] for _, claim in claims}
    heads = {"claim": "Claim", "said": "What the source said", "found": "What was found", "evidence": "Evidence"}
    for name, source in figures.sources.items():
        rows = [row for run, claim in claims if (row := _of_claim(run, claim, figures, name))]
        apart = [said for said in figures.said if said.source == name and (_apart(said) or _elsewhere(said, judged))]
        rows += [_of_figure(runs[0], said) for said in apart]
        if rows:
            yield page.heading(source.title, 3, anchor=f"source-{name}")
            yield page.paragraph(f"{source.where}. Policy: {source.policy}; hardware: {source.hardware}.", "note")
            yield page.table(rows, heads, caption=_tally(rows), stacked=True)


def _tally(rows: Sequence[Mapping[str, Any]]) -> str:
    """``14 claims: 6 supported, 3 not tested``."""
    counts = Counter(row["verdict"].replace("_", " ") for row in rows)
    return f"{plural(len(rows), 'claim')}: {', '.join(f'{n} {word}' for word, n in counts.most_common())}"


def _of_claim(
    run: Campaign, claim: Mapping[str, Any], figures: published.Published, source: str
) -> dict[str, Any] | None:
    """Return a claim's row where this source made it: it printed figures of it, or its own words are on record."""
    said = claims_chapter.said(claim, figures, source)
    if claim["test"] == "published" and claim["numbers"].get("reference") == source:
        said = page.join(page.paragraph(claim["statement"]), said)
    if said is None:
        return None
    details = claims_chapter.chapter(run)
    reason = claim["sentence"].removeprefix("Not tested: ").removeprefix("Quoted, not tested: ")
    text = reason if claim["verdict"] == "not_tested" else cards.short(claim) or claim["sentence"]
    found = page.inline(page.badge(claim["verdict"]), ": ", count_links.of_claim(run, claim, text, details))
    evidence = page.link(claim["id"], f"{details}#{claim['id']}") if details else claim["id"]
    row = {"claim": f"{claim['id']}: {claim['title']}", "said": said, "found": found, "evidence": evidence}
    return row | {"verdict": claim["verdict"]}


def _apart(said: published.Said) -> bool:
    """Whether a printed figure is a claim beside a claims file: a drill's, the checkup's, or an untested one."""
    return bool(said.untested) or any(user == "checkup" or user.startswith("drills/") for user in said.used_by)


def _elsewhere(said: published.Said, judged: Container[str]) -> bool:
    """Whether a printed figure is a claim of another document's file, and this run has judged another one."""
    return said.source in _FILES and not any(user in judged for user in said.used_by)


def _of_figure(run: Campaign, said: published.Said) -> dict[str, Any]:
    """Return the row of a claim that a drill or the checkup tries, or that nothing has tried."""
    drill = next((user.removeprefix("drills/") for user in said.used_by if user.startswith("drills/")), None)
    reason, found, evidence = said.untested, None, None
    if drill:
        reason = "no drill was run here (make drills)"
        if run.files("diagnosis"):
            found, evidence = drills_chapter.finding(run, drill), page.link(drill, "drills.html")
    elif said.source in _FILES and not reason:
        own = _APART.get(said.used_by[0][0], said.source)
        reason = f"not a claim of this run: {listed(said.used_by)} of claims-{own}.yaml (make {own})"
    elif not reason:
        reason = "no checkup was run here (make checkup)"
        if run.checkup:
            ours = partial(page.link, target="episodes/checkup/index.html")
            words = count_links.in_text(run.checkup["sentence"], [ours, partial(count_links.apart, what="published")])
            verdict = run.checkup["verdict"]
            found = page.inline(checkup_chapter.badge(verdict) if verdict else page.badge("not_tested"), " ", words)
            evidence = page.link("checkup", "checkup.html")
    quoted = page.inline(claims_chapter.quoted(f"\u201c{said.value}\u201d "), page.code(", ".join(said.where)))
    if said.rows_give:
        quoted = page.join(
            quoted, page.paragraph(claims_chapter.quoted(f"Its own rows give {said.rows_give}."), "note")
        )
    verdict = "not_tested" if found is None else "tried by drills or checkup"
    found = found or page.inline(page.badge("not_tested"), f": {reason}.")
    return {"claim": said.figure, "said": quoted, "found": found, "evidence": evidence, "verdict": verdict}
