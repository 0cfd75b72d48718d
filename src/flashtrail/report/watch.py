"""``flashtrail watch``: a run under way, in a browser on this machine; counts, films and failures as they come.

With ``ws://HOST:PORT`` in place of a run, a policy server in production (server_watch.py).

Reads what the run says of itself (results/progress.json and each shard's) whenever a reader asks, so it may be started
before, during and after a run, and follows one that is started again. Gives out the run's reports, films and contact
sheets of its episodes, and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from flashtrail.base import names
from flashtrail.base.errors import UserError
from flashtrail.experiment import outlook, report_files
from flashtrail.experiment.outlook import Ended, Failed, Shard, Standing, State
from flashtrail.report import early, followed, loopback, page, rolling, server_watch
from flashtrail.report.page import Html
from flashtrail.serving import binding
from flashtrail.statistics.decline import Decline

RENEWED_S, FRESH_S = 3, 1.0  # a reader asks so often; what several ask for at once is read once
SILENT_S = 30.0  # a run says something every three seconds
_FILMS, _LOG_LINES, _LOG_BYTES = 24, 20, 2**16
_TYPES = (".html", ".css", ".js", ".json", ".pdf", ".svg", ".png", ".jpg", ".mp4")  # of a report
_KINDS = {".mp4": "video.mp4", ".jpg": "sheet.jpg"}  # of an episode, as its address ends
_ENDS = {"success": "\u25cf success", "horizon": "\u25cb out of time", "error": "! could not be run"}
_UNTIMED = Ended(0.0, 0.0, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        default=".",
        metavar="RUN",
        help="the run's directory (default: this one), or a policy server, ws://HOST:PORT",
    )
    add("--port", type=binding.tcp_port, default=0, help="where it listens on 127.0.0.1 (default: a free one)")
    add("--once", action="store_true", help="print how it stands and end: 0, or 1 where something is wrong")
    add("--budget-ms", type=_positive, metavar="B", help="latency budget of a round: how many are over it")
    run = parser.add_argument_group("of a run")
    run.add_argument(
        "--expect",
        type=rolling.expectation,
        action="append",
        default=[],
        metavar="[ARM=]RATE",
        help="success rate that is expected (repeatable): has it dropped?",
    )
    run.add_argument("--margin", type=_positive, default=0.1, help="by which it may be lower (default: 0.1)")
    server_watch.add_arguments(parser.add_argument_group("of a server"))


def _positive(text: str) -> float:
    try:
        if 0 < float(text) < math.inf:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def run(arguments: argparse.Namespace) -> int:
    """Give out the page until Ctrl-C; with --once, return 1 where something is wrong."""
    if "://" in arguments.source:
        return server_watch.run(arguments)
    if not Path(arguments.source).is_dir():
        raise UserError(f"{arguments.source} is not a directory: name the one in which `make report` runs")
    if arguments.bounds:
        raise UserError("--bounds is of a server: flashtrail doctor holds a run against them")
    site = Site(Path(arguments.source), rolling.Expected.of(arguments))
    if arguments.once:
        found = site.declines()
        print("\n".join([site.line(), *(f"{arm}: {rolling.words(one)}" for arm, one in found.items())]))
        return int(any(one.decided_at for one in found.values()))

    async def serve() -> None:
        url, _ = loopback.serve(site, arguments.port)
        print(f"{site.line()}\nopen {url} on this machine; Ctrl-C ends it", flush=True)
        await asyncio.Event().wait()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        print("ended; the run goes on", flush=True)
    return 0


class Site:
    """What lies at a place: the page, the run's reports, films and contact sheets by arm, task and episode."""

    def __init__(self, run: Path, expected: rolling.Expected | None = None) -> None:
        self._run, self._results, self._expected = run, run / "results", expected or rolling.Expected()
        self._read: tuple[float, tuple[str, str]] | None = None

    def __call__(self, place: str) -> tuple[str, str] | Path | None:
        """Return the page and its policy, a file, or None."""
        kind, _, rest = place.partition("/")
        if not place:
            if self._read is None or time.monotonic() - self._read[0] > FRESH_S:
                self._read = time.monotonic(), self._page()
            return self._read[1]
        if kind == "reports" and rest.endswith(_TYPES):
            return _regular(self._run / kind, rest)
        return self._film(rest) if kind == "films" else None

    def line(self) -> str:
        """Return how the run stands, in one line."""
        return "{}. {}".format(*self._stands()[::2])

    def declines(self) -> dict[str, Decline]:
        """Return what each arm of which a rate is expected says of a drop."""
        return rolling.declines(self._stands()[3], self._expected)

    def _stands(self) -> tuple[str, Standing | None, str, Mapping[Shard, State]]:
        """Return a title, what the run says of itself, how it stands in a sentence, and what is there of its shards."""
        try:
            now = outlook.standing(self._results)
            states = now.states(self._results) if now else {}
        except (UserError, OSError, ValueError, TypeError, AttributeError) as error:  # no record of ours
            return "No run under way", None, f"What the run says of itself cannot be read: {error}", {}
        if now:
            return outlook.how_far(states), now, _sentence(now), states
        named = [report_files.ReportFiles(), *report_files.judged(self._results)]
        pages = [path for one in named if (path := self._run / one.page).is_file()]
        done = any(not early.is_early(path) for path in pages)
        sentence = "The report is finished." if done else "No run is here yet: `make report` starts one."
        return "No run under way", None, sentence, {}

    def _page(self) -> tuple[str, str]:
        title, now, sentence, states = self._stands()
        links, bar = self._reports(now), _bar(states) if now else None
        parts: dict[str, Html] = {}
        if now:
            parts = {f"failed-{number}": self._failed(job) for number, job in enumerate(now.failed)}
            parts["counts"] = early.so_far(states, early.facts(now, states))
            if section := rolling.section(states, partial(self._of_episode, states), self._expected):
                parts["rolling"] = section
        films = list(self._films(states))
        if films:
            note = f"The last {min(len(films), _FILMS)} of {len(films)} that were filmed, the newest first."
            parts["films-head"] = page.join(page.heading("Episodes"), page.paragraph(note, "note"))
        top = page.join(page.header(title, sentence, links), bar)
        groups = {"run": followed.sections(parts), "films": films[:_FILMS]}
        return followed.document(title, top, groups, RENEWED_S, "the run", "the run's own files")

    def _reports(self, now: Standing | None) -> Html:
        """Return links to the reports that are there; beside a run under way they are an earlier one's."""
        files = sorted(path for path in (self._run / "reports").glob("*.html") if not early.is_early(path))
        earlier = "Of an earlier run: " if files and now and not now.ended else ""
        return page.inline(earlier, Html(" ").join(page.link(path.name, f"reports/{path.name}") for path in files))

    def _films(self, states: Mapping[Shard, State]) -> Iterator[Html]:
        """Yield every filmed episode, the last that ended first."""
        ends = [
            (state.ended.get(name, _UNTIMED), shard, name) for shard, state in states.items() for name in state.outcomes
        ]
        for end, shard, name in sorted(reversed(ends), key=lambda one: -one[0].at):
            film, sheet = (self._file(shard, states[shard], name, kind) for kind in _KINDS)
            if film or sheet:
                yield _film(shard, name, states[shard].outcomes[name], end, bool(film), bool(sheet))

    def _film(self, place: str) -> Path | None:
        """Return the file at ARM/TASK/EPISODE.mp4 or .jpg, of an episode that the run asked for."""
        for shard, state in self._stands()[3].items():
            for name in shard.expected:
                if Path(place).suffix in _KINDS and place == f"{_place(shard, name)}{Path(place).suffix}":
                    return self._file(shard, state, name, Path(place).suffix)
        return None

    def _file(self, shard: Shard, state: State, name: str, kind: str) -> Path | None:
        return self._of_episode({shard: state}, shard, name, _KINDS[kind])

    def _of_episode(self, states: Mapping[Shard, State], shard: Shard, name: str, file: str) -> Path | None:
        parts = shard.directory.relative_to(self._results) / "parts" / names.file_name(states[shard].spec_digest)
        return _regular(self._results, parts / name / file)

    def _failed(self, job: Failed) -> Html:
        """Return the last lines of a failed job's log."""
        log, said = _regular(self._results / "logs", (job.log or "").removeprefix("results/logs/")), "there is no log"
        if log:
            with log.open("rb") as stream:
                stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
                said = "\n".join(stream.read(_LOG_BYTES).decode("utf-8", "replace").splitlines()[-_LOG_LINES:])
        shown = Html(_LOG).format(job.job, said)
        return page.join(page.heading(f"Failed: {job.job}"), page.paragraph(job.log or "", "note"), shown)


