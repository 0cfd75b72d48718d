"""``flashtrail cite``: the software, a run and the works whose figures its report quotes, as text and as BibTeX.

What is not recorded is left out; authors and years of others are not guessed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flashtrail import __version__
from flashtrail.base import documents, provenance
from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.record import manifest, reports
from flashtrail.record.papers import add_run, check_out, write
from flashtrail.report import overview
from flashtrail.report.table_formats import escaped
from flashtrail.statistics.wording import integers, listed, plural

_FILE = "CITATION.cff"
_DIGESTS = {"config_digest": "config", "artifact_digest": "artifact", "code_digest": "code"}


class Cite:
    """``flashtrail cite [RUN]``."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's flags."""
        add_run(parser)
        parser.add_argument("--format", choices=("text", "bibtex"), help="one of the two (default: both)")

    @staticmethod
    def run(arguments: argparse.Namespace) -> int:
        """Print or write the citation; without a finished run here, that of the software alone."""
        check_out(arguments.out, arguments.force)
        roots = arguments.runs or [Path()]
        try:
            with reports.opened(roots) as found:
                whole = [run for name, run in found.items() if not reports.is_chapter(name)]
                about, works = facts(whole, roots[0]), _works(whole)
        except UserError:
            if arguments.runs:
                raise
            about, works = {}, {}
        cited = _software(roots[0]), about, works
        forms = {"text": _text, "bibtex": _bibtex}
        chosen = [arguments.format] if arguments.format else list(forms)
        text = "\n".join("\n".join(forms[form](*cited)) + "\n" for form in chosen)
        if arguments.out is None:
            print(text, end="")
        else:
            write(arguments.out, arguments.force, lambda path: path.write_text(text, encoding="utf-8"))
        return 0


def _software(root: Path) -> dict[str, str]:
    """Return what CITATION.cff says, the run's own where it has one: title, authors, version, licence, url."""
    path = next(p for p in (root / _FILE, provenance.PACKAGE_ROOT.parents[1] / _FILE) if p.is_file())
    said = documents.mapping(path, "title: FLASHTrail")
    authors = [
        a.get("name") or f"{a.get('given-names', '')} {a.get('family-names', '')}".strip() for a in said["authors"]
    ]
    found = {"title": said["title"], "author": " and ".join(authors), "version": said.get("version") or __version__}
    found |= {"license": said.get("license"), "url": said.get("repository-code") or said.get("url")}
    return {key: str(value) for key, value in found.items() if value}


def facts(whole: list[Campaign], root: Path) -> dict[str, str]:
    """Return what identifies a run: subject, episodes, seed, days, device, digests, versions."""
    metadata = {arm: entry for run in whole for arm, entry in run.metadata.items()}
    episodes = [row for run in whole for row in run.episodes[["arm", "seed", "started_at"]].to_dict("records")]
    days = sorted({str(row["started_at"])[:10] for row in episodes if isinstance(row["started_at"], str)})
    devices = list(dict.fromkeys(device for run in whole for device in run.devices()))
    found = {
        "run": listed(list(dict.fromkeys(overview.subject(run) for run in whole))),
        "episodes": f"{plural(len(episodes), 'episode')} in {plural(len({row['arm'] for row in episodes}), 'arm')}",
        "seed": integers({int(row["seed"]) for row in episodes}) if episodes else "",
        "date": days[0] if days[:1] == days[-1:] and days else " to ".join(days[:1] + days[-1:]),
        "device": "; ".join(devices),
        **{
            words: _digest({arm: entry.get(key, "") for arm, entry in metadata.items()})
            for key, words in _DIGESTS.items()
        },
        "imported": "; ".join(text for run in whole for text in run.imported),
        "simulated": "data, not evidence about any policy" if any(run.simulated for run in whole) else "",
        "manifest": provenance.sha256_file(root / manifest.NAME) if (root / manifest.NAME).is_file() else "",
        "versions": _versions(whole[0]) if whole else "",
    }
    return {key: value.replace("\u00a0", " ") for key, value in found.items() if value}


def _digest(by_arm: Mapping[str, str]) -> str:
    """Return the digest that all arms have or, where they differ, one of all: of {arm: digest} as JSON."""
    found = {digest for digest in by_arm.values() if digest}
    return "" if not found else found.pop() if len(found) == 1 else f"{provenance.digest_json(by_arm)} (of all arms')"


def _versions(run: Campaign) -> str:
    found: dict[str, Any] = {}
    for record in run.records("environments").values():
        found |= {name: version for name, version in (record.get("versions") or {}).items() if version}
    return ", ".join(f"{name} {found[name]}" for name in sorted(found))


def _works(whole: list[Campaign]) -> dict[str, dict[str, str]]:
    """Return the published works that the reports quote, by name: title, place, hardware."""
    from flashtrail.claims import published

    sources = {name: s for run in whole for name, s in (run.published.sources if run.published else {}).items()}
    for run in whole:
        key = ((run.checkup or {}).get("published") or {}).get("key", "").partition("/")[0]
        for path in sorted(published.DEFAULT.parent.glob("*.yaml")) if key and key not in sources else ():
            sources |= {name: s for name, s in published.load(path).sources.items() if name == key}
    return {name: {"title": s.title, "howpublished": s.where, "note": s.hardware} for name, s in sources.items()}


def _text(software: Mapping[str, str], run: Mapping[str, str], works: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    yield f"{software['author']}. {software['title']}. Version {software['version']}, {software.get('license', '')}."
    if run:
        yield ""
        yield from (f"{key}: {value}" for key, value in run.items())
    if works:
        yield "\nThe report quotes:"
        yield from (f"- {work['title']}. {work['howpublished']}. Hardware: {work['note']}." for work in works.values())


def _bibtex(
    software: Mapping[str, str], run: Mapping[str, str], works: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    yield from _entry("software", "flashtrail", software)
    if run:
        apart = ("run", "date", "versions")
        note = "; ".join(f"{key}: {value}" for key, value in run.items() if key not in apart)
        date = {"year": run["date"][:4]} if "date" in run else {}
        title = {"title": f"FLASHTrail run: {run['run']}"}
        yield from _entry("misc", f"flashtrail-run-{run.get('config', '')[:8]}", title | date | {"note": note})
    for name, work in works.items():
        yield from _entry("misc", f"quoted-{name}", work)


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> Iterator[str]:
    """Yield an entry's lines; titles keep their capitals, names of authors are not taken apart."""
    yield f"@{kind}{{{key},"
    for name, value in fields.items():
        parts = value.split(" and ") if name == "author" else [value]
        words = [f"{{{escaped(part)}}}" if name in ("title", "author") else escaped(part) for part in parts]
        yield f"  {name} = {{{' and '.join(words)}}},"
    yield "}"
