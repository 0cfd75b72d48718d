"""The page of a run under way, where its report will be: what is there so far, and no verdict.

It is no result. Snakemake would take the file for the report, so each start removes it before anything is planned
(rules/common.smk); and a finished page is never replaced by it. Needs what Snakemake's environment has: jinja2, no
scipy, no pyarrow.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashtrail.base.errors import UserError
from flashtrail.experiment import outlook
from flashtrail.experiment.outlook import Shard, Standing, State
from flashtrail.report import layout, page
from flashtrail.report.page import Html
from flashtrail.statistics import wording
from flashtrail.statistics.wilson import wilson

MARK = '<meta name="flashtrail" content="early">'
RELOAD_S = 60
_HEAD = f'{MARK}\n<noscript><meta http-equiv="refresh" content="{RELOAD_S}"></noscript>'
# 2001, older than any input: `snakemake -n` beside the run takes the page for a report that has to be made.
_OLD = 1_000_000_000
_MARKED = 2000  # bytes within which a page says that it is an early one
_VERDICTS = "No verdict is computed before every episode of its arms is there; an interval on the way is not a test."
_FOOTER = "Made by FLASHTrail while the run goes on. The report replaces this page."


def is_early(path: Path) -> bool:
    """Return whether the file is there and an early page."""
    try:
        with path.open("rb") as stream:
            return MARK.encode() in stream.read(_MARKED)
    except OSError:
        return False


def refuse(path: Path) -> None:
    """Raise UserError if the page is an early one: the run has not ended."""
    if is_early(path):
        raise UserError(f"{path} is the page of a run that has not ended: finish it (make report), then try again")


def write(path: Path, text: str) -> None:
    """Put an early page in its place; a finished page that is there, or appears meanwhile, stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.next")
    new.unlink(missing_ok=True)
    new.write_text(text, encoding="utf-8")
    os.utime(new, (_OLD, _OLD))
    remove(path)
    _link(new, path)
    new.unlink()


def remove(path: Path) -> None:
    """Remove an early page; a finished page that is there, or appears meanwhile, stays."""
    if is_early(path):
        aside = path.with_name(f".{path.name}.last")
        with contextlib.suppress(FileNotFoundError):  # Snakemake removes it before the report's job
            path.replace(aside)
            if not is_early(aside):  # what was taken is the report, finished in this instant
                _link(aside, path)
            aside.unlink()


def _link(source: Path, target: Path) -> None:
    with contextlib.suppress(FileExistsError):  # a link, unlike a rename, replaces nothing
        os.link(source, target)


def text(shards: Mapping[Shard, State], facts: Mapping[str, str | None], reload: bool = True) -> str:
    """Return the page: `facts` in words, then each arm by task. `reload`: the page reads itself again."""
    title = outlook.how_far(shards)
    again = checkbox("again", "This page renders again as they come, every minute.", RELOAD_S) if reload else None
    body = page.join(page.header(title, "A run under way.", Html("")), so_far(shards, facts, again))
    return layout.document(f"FLASHTrail: {title}", body, _FOOTER, head=_HEAD if reload else MARK)


def checkbox(name: str, words: str, seconds: int) -> Html:
    """Return what tells the page's script to read the page again every so many seconds, unless its reader says no."""
    box = '<p class="note"><label><input type="checkbox" id="{}" data-seconds="{}" checked> {}</label></p>'
    return Html(box).format(name, seconds, words)


def facts(now: Standing, states: Mapping[Shard, State]) -> dict[str, str | None]:
    """Return how a run stands, in words."""
    rate = outlook.rate(states.values(), now.written_at)
    at_work = ", ".join(f"{arm} task {task}" for arm, task in now.busy)
    return {
        "Now": now.end if now.ended else f"{now.running}: {at_work}" if at_work else now.running,
        "Left": None if now.ended else now.left,
        "Pace": f"{rate:.1f} rounds/s" if rate and not now.ended else None,
        "Jobs": f"{now.jobs[0]} of {now.jobs[1]} have finished" if now.jobs else None,
        "Failed": ", ".join(one.job for one in now.failed) or None,
        "Last": now.last or None,
    }


def so_far(shards: Mapping[Shard, State], facts: Mapping[str, str | None], again: Html | None = None) -> Html:
    """Return what is there: `facts` in words, then k/n of each arm by task, and no verdict."""
    return page.join(
        page.facts(facts),
        again,
        page.paragraph(_VERDICTS, "warning"),
        page.heading("Success so far"),
        page.table(*_table(shards), caption="k/n, its Wilson 95 % interval, and how many are missing", anchor="so-far"),
    )


def _table(shards: Mapping[Shard, State]) -> tuple[list[dict[str, object]], dict[str, str]]:
    tasks = sorted({shard.task_id for shard in shards})
    rows: dict[str, dict[str, object]] = {}
    for arm in dict.fromkeys(shard.arm for shard in shards):
        own = {shard: state for shard, state in shards.items() if shard.arm == arm}
        cells = {f"task {shard.task_id}": _cell([shard], [state]) for shard, state in own.items()}
        rows[arm] = {"arm": page.code(arm), **cells, "all": _cell(list(own), list(own.values()))}
    heads = {"arm": "Arm", **{f"task {task}": f"Task {task}" for task in tasks}}
    return list(rows.values()), heads | ({"all": "All tasks"} if len(tasks) > 1 else {})


def _cell(shards: Sequence[Shard], states: Sequence[State]) -> str:
    """``2/3 [21-94 %], 7 missing``."""
    k, n = sum(state.k for state in states), sum(state.n for state in states)
    missing = sum(len(shard.expected) for shard in shards) - n
    return ", ".join(part for part in (counted(k, n), f"{missing} missing" if missing else "") if part)


def counted(k: int, n: int) -> str:
    """``2/3 [21-94 %]``, by Wilson; empty where n is 0."""
    return f"{k}/{n} [{wording.percent_range(wilson(k, n))}]" if n else ""
