"""``flashtrail watch ws://HOST:PORT``: a policy server in production, by what its /metrics says once a second.

One line for each change: a view that went dark or froze, and since which round; too many rounds over the latency
budget; actions beyond the doctor's clean bounds; no answer. The same on a page on loopback. The server is asked for
/metrics alone, of which nothing but numbers is read.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flashtrail.base.errors import UserError
from flashtrail.drills import bounds as clean
from flashtrail.drills.predicates import FROZEN, Bounds
from flashtrail.report import early, followed, loopback, page
from flashtrail.report.page import Html
from flashtrail.serving import TOKEN_VARIABLE, metrics
from flashtrail.serving.client import ServerUnavailable, fetch_metrics
from flashtrail.serving.health import VIEWS
from flashtrail.statistics import anytime, wording

EVERY_S, RENEWED_S = 1.0, 2
ALPHA, OVER = 0.05, 0.05  # of the test of the budget; the share of rounds that may be over it
_FAULTS = {"no_contrast": "no contrast", "frozen": "frozen"}
_MOST = 10**12  # counts of a stranger's page


@dataclass(frozen=True)
class Rules:
    """What is an alarm: `rounds` faulty ones in a row, a latency `budget_s`, features beyond clean `bounds`."""

    rounds: int = 3
    budget_s: float | None = None
    bounds: Bounds | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Rules:
        """Return those of a command line; UserError for a budget at which no server counts."""
        bounds, budget = None, None
        if arguments.bounds and not {"effort", "spread"} <= set(bounds := clean.load(arguments.bounds).bounds):
            raise UserError(f"{arguments.bounds} has no bounds of effort and spread: {clean.REMEDY}")
        if arguments.budget_ms:
            budget = next((one for one in metrics.SECONDS if math.isclose(1000 * one, arguments.budget_ms)), None)
            if budget is None:
                known = ", ".join(f"{1000 * one:g}" for one in metrics.SECONDS)
                raise UserError(f"--budget-ms {arguments.budget_ms:g}: give one at which a server counts, {known}")
        return cls(arguments.rounds, budget, bounds)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags of a server."""
    group.add_argument(
        "--rounds", type=_whole, default=3, metavar="N", help="faulty rounds in a row that are an alarm (default: 3)"
    )
    group.add_argument("--bounds", type=Path, metavar="FILE", help="the doctor's clean bounds: do actions leave them?")


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rounds")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Watch a server until Ctrl-C, or look once: 1 where something is wrong. ServerUnavailable if it never answered."""
    parts = urllib.parse.urlsplit(arguments.source)
    if parts.scheme not in ("ws", "wss") or not re.fullmatch(r"[^@\s]+", parts.netloc):
        raise UserError(f"{arguments.source}: watch takes a run's directory, or a server, ws://HOST:PORT")
    if arguments.expect:
        raise UserError("--expect is of a run: a server does not know which episodes succeed")
    watch = ServerWatch(arguments.source, Rules.of(arguments))
    ask = partial(fetch_metrics, arguments.source, os.environ.get(TOKEN_VARIABLE))
    lines = watch.look(ask())
    if arguments.once:
        print("\n".join([*(f"{name}: {text}" for name, text in figures(watch.now, watch.rules).items()), *lines]))
        return int(bool(watch.wrong))

    async def follow() -> None:
        url, _ = loopback.serve(watch, arguments.port)
        print(f"watching {watch.url}\nopen {url} on this machine; Ctrl-C ends it", *lines, sep="\n", flush=True)
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                found: bytes | ServerUnavailable = await asyncio.to_thread(ask)
            except ServerUnavailable as error:
                found = error
            for line in watch.look(found):
                print(line, flush=True)

    try:
        asyncio.run(follow())
    except KeyboardInterrupt:
        print("ended; the server goes on", flush=True)
    return 0


