"""Figures that others published, typed, and what can be checked of them from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from flashtrail.base import documents
from flashtrail.base.documents import Section
from flashtrail.base.errors import UserError, nearest
from flashtrail.statistics import intervals

DEFAULT = Path(__file__).resolve().parents[3] / "resources" / "published" / "published.yaml"
TRITON_FULL_MS = 39.7  # Table 1: the full round that the paper's mixtures are made with


class Source(Section):
    """Where figures come from and what they are about."""

    title: str
    where: str
    policy: str
    hardware: str
    setting: str
    success_scope: str
    latency_scope: str


class Starts(Section):
    """Which episodes a figure counts, where that is known: seed, init states, and repeats 0 to repeats - 1 of each."""

    seed: int
    init_states: list[int]
    repeats: int = 1


class Success(Section):
    """A success rate: a count, or a percentage as printed; of one task, or (none) of the suite as its source says."""

    source: str
    method: str
    suite: str
    task: int | None = None
    arm: str | None = None
    percent: float | None = None
    k: int | None = None
    n: int | None = None
    errors: int = Field(0, ge=0, description="further episodes, in no n here, that an error ended")
    starts: Starts | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Success:
        if (self.percent is None) == (self.k is None):
            raise ValueError(f"{self.method} on {self.suite}: give either percent or k")
        if self.k is not None and self.n is None:
            raise ValueError(f"{self.method} on {self.suite}: k needs n")
        return self

    @property
    def count(self) -> int | None:
        """k, or the only whole count that gives the printed percentage; None if no count does."""
        if self.percent is None or self.n is None:
            return self.k
        return intervals.whole_count(self.percent, self.n)


class Latency(Section):
    """A latency per round in ms."""

    source: str
    method: str
    suite: str
    route: Literal["full", "draft", "all"]
    statistic: Literal["mean", "p50", "p95", "p99", "fastest"]
    ms: float
    n: int | None = None
    per_action_ms: float | None = None
    draft_share: float | None = None
    note: str = ""


class Acceptance(Section):
    """Accepted prefix: percent of 12 in draft rounds, or the mean number of actions that the source prints."""

    source: str
    method: str
    suite: str
    percent: float | None = None
    mean: float | None = None
    note: str = ""


class Conveyor(Section):
    """Success on a moving belt in percent, by speed in m/min."""

    source: str
    method: str
    toy_dog: dict[int, float]
    hairbrush: dict[int, float]
    n: int


class Quotient(Section):
    """A printed ratio and the two printed numbers it is made of."""

    source: str
    what: str
    printed: float
    of: tuple[float, float]


class Total(Section):
    """A printed figure and the printed ones whose sum it should be, all to so many `digits` after the point."""

    source: str
    what: str
    printed: float
    of: list[float] = Field(min_length=1)
    digits: int = Field(1, ge=0, le=9)


class Decoder(Section):
    """A printed number of parameters (millions, one digit) of so many Transformer decoder layers of one width.

    `width` is that of the features that they attend to; the source prints no other.
    """

    source: str
    what: str
    printed: float
    layers: int = Field(ge=1)
    width: int = Field(ge=1)


class Windows(Section):
    """A printed number of windows of `length` steps, one every `stride`, within `episodes` of `steps` in all."""

    source: str
    what: str
    printed: int
    episodes: int = Field(ge=1)
    steps: int = Field(ge=1)
    length: int = Field(ge=1)
    stride: int = Field(ge=1)


class MeanLength(Section):
    """A printed mean of `n` lengths, to the whole number, each of which is one of `lengths`."""

    source: str
    what: str
    printed: int
    n: int = Field(ge=1)
    lengths: tuple[int, int]


class Rows(Section):
    """Where a printed figure is found again in imported rows: in an arm's summary, or in the profile of a route."""

    of: str = Field(description="a number of the summary by its dotted path, or the quotient of two")
    arm: str | None = None
    profile: Literal["all", "draft", "full"] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Rows:
        if (self.arm is None) == (self.profile is None):
            raise ValueError(f"{self.of}: give either arm or profile")
        return self