def _regular(root: Path, relative: str | Path) -> Path | None:
    """Return the regular file of this name below `root`; None where there is none, or a name or link leads out."""
    try:
        path = names.below(root, relative).resolve()
        return path if path.is_file() else None
    except (UserError, OSError, ValueError):
        return None


def _bar(states: Mapping[Shard, State]) -> Html:
    done, asked = sum(state.n for state in states.values()), sum(len(shard.expected) for shard in states)
    return Html('<progress value="{}" max="{}" aria-label="episodes that were run"></progress>').format(done, asked)


def _sentence(now: Standing) -> str:
    if now.ended:
        return f"{now.end[0].upper()}{now.end[1:]}."
    if time.time() - now.written_at > SILENT_S:
        last = datetime.datetime.fromtimestamp(now.written_at, datetime.UTC).strftime("%H:%M:%S UTC")
        return f"The run has said nothing since {last}: it was killed. `make unlock`, then the same command goes on."
    return "A run under way."


def _place(shard: Shard, name: str) -> str:
    return f"{names.file_name(shard.arm)}/{shard.task_id}/{name}"


def _film(shard: Shard, name: str, outcome: str, end: Ended, film: bool, sheet: bool) -> Html:
    """Return an episode as its contact sheet, which leads to the film; the page's script plays it in its place."""
    source = f"films/{_place(shard, name)}"
    what = f"{shard.arm}, task {shard.task_id}, {name.replace('_', ' ')}"
    shown = Html(_SHEET).format(source, what) if sheet else Html("film of {}").format(what)
    shown = page.link(shown, f"{source}.mp4") if film else shown
    took = f"; {end.rounds} rounds in {outlook.duration(end.wall_s)}" if end.at else ""
    caption = page.inline(page.bold(_ENDS.get(outcome, outcome)), f" {what}{took}")
    return Html('<figure id="{}">{}<figcaption>{}</figcaption></figure>').format(source, shown, caption)


_LOG = '<pre class="log" tabindex="0" role="region" aria-label="log of {}">{}</pre>'
_SHEET = '<img src="{}.jpg" alt="contact sheet of {}">'
