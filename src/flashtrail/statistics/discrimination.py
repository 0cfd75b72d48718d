"""How well a number tells two kinds of rows apart: AUROC within strata, its interval over episodes, reliability.

The AUROC is the probability that a row of the one kind has the higher score than a row of the other, ties half: the
Mann-Whitney statistic over the number of pairs. Pairs are formed within a stratum only (an arm and a task), so that a
hard task is not mistaken for a warning. Rows of one episode are alike: whole episodes are resampled within their
stratum.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from flashtrail.statistics import intervals, resampling
from flashtrail.statistics.intervals import Interval

MIN_EPISODES = 5  # of each kind: fewer, and there is no interval
_CELLS = 20_000_000  # of a block of weights: 160 MB


@dataclass(frozen=True)
class Auroc:
    """0.5 is chance. `rows` and `episodes` are those of strata that have both kinds; `positive` are rows."""

    value: float | None
    interval: Interval | None
    rows: int
    positive: int
    episodes: int
    strata: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @property
    def says(self) -> str:
        """``above``, ``below`` or ``open``: where the interval lies against chance."""
        if self.interval is None or self.interval.low <= 0.5 <= self.interval.high:
            return "open"
        return "above" if self.interval.low > 0.5 else "below"


def auroc(score: Any, positive: Any, episode: Any, stratum: Any) -> Auroc:
    """Return the AUROC of `score` for `positive` rows, pairs within `stratum`, interval over `episode`.

    All four are of one length; rows without a score are left out. There is no value where no stratum has both kinds,
    and no interval with fewer than 5 episodes that have a row of the one kind, or of the other.
    """
    frame = pd.DataFrame({"score": score, "positive": positive, "episode": episode, "stratum": stratum})
    frame = frame[frame["score"].notna()].astype({"positive": bool})
    kinds = frame.groupby("stratum", observed=True)["positive"].transform("nunique")
    frame = frame[kinds == 2]
    if not len(frame):
        return Auroc(None, None, 0, 0, 0, 0)
    parts = [part for _, part in frame.groupby("stratum", observed=True)]
    wins, pairs = (sum(x) for x in zip(*(_mann_whitney(part) for part in parts), strict=True))
    episodes = frame.drop_duplicates(["stratum", "episode", "positive"])
    fewest = min(int(episodes["positive"].sum()), int((~episodes["positive"]).sum()))
    value = wins / pairs
    interval = _interval(parts) if fewest >= MIN_EPISODES else None
    if interval is None and fewest >= MIN_EPISODES and value in (0.0, 1.0):
        interval = _perfect(value, fewest)
    count = len(frame.drop_duplicates(["stratum", "episode"]))
    return Auroc(value, interval, len(frame), int(frame["positive"].sum()), count, len(parts))


def _perfect(value: float, fewest: int) -> Interval:
    """Return Clopper-Pearson's interval of all (or none) of the rarer kind's episodes.

    Every resample of a perfect separation is perfect, which says nothing of how near it was to failing.
    """
    interval = intervals.rate(fewest if value else 0, fewest).exact
    assert interval is not None
    return interval


def _mann_whitney(part: pd.DataFrame) -> tuple[float, int]:
    positive = part["positive"].to_numpy()
    score = part["score"].to_numpy(float)
    statistic = scipy.stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic").statistic
    return float(statistic), int(positive.sum()) * int((~positive).sum())


def _interval(parts: list[pd.DataFrame]) -> Interval | None:
    wins, pairs = np.zeros(resampling.RESAMPLES), np.zeros(resampling.RESAMPLES)
    for seed, part in enumerate(parts):
        resampled = _resampled(part, seed)
        wins, pairs = wins + resampled[0], pairs + resampled[1]
    share = np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)
    return resampling.percentile_interval(share)


def _resampled(part: pd.DataFrame, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the wins and pairs of one stratum in every resample of its episodes."""
    part = part.sort_values("score", kind="stable")
    episode = pd.factorize(part["episode"])[0]
    positive = part["positive"].to_numpy()
    edge = np.flatnonzero(np.diff(part["score"].to_numpy(float), prepend=-np.inf) > 0)  # where a new score begins
    weights = resampling.draws(int(episode.max()) + 1, seed=seed)
    wins, pairs = [], []
    block = max(1, _CELLS // len(part))
    for start in range(0, len(weights), block):
        rows = weights[start : start + block][:, episode]
        ups = np.add.reduceat(rows * positive, edge, axis=1)
        downs = np.add.reduceat(rows * ~positive, edge, axis=1)
        below = np.cumsum(downs, axis=1) - downs
        wins.append((ups * (below + 0.5 * downs)).sum(axis=1))
        pairs.append(ups.sum(axis=1) * downs.sum(axis=1))
    return np.concatenate(wins), np.concatenate(pairs)


# --- reliability ---


def cross_fitted(score: Any, event: Any, fold: Any, bins: int = 3) -> NDArray[Any]:
    """Return, for each row, the event's share in its bin of `score`, learned on the other folds.

    Bins are quantiles of the other folds' scores; one added success and failure keep a share off 0 and 1.
    """
    x, y, part = np.asarray(score, float), np.asarray(event, bool), np.asarray(fold)
    result = np.full(len(x), np.nan)
    for name in np.unique(part):
        test = part == name
        if test.all():
            break
        edges = np.quantile(x[~test], np.linspace(0, 1, bins + 1)[1:-1])
        trained, tested = np.searchsorted(edges, x[~test]), np.searchsorted(edges, x[test])
        hits = np.bincount(trained, y[~test], bins)
        result[test] = ((hits + 1) / (np.bincount(trained, minlength=bins) + 2))[tested]
    return result


def brier(probability: Any, event: Any) -> float:
    """Return the mean squared error of a predicted probability; 0 is perfect."""
    return float(np.mean((np.asarray(probability, float) - np.asarray(event, float)) ** 2))


def reliability(probability: Any, event: Any, bins: int = 3) -> list[dict[str, Any]]:
    """Return rows of predicted share against observed k/n with Wilson's interval, by thirds of the prediction."""
    frame = pd.DataFrame({"p": np.asarray(probability, float), "event": np.asarray(event, bool)})
    frame["bin"] = pd.qcut(frame["p"].rank(method="dense"), bins, labels=False, duplicates="drop")
    return [
        {"predicted": float(part["p"].mean()), **intervals.rate(int(part["event"].sum()), len(part)).as_dict()}
        for _, part in frame.groupby("bin")
    ]