class Result(Section):
    """A row of a source's table of results, as printed, by the heads of its columns.

    `quantity`: what of ours it is held beside, a key of `metric_chapter.QUANTITIES`; none where nothing of ours is.
    """

    source: str
    what: str
    table: str
    printed: dict[str, str] = Field(min_length=1)
    quantity: str | None = None


class Said(Section):
    """A figure as its source printed it: where, what of ours quotes it, and what the source's own rows give."""

    source: str
    figure: str
    value: str
    where: list[str] = Field(min_length=1, description="sections of the write-up, or a file of its repository")
    used_by: list[str] = Field(default_factory=list, description="ids of claims; files that quote it")
    follows_from_rows: Literal["yes", "no", "unknown"]
    rows_give: str = ""
    rows: list[Rows] = Field(default_factory=list, description="what an import of the source's rows must give")
    untested: str = Field("", description="of a claim that nothing here tries: why")

    @model_validator(mode="after")
    def _rows_give_something(self) -> Said:
        if self.follows_from_rows == "no" and not self.rows_give:
            raise ValueError(f"{self.figure}: it does not follow from the rows: say what they give (rows_give)")
        return self


class Published(Section):
    """The whole file."""

    version: Literal[1]
    sources: dict[str, Source]
    success: list[Success] = Field(default_factory=list)
    latency: list[Latency] = Field(default_factory=list)
    acceptance: list[Acceptance] = Field(default_factory=list)
    conveyor: list[Conveyor] = Field(default_factory=list)
    ratios: list[Quotient] = Field(default_factory=list)
    totals: list[Total] = Field(default_factory=list)
    decoders: list[Decoder] = Field(default_factory=list)
    windows: list[Windows] = Field(default_factory=list)
    mean_lengths: list[MeanLength] = Field(default_factory=list)
    results: list[Result] = Field(default_factory=list)
    said: list[Said] = Field(default_factory=list)

    @model_validator(mode="after")
    def _sources_known(self) -> Published:
        for row in (row for kind in ROWS for row in getattr(self, kind)):
            if row.source not in self.sources:
                raise ValueError(f"source {row.source!r} is not described under sources")
        return self


ROWS = tuple(name for name in Published.model_fields if name not in ("version", "sources"))  # its lists


def load(path: str | Path | None = None) -> Published:
    """Read the published figures; UserError names what is wrong with the file."""
    path = DEFAULT if path is None else Path(path)
    return documents.typed(TypeAdapter(Published), documents.mapping(path, "sources:"), str(path))


def named(name: str) -> Path:
    """Return the file of this directory that has a name; UserError with the names that there are."""
    known = {path.stem: path for path in sorted(DEFAULT.parent.glob("*.yaml"))}
    if name not in known:
        raise UserError(f"--published {name}: resources/published has no such file{nearest(name, known)}")
    return known[name]


def load_all(paths: Sequence[str | Path]) -> Published:
    """Read several files as one; UserError for a source that two of them describe."""
    files = [load(path) for path in paths]
    sources: dict[str, Source] = {}
    for path, file in zip(paths, files, strict=True):
        for name in set(sources) & set(file.sources):
            raise UserError(f"{path}: source {name!r} is described in another file, too: rename it")
        sources |= file.sources
    rows = {kind: [row for file in files for row in getattr(file, kind)] for kind in ROWS}
    return Published(version=1, sources=sources, **rows)


def about(published: Published, claims: Collection[str]) -> Published:
    """Return the figures of the sources that these claims are about, by their ids.

    A source is another report's where what it said is used by ids, and by none of these.
    """
    said = {name: [s for s in published.said if s.source == name] for name in published.sources}
    kept = {name for name, own in said.items() if not own or any(set(s.used_by) & set(claims) for s in own)}
    rows = {kind: [row for row in getattr(published, kind) if row.source in kept] for kind in ROWS}
    return Published(version=1, sources={name: s for name, s in published.sources.items() if name in kept}, **rows)