def alarms(now: Mapping[str, float], rules: Rules) -> dict[str, str]:
    """Return what is wrong now: what it is about, and since when or by how much."""
    found = {}
    for view in VIEWS:
        for fault, name in _FAULTS.items():
            run, since = (_count(now, f"view_fault_{what}", view, fault) for what in ("run", "since"))
            if run >= rules.rounds:
                found[f"{view} view: {name}"] = f"since round {since} ({run} round{'s' * (run != 1)})"
    if rules.budget_s and anytime.rate_e(*_over(now, rules.budget_s), OVER, above=True) >= 1 / ALPHA:
        found["latency over its budget:"] = _budget(now, rules.budget_s)
    if rules.bounds:
        effort, spread = (now.get(f"flashtrail_action_{name}", math.nan) for name in ("effort", "spread"))
        most, least = rules.bounds["effort"].high, rules.bounds["spread"]
        if effort > most:
            found["actions larger than clean ones:"] = f"effort {effort:.3g}, bound {most:.3g}"
        if spread < min(least.low, FROZEN * least.least):
            found["answers hardly differ:"] = f"spread {spread:.2g}, of clean episodes at least {least.least:.3g}"
    return found


def figures(now: Mapping[str, float], rules: Rules) -> dict[str, str]:
    """Return how the server stands: counts since it was started, with their intervals."""
    said = {"Sessions": f"{now.get('flashtrail_sessions', 0):.0f} open"}
    for view in VIEWS:
        n = _count(now, "view_rounds_total", view)
        counts = {name: min(n, _count(now, "view_faults_total", view, fault)) for fault, name in _FAULTS.items()}
        parts = [f"{name} in {early.counted(k, n) or '0/0'} rounds" for name, k in counts.items()]
        said[f"{view} view"] = ", ".join(parts)
    if rules.budget_s:
        said["Latency"] = _budget(now, rules.budget_s)
    for name in ("effort", "spread"):
        value = now.get(f"flashtrail_action_{name}")
        said[f"Actions, {name}"] = "not known yet" if value is None else f"{value:.3g}"
    return said


def _count(now: Mapping[str, float], name: str, view: str, fault: str = "") -> int:
    key = f'fault="{fault}",view="{view}"' if fault else f'view="{view}"'
    return int(min(_MOST, max(0, now.get(f"flashtrail_{name}{{{key}}}", 0))))


def _over(now: Mapping[str, float], budget_s: float) -> tuple[int, int]:
    """Return how many of how many rounds took longer."""
    n = int(min(_MOST, max(0, now.get("flashtrail_round_seconds_count", 0))))
    within = now.get(f'flashtrail_round_seconds_bucket{{le="{budget_s}"}}', n)
    return n - int(min(n, max(0, within))), n


def _budget(now: Mapping[str, float], budget_s: float) -> str:
    """``4/120 rounds over 50 ms [1-8 %]``: a confidence sequence, so that it may be looked at at any time."""
    k, n = _over(now, budget_s)
    return f"{k}/{n} rounds over {1000 * budget_s:g} ms [{wording.percent_range(anytime.rate_sequence(k, n, ALPHA))}]"


class ServerWatch:
    """Looks at a server's pages one after another: what is wrong, and what of that is new. Gives out its own page."""

    def __init__(self, url: str, rules: Rules) -> None:
        self.url, self.rules = url, rules
        self.wrong: dict[str, str] = {}
        self.now: dict[str, float] = {}

    def look(self, content: bytes | ServerUnavailable) -> list[str]:
        """Take in a page, or why there was none; return a line for each change."""
        before = self.wrong
        if isinstance(content, ServerUnavailable):
            self.wrong = {**before, "no answer:": str(content)}
        else:
            self.now = metrics.read(content)
            self.wrong = alarms(self.now, self.rules)
        new = [f"{what} {words}" for what, words in self.wrong.items() if what not in before]
        return [*new, *(f"over: {what.rstrip(':')}" for what in before if what not in self.wrong)]

    def __call__(self, place: str) -> tuple[str, str] | None:
        """Return the page; nothing is anywhere else."""
        if place:
            return None
        title = wording.plural(len(self.wrong), "alarm")
        wrong = [page.paragraph(f"{what} {words}", "warning") for what, words in self.wrong.items()]
        parts = {
            "alarms": page.join(*wrong) if wrong else page.paragraph("Nothing is wrong."),
            "figures": page.facts(figures(self.now, self.rules)),
        }
        top = page.header(title, f"A policy server in production: {self.url}", Html(""))
        return followed.document(title, top, {"run": followed.sections(parts)}, RENEWED_S, "the server", "its /metrics")