def success_of(published: Published, key: str, suite: str, task: int) -> Success:
    """Return the success without a fault under `key` (source/method): the task's own, else the suite's.

    UserError with the nearest key, or with what the key has, where there is none for this suite and task.
    """
    rows = [row for row in published.success if row.arm in (None, "clean")]
    by_key = [row for row in rows if f"{row.source}/{row.method}" == key]
    if not by_key:
        keys = {f"{row.source}/{row.method}" for row in rows}
        raise UserError(f"published figures: no success of {key!r}{nearest(key, keys)}")
    matching = [row for row in by_key if row.suite == suite and row.task in (None, task)]
    if not matching:
        elsewhere = sorted({row.suite if row.task is None else f"{row.suite} task {row.task}" for row in by_key})
        raise UserError(
            f"published figures: {key!r} has no success on {suite} task {task}; it has {', '.join(elsewhere)}"
        )
    return max(matching, key=lambda row: row.task is not None)


def pooled(published: Published, source: str, method: str, of: Literal["success", "conveyor"]) -> tuple[int, int]:
    """Return k and n of a method, summed over the suites or over the conveyor's cells; UserError if there is none."""
    counts: list[tuple[int | None, int]]
    if of == "success":
        counts = [(s.count, s.n or 0) for s in published.success if (s.source, s.method) == (source, method)]
    else:
        cells = [c for c in published.conveyor if (c.source, c.method) == (source, method)]
        percents = [(value, c.n) for c in cells for value in (*c.toy_dog.values(), *c.hairbrush.values())]
        counts = [(intervals.whole_count(value, n), n) for value, n in percents]
    known = [k for k, _ in counts if k is not None]
    if not counts or len(known) < len(counts):
        raise UserError(f"published figures: {source} has no {of} of {method!r} that are whole counts")
    return sum(known), sum(n for _, n in counts)


def implied_drafts(published: Published, method: str) -> dict[str, tuple[float, float, float]]:
    """Return, by suite, the draft round (ms) that a printed mean and share imply, and its range over the rounding.

    Means and shares are printed to one digit: half a unit either way.
    """
    result = {}
    for row in published.latency:
        if (row.method, row.route, row.statistic) == (method, "all", "mean") and row.draft_share:
            if row.suite.startswith("all"):
                continue  # a mean of the suites, not another one
            values = [
                intervals.implied_draft_ms(row.ms + ms, (row.draft_share + share) / 100, TRITON_FULL_MS + full)
                for ms in (-0.05, 0, 0.05)
                for share in (-0.05, 0, 0.05)
                for full in (-0.05, 0, 0.05)
            ]
            middle = intervals.implied_draft_ms(row.ms, row.draft_share / 100, TRITON_FULL_MS)
            result[row.suite] = (middle, min(values), max(values))
    return result


def checks(published: Published) -> list[dict[str, Any]]:
    """Return the checks that need nothing but the printed figures, as rows: what, printed, found, agrees.

    Every rate must be a whole count of its episodes (and every conveyor cell of its trials); every ratio the quotient
    of its numbers to the printed digits; `_sizes` and `_lengths` have rules of their own. Every mean of a mixture must
    imply one and the same draft round, which can only be compared by eye: `agrees` is None there.
    """
    rows: list[dict[str, Any]] = []
    for success in published.success:
        if success.percent is not None and success.n is not None:
            k = success.count
            count = "no whole count" if k is None else f"{k}/{success.n}"
            rows.append(_row("rate is a count", success, f"{success.percent} % of {success.n}", count, k is not None))
    for cell in published.conveyor:
        values = [*cell.toy_dog.values(), *cell.hairbrush.values()]
        whole = all(intervals.whole_count(v, cell.n) is not None for v in values)
        rows.append(
            _row("rates are counts", cell, f"{len(values)} cells of {cell.n}", "all" if whole else "not all", whole)
        )
    for ratio in published.ratios:
        quotient = ratio.of[0] / ratio.of[1]
        same = abs(quotient - ratio.printed) <= 0.005 + 1e-9
        rows.append(_row("ratio is a quotient", ratio, f"{ratio.printed}", f"{quotient:.3f}", same))
    for row in published.latency:
        if row.route == "all" and row.statistic == "mean" and row.draft_share and row.method == "FLASH+Triton":
            implied = intervals.implied_draft_ms(row.ms, row.draft_share / 100, TRITON_FULL_MS)
            rows.append(_row("implied draft round", row, f"mean {row.ms} ms", f"{implied:.2f} ms", None))
    return [*rows, *_sizes(published), *_lengths(published)]


def _sizes(published: Published) -> Iterator[dict[str, Any]]:
    """Check sizes: a total is its parts, to the digits that all are rounded to; a decoder is at least its attention."""
    for total in published.totals:
        found, half = sum(total.of), 0.5 * 10**-total.digits
        agrees = abs(found - total.printed) <= half * (1 + len(total.of)) + 1e-9
        yield _row("sizes add up", total, f"{total.printed:g}", f"{found:.3g}", agrees)
    for decoder in published.decoders:
        least = attention_parameters(decoder.layers, decoder.width) / 1e6
        agrees = decoder.printed + 0.05 >= least
        yield _row("sizes add up", decoder, f"{decoder.printed:g} M", f"{least:.2f} M in its attention alone", agrees)


def attention_parameters(layers: int, width: int) -> int:
    """Return how many parameters attention and norms of Transformer decoder layers have (Vaswani et al. 2017).

    Self-attention and cross-attention with four projections each, three norms; what a feed-forward block adds is left
    out, so that it is the least for any.
    """
    projection, norm = width * width + width, 2 * width
    return layers * (2 * 4 * projection + 3 * norm)


def _lengths(published: Published) -> Iterator[dict[str, Any]]:
    """Check counts and means of lengths: windows against the most that fit; a mean against every mixture of lengths.

    An episode of T steps has floor((T - length) / stride) + 1 windows; one shorter than a window has none, not fewer.
    So most fit where `held` of the episodes hold any and each of the others is of one step, for the best `held`.
    """
    for row in published.windows:
        fit = {held: _windows(row, held) for held in range(1, row.episodes + 1)}
        most, each = max(0, *fit.values()), max(0, fit[row.episodes])
        found = f"at most {most:,}" + (f" ({each:,} where each episode holds one)" if each < most else "")
        yield _row("windows fit", row, f"{row.printed:,}", found, row.printed <= most)
    for mean in published.mean_lengths:
        short, long = mean.lengths
        means = [(k * long + (mean.n - k) * short) / mean.n for k in range(mean.n + 1)]
        nearest_mean = min(means, key=lambda value: abs(value - mean.printed))
        agrees = abs(nearest_mean - mean.printed) <= 0.5 + 1e-9
        yield _row("mean of lengths", mean, f"{mean.printed}", f"nearest possible {nearest_mean:g}", agrees)


def _windows(row: Windows, held: int) -> int:
    """The most windows of `held` episodes where each of the others is of one step; 0 or less where they do not fit."""
    room = row.steps - (row.episodes - held) - held * row.length
    return room // row.stride + held if room >= 0 else 0


def _row(check: str, figure: Any, printed: str, found: str, agrees: bool | None) -> dict[str, Any]:
    parts = [getattr(figure, "what", None) or figure.method, getattr(figure, "suite", None)]
    return {
        "check": check,
        "source": figure.source,
        "what": ", ".join(w for w in parts if w),
        "printed": printed,
        "found": found,
        "agrees": agrees,
    }
