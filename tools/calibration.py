"""The whole chain on campaigns whose truth is known: ``python tools/calibration.py --campaigns 10000``.

Outcomes are drawn with a planted effect and judged by the functions that judge real ones. A verdict about success
depends on a campaign's counts only, so that each count is judged once and looked up afterwards; a sample of the
campaigns goes through files instead (shards, merge, summaries, claims) and must come to the same verdicts. Every row
says how often a verdict was given, with Clopper-Pearson's interval, and what it should be: at most alpha where the
claim is false, the predicted power where it is true.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import calibration_settle as growing
import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from calibration_rows import DECIDE, Row, text

from flashtrail.base import commands, provenance
from flashtrail.claims import summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.claims.claims import ClaimsFile
from flashtrail.statistics import discrimination, intervals, power, resampling, stratified, unpaired_power
from flashtrail.tables import merge, schemas

ALPHA = 0.05
MARGIN = 0.10
_BASE = {"title": "t", "statement": "s", "scope": "x", "estimand": "e", "refuted_if": "r"}
_PAIR = {"arm": "a", "control": "b", "margin": MARGIN}
CLAIMS: dict[str, dict[str, Any]] = {
    "C1": {"test": "paired_difference", **_PAIR, "direction": "greater"},
    "C2": {"test": "paired_difference", **_PAIR, "direction": "less"},
    "C3": {"test": "non_inferiority", **_PAIR},
}
RATE = {"C1": {"test": "rate_at_least", "arm": "a", "bar": 0.5}}
UNPAIRED = {"C1": {"test": "unpaired_difference", **_PAIR, "direction": "greater"}}
FAMILY = {
    f"C{i}": {"test": "paired_difference", "arm": arm, "control": "b", "direction": "greater", "margin": MARGIN}
    | {"family": "f"}
    for i, arm in enumerate(("a", "c", "d"), 1)
}
LATENCY = {"C1": {"test": "latency_ratio", "below": 1.0}}


def claims_file(entries: Mapping[str, Mapping[str, Any]]) -> ClaimsFile:
    """Return claims of one file by id."""
    content = {"version": 1, "alpha": ALPHA, "claims": [{"id": i, **_BASE, **e} for i, e in entries.items()]}
    return ClaimsFile.model_validate(content)


# --- campaigns ---


def episodes_table(arm: str, success: Sequence[bool] | np.ndarray) -> pa.Table:
    """Return an arm's episodes, init states counting up, one draft round each."""
    won = np.asarray(success, bool)
    n = len(won)
    texts = {"run_id": "simulated", "policy": "simulated", "arm": arm, "suite": "simulated", "task": "simulated"}
    numbers = {"task_id": 0, "repeat": 0, "seed": 7, "steps": 12, "rounds": 1, "full_rounds": 0, "draft_rounds": 1}
    columns: dict[str, Any] = {name: [text] * n for name, text in {**texts, "started_at": "2000-01-01"}.items()}
    columns |= {name: np.full(n, number) for name, number in {**numbers, "executed_actions": 12}.items()}
    columns |= {name: pa.nulls(n) for name in (*schemas.UNVERIFIED, "error", "video")}
    columns |= {"init_state": np.arange(n), "success": won, "outcome": np.where(won, "success", "horizon")}
    columns |= {"accepted_prefix_mean": np.full(n, 12.0), "wall_s": np.ones(n)}
    return schemas.to_table(
        pa.table({name: pa.array(columns[name]) for name in schemas.EPISODES.names}), schemas.EPISODES
    )


def rounds_table(arm: str, n: int) -> pa.Table:
    """Return one draft round per episode of `episodes_table`."""
    texts = {"arm": arm, "suite": "simulated", "route": "draft", "noise_seed": "0"}
    numbers = {"task_id": 0, "repeat": 0, "round": 0, "env_step": 0, "accepted_prefix": 12, "executed": 12}
    columns: dict[str, Any] = {name: [text] * n for name, text in texts.items()}
    columns |= {name: np.full(n, number) for name, number in numbers.items()} | {"init_state": np.arange(n)}
    columns |= {name: np.full(n, 8.0) for name in ("policy_ms", "serve_ms", "roundtrip_ms")}
    columns |= {"synchronized": np.ones(n, bool), "condition_applied": np.zeros(n, bool)}
    filled = {f.name: pa.array(columns[f.name]) if f.name in columns else pa.nulls(n) for f in schemas.ROUNDS}
    return schemas.to_table(pa.table(filled), schemas.ROUNDS)


def through_files(root: Path, outcomes: Mapping[str, np.ndarray], path: Path) -> dict[str, str]:
    """Write shards, merge and summarise them, judge `path` (claims) on the files; return the verdicts by claim."""
    for arm, won in outcomes.items():
        shards = []
        for number, part in enumerate(np.array_split(np.arange(len(won)), 2)):
            shard = root / "rollouts" / arm / f"task_{number}"
            content = {"episodes": episodes_table(arm, won), "rounds": rounds_table(arm, len(won))}
            for name, table in content.items():
                schemas.write_table(shard / f"{name}.parquet", table.take(part), schemas.SCHEMAS[name])
            schemas.write_table(shard / "steps.parquet", [], schemas.STEPS)
            shards.append(shard)
        spec = {"arm": arm, "suite": "simulated", "tasks": [0], "init_states": range(len(won)), "seed": 7}
        merge.write_merged(merge.merge_shards(shards, spec), root / "tables" / arm)
        files = [root / "tables" / arm / f"{name}.parquet" for name in ("episodes", "rounds")]
        provenance.json_dump(summaries.summarize_arm(*files), root / "summaries" / f"{arm}.json")
    inputs = {
        "episodes": [str(root / "tables" / arm / "episodes.parquet") for arm in outcomes],
        "summaries": [str(root / "summaries" / f"{arm}.json") for arm in outcomes],
    }
    return {entry["id"]: entry["verdict"] for entry in verdicts.evaluate(path, inputs)["claims"]}


def judge(file: ClaimsFile, outcomes: Mapping[str, np.ndarray], asked: str = "report") -> dict[str, str]:
    """Judge claims on arms' outcomes in memory, for a report or for ``settle``; return the verdicts by claim."""
    frame = pd.concat([episodes_table(arm, won).to_pandas() for arm, won in outcomes.items()], ignore_index=True)
    campaign = Campaign.of_frames(episodes=frame)
    campaign.asked = asked
    return {entry["id"]: entry["verdict"] for entry in verdicts.judge_all(file, campaign, plan=False)}


def pair_outcomes(both: int, only_a: int, only_b: int, n: int) -> dict[str, np.ndarray]:
    """Return two arms' outcomes with these counts, in a fixed order."""
    a = np.repeat([True, True, False, False], [both, only_a, only_b, n - both - only_a - only_b])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, n - both - only_a - only_b])
    return {"a": a, "b": b}


def tally(keys: np.ndarray, verdicts_of: Callable[..., dict[str, str]]) -> Counter[tuple[str, str]]:
    """Return how often each claim got each verdict: every distinct row of `keys` is judged once."""
    distinct, times = np.unique(keys, axis=0, return_counts=True)
    found: Counter[tuple[str, str]] = Counter()
    for key, count in zip(distinct.tolist(), times.tolist(), strict=True):
        for claim, verdict in verdicts_of(*key).items():
            found[claim, verdict] += count
    return found


# --- scenarios ---


@dataclass(frozen=True)
class Scenario:
    """n pairs with the probabilities of either kind of discordant pair; a's advantage is their difference."""

    words: str
    n: int
    only_a: float
    only_b: float


SCENARIOS = (
    Scenario("no effect, 20 % discordant", 30, 0.10, 0.10),
    Scenario("no effect, 40 % discordant", 100, 0.20, 0.20),
    Scenario("+10 points", 30, 0.15, 0.05),
    Scenario("+10 points", 100, 0.15, 0.05),
    Scenario("+10 points", 200, 0.15, 0.05),
    Scenario("\u221210 points", 100, 0.05, 0.15),
    Scenario("\u221210 points", 300, 0.05, 0.15),
)


def paired(campaigns: int, generator: np.random.Generator, scenarios: Sequence[Scenario] = SCENARIOS) -> list[Row]:
    """Return the rows of the paired tests: false positives, power, false refutations, coverage of the interval."""
    file = claims_file(CLAIMS)
    rows: list[Row] = []
    for s in scenarios:
        counts = generator.multinomial(s.n, [s.only_a, s.only_b, 1 - s.only_a - s.only_b], campaigns)[:, :2]
        found = tally(counts, lambda a, b, n=s.n: judge(file, pair_outcomes((n - a - b) // 2, a, b, n)))
        rows += _paired_rows(s, found, campaigns)
        covered = tally(counts, lambda a, b, s=s: {"interval": _covers(a, b, s)})
        rows.append(Row(s.words, s.n, "score interval covers", covered["interval", "yes"], campaigns, at_least=0.94))
    return rows


def _covers(only_a: int, only_b: int, s: Scenario) -> str:
    interval = intervals.paired_interval(only_a, only_b, s.n)
    return "yes" if interval.low <= s.only_a - s.only_b <= interval.high else "no"


def _paired_rows(s: Scenario, found: Counter[tuple[str, str]], runs: int) -> list[Row]:
    difference = s.only_a - s.only_b
    up, down = found["C1", "supported"], found["C2", "supported"]
    lost = found["C3", "supported"]
    refuting = power.score_power(s.n, s.only_b, s.only_a, -MARGIN)
    kept = power.score_power(s.n, s.only_a, s.only_b, -MARGIN)
    rows: list[Row] = []

    def row(event: str, k: int, **should: float) -> None:
        rows.append(Row(s.words, s.n, event, k, runs, **should))

    if abs(difference) < 1e-9:
        row("a difference is supported, either way", up + down, at_most=ALPHA)
        row("a gain of 10 points is refuted", found["C1", "refuted"], expected=refuting, tolerance=0.002)
        row("not worse is supported", lost, expected=kept)
    elif difference > 0:
        row("a gain is supported", up, expected=power.mcnemar_power(s.n, s.only_a, s.only_b, ALPHA))
        row("a loss is supported", down, at_most=ALPHA)
        row("a gain of 10 points is refuted", found["C1", "refuted"], at_most=ALPHA)
    else:
        row("a loss is supported", down, expected=power.mcnemar_power(s.n, s.only_b, s.only_a, ALPHA))
        row("not worse by 10 points is supported", lost, at_most=ALPHA)
    return rows


def rates(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return the rows of a rate against its bar of one half."""
    file, rows = claims_file(RATE), []
    for p, n in ((0.5, 30), (0.6, 30), (0.6, 100), (0.4, 100)):
        drawn = generator.binomial(n, p, campaigns)[:, None]
        found = tally(drawn, lambda k, n=n: judge(file, {"a": np.arange(n) < k}))
        words = f"rate {p:.0%}, bar 50 %"
        for verdict, above in (("supported", True), ("refuted", False)):
            k = found["C1", verdict]
            wrong = p == 0.5 or (p > 0.5) != above
            should = {"at_most": ALPHA} if wrong else {"expected": power.rate_power(n, p, 0.5, above)}
            rows.append(Row(words, n, f"the bar is {verdict}", k, campaigns, **should))
    return rows


def unpaired(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return the rows of two arms without common episodes: 15 each, as the reproduction had."""
    file, n, rows = claims_file(UNPAIRED), 15, []
    for p_a, p_b in ((0.3, 0.3), (0.9, 0.3)):
        drawn = np.column_stack([generator.binomial(n, p_a, campaigns), generator.binomial(n, p_b, campaigns)])
        found = tally(drawn, lambda a, b: judge(file, {"a": np.arange(n) < a, "b": np.arange(n) < b}))
        k = found["C1", "supported"]
        exact = unpaired_power.unpaired_power(n, p_a, p_b, ALPHA)
        should = {"at_most": ALPHA} if p_a == p_b else {"expected": exact}
        rows.append(Row(f"unpaired, {p_a:.0%} against {p_b:.0%}", n, "a gain is supported", k, campaigns, **should))
    return rows


TASKS = {  # rates of a and b by task; ten episodes in each arm and task
    "no effect in three unlike tasks": ((0.9, 0.5, 0.1), (0.9, 0.5, 0.1)),
    "+40 points in three tasks": ((1.0, 0.7, 0.5), (0.6, 0.3, 0.1)),
    "+10 points in three tasks": ((0.6, 0.4, 0.2), (0.5, 0.3, 0.1)),
}


def within_tasks(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return the rows of the test and interval that compare independent arms within tasks."""
    n, rows = 10, []
    for words, (a, b) in TASKS.items():
        drawn = np.column_stack([generator.binomial(n, p, campaigns) for p in (*a, *b)])
        truth = a[0] - b[0]

        def verdict_of(*k: int, truth: float = truth) -> dict[str, str]:
            strata = [stratified.Stratum(x, n, y, n) for x, y in zip(k[:3], k[3:], strict=True)]
            found = stratified.compare(strata)
            covers = found.interval.low <= truth <= found.interval.high
            return {
                "gain": "yes" if found.p <= ALPHA and found.difference > 0 else "no",
                "interval": "yes" if covers else "no",
            }

        found = tally(drawn, verdict_of)
        exact = unpaired_power.stratified_power(n, a, b, ALPHA)
        rows += [
            Row(words, n, "a gain is supported", found["gain", "yes"], campaigns, expected=exact, tolerance=0.01),
            Row(words, n, "interval within tasks covers", found["interval", "yes"], campaigns, at_least=0.94),
        ]
        if not truth:
            rows.append(Row(words, n, "a gain is supported", found["gain", "yes"], campaigns, at_most=ALPHA / 2))
    return rows


def families(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return how often any of three false claims of a family is supported."""
    file, n, wrong = claims_file(FAMILY), 60, 0
    for _ in range(campaigns):
        outcomes = {arm: generator.random(n) < 0.5 for arm in "abcd"}
        wrong += "supported" in judge(file, outcomes).values()
    return [
        Row("no effect, three remedies against one control", n, "any is supported", wrong, campaigns, at_most=ALPHA)
    ]


def latencies(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return how often equal routes are told apart, and a draft of half the time is found."""
    file, n, rows = claims_file(LATENCY), 40, []
    for factor in (1.0, 0.5):
        found: Counter[str] = Counter()
        for _ in range(campaigns):
            times = generator.lognormal(3, 0.1, (2, n)) * np.array([[1.0], [factor]])
            profile = pd.DataFrame({"route": np.repeat(["full", "draft"], n), "policy_ms": times.ravel()})
            profile = profile.assign(synchronized=True, policy="simulated", device="none")
            found[verdicts.judge_all(file, Campaign.of_frames(profile=profile), plan=False)[0]["verdict"]] += 1
        wrong = found["supported"] + found["refuted"]
        words = f"draft rounds take {factor:g} of a full round"
        if factor == 1.0:
            rows.append(Row(words, n, "a difference is supported or refuted", wrong, campaigns, at_most=ALPHA))
        else:
            rows.append(Row(words, n, "a draft is faster: supported", found["supported"], campaigns, at_least=0.99))
    return rows


def resampled(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return the coverage of the intervals that resample episodes or init states (a bootstrap of few is short)."""
    hits: Counter[str] = Counter()
    tasks, states = np.repeat(np.arange(3), 60), np.tile(np.repeat(np.arange(20), 3), 3)
    episode = np.repeat(np.arange(40), 15)
    failed = np.arange(60) < 30
    for _ in range(campaigns):
        lean = np.repeat(generator.choice([0.0, 0.8], 60), 3)
        difference = resampling.paired_difference(tasks, states, (generator.random(180) < lean).astype(int))
        hits["difference"] += difference is not None and difference.low <= 0.4 <= difference.high
        values = np.repeat(generator.normal(0, 1, 40), 15) + generator.normal(0, 0.5, 600)
        median = resampling.quantile_over_episodes(values, episode, 0.5)
        hits["median"] += median is not None and median.low <= 0 <= median.high
        score = generator.normal(0, 1, 60).repeat(5) + generator.normal(0, 1, 300)
        found = discrimination.auroc(score, failed.repeat(5), np.arange(60).repeat(5), np.zeros(300))
        hits["auroc"] += found.says == "open"
    rows = [
        Row(
            "60 init states, 3 alike repeats", 180, "bootstrap of the difference covers", hits["difference"], campaigns
        ),
        Row(
            "40 episodes of 15 alike rounds",
            600,
            "interval of the median over episodes covers",
            hits["median"],
            campaigns,
        ),
        Row("60 episodes of 5 alike rounds", 300, "AUROC of no signal: interval holds 0.5", hits["auroc"], campaigns),
    ]
    return [Row(**{**asdict(row), "at_least": 0.90}) for row in rows]


def by_files(campaigns: int, generator: np.random.Generator) -> list[Row]:
    """Return how often the files of a campaign lead to the verdicts that its counts lead to: always."""
    file, same, n = claims_file(CLAIMS), 0, 40
    content = {"version": 1, "alpha": ALPHA, "claims": [{"id": i, **_BASE, **e} for i, e in CLAIMS.items()]}
    for _ in range(campaigns):
        both, only_a, only_b = generator.multinomial(n, [0.5, 0.25, 0.05, 0.2])[:3].tolist()
        outcomes = pair_outcomes(both, only_a, only_b, n)
        order = generator.permutation(n)
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "claims.yaml"
            path.write_text(yaml.safe_dump(content), encoding="utf-8")
            found = through_files(Path(name), {arm: won[order] for arm, won in outcomes.items()}, path)
        same += found == judge(file, pair_outcomes((n - only_a - only_b) // 2, only_a, only_b, n))
    words = "shards, merge, summaries, claims"
    return [Row(words, n, "same verdicts as from counts", same, campaigns, at_least=1.0)]


def settled(campaigns: int, generator: np.random.Generator, tasks: int = 10, every: bool = False) -> list[Row]:
    """Return the rows of campaigns that `flashtrail settle` grows until every claim has ended or has no starts left.

    `every`: with a look after every init state, instead of the rule's batches.
    """
    file = claims_file(growing.ENTRIES)
    alike: dict[str, str] = {}  # the first claim of each test judges the counts of all
    first = {claim.id: alike.setdefault(claim.test, claim.id) for claim in file.claims}

    @functools.cache
    def judged(claim: str, wins: int, losses: int, n: int) -> str:
        if first[claim] != claim:
            return judged(first[claim], wins, losses, n)
        outcomes = pair_outcomes((n - wins - losses) // 2, wins, losses, n)
        arms = growing.ENTRIES[claim]["arm"], growing.ENTRIES[claim].get("control", "none")
        return judge(
            claims_file({claim: growing.ENTRIES[claim]}), dict(zip(arms, outcomes.values(), strict=True)), "settle"
        )[claim]

    found, sizes, ends, same = growing.settled(file, tasks, campaigns, generator, judged, every)
    most, rows = tasks * growing.INIT_STATES, []
    for claim, entry in growing.ENTRIES.items():
        words = f"settle, {growing.WORDS[claim]}"
        for verdict in growing.FALSE[claim]:
            event, k = f"{verdict} at any time", found[claim, verdict]
            rows.append(Row(words, most, event, k, campaigns, at_most=ALPHA))
        if entry["arm"] in growing.FOUND[tasks]:
            k = found[claim, "supported"]
            should = growing.FOUND[tasks][entry["arm"]]
            rows.append(Row(words, most, "a gain is supported", k, campaigns, at_least=should))
            how = f"{words[8:]}, {tasks} tasks{', each start looked at' * every}"
            print(growing.saved(how, entry["arm"], k / campaigns, sizes[claim], ALPHA))
    rows.append(Row("settle", most, "real judging ends claims as the rule", same, ends, at_least=1.0))
    return rows


def settled_families(campaigns: int, generator: np.random.Generator, tasks: int = 3) -> list[Row]:
    """Return the rows of claims of one family that are settled together: how often any false one is ever supported.

    A hundredth of the campaigns is judged whole by the functions that judge real ones.
    """
    rows, most = [], tasks * growing.INIT_STATES
    for name, entries in growing.FAMILIES.items():
        file, found = claims_file(entries), Counter[str]()
        for index in range(campaigns):
            won = growing.drawn(generator, tasks, growing.FAMILY_RATES)
            ends = growing.campaign(growing.tested(file), won, 1 / ALPHA)
            supported = {entries[claim]["arm"] for claim, end in ends.items() if end.verdict == "supported"}
            found["false"] += bool(supported - {"plus40"})
            found["true"] += "plus40" in supported
            if index % 100 == 0:
                n = {entry["arm"]: ends[claim].n for claim, entry in entries.items()}
                outcomes = {arm: won[arm].ravel()[: n.get(arm, max(n.values()))] for arm in [*n, "b"]}
                ours = {claim: end.verdict or "inconclusive" for claim, end in ends.items()}
                found["judged"] += 1
                found["same"] += judge(file, outcomes, "settle") == ours
        words = f"settle, {name}"
        rows.append(Row(words, most, "a false one is supported at any time", found["false"], campaigns, at_most=ALPHA))
        if any(entry["arm"] == "plus40" for entry in entries.values()):
            rows.append(Row(words, most, "the gain is supported", found["true"], campaigns, at_least=0.99))
        rows.append(Row(words, most, "real judging: the same", found["same"], found["judged"], at_least=1.0))
    return rows


def calibrate(campaigns: int, seed: int = 0, log: Path | None = None, only: str = "") -> list[Row]:
    """Return all rows. What is cached by counts runs `campaigns` times; what is not, a tenth, fiftieth or hundredth.

    `log` gets each finished part; parts that it has from the same call before are taken from there. `only`: the parts
    whose name begins so.
    """
    parts: list[tuple[Callable[[int, np.random.Generator], list[Row]], int]] = [
        (paired, campaigns),
        (rates, campaigns),
        (unpaired, campaigns),
        (within_tasks, max(campaigns // 10, 20)),
        (settled, campaigns),
        (functools.partial(settled, tasks=3), campaigns),
        (functools.partial(settled, tasks=3, every=True), max(campaigns // 10, 20)),
        (settled_families, campaigns),
        (families, max(campaigns // 10, 20)),
        (latencies, max(campaigns // 10, 20)),
        (resampled, max(campaigns // 50, 20)),
        (by_files, max(campaigns // 100, 3)),
    ]
    kept = json.loads(log.read_text("utf-8")) if log and log.is_file() else {}
    rows = []
    for index, (part, runs) in enumerate(parts):
        key = f"{seed}/{index}/{runs}"
        if not getattr(part, "func", part).__name__.startswith(only):
            continue
        if key not in kept:
            begun = time.process_time()
            kept[key] = [asdict(row) for row in part(runs, np.random.default_rng([seed, index]))]
            print(f"part {index + 1} of {len(parts)}: {time.process_time() - begun:.0f} s of CPU", flush=True)
            if log:
                log.write_text(json.dumps(kept), encoding="utf-8")
        rows += [Row(**row) for row in kept[key]]
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a row does not hold."""
    parser = commands.Parser(
        prog="python tools/calibration.py", description="Judge simulated campaigns with planted effects."
    )
    parser.add_argument("--campaigns", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the parts whose name begins so, such as settled")
    parser.add_argument("--log", type=Path, help="a JSON file of finished parts, from which the same command goes on")
    given = parser.parse_args(arguments)
    rows = calibrate(given.campaigns, given.seed, given.log, given.only)
    print(text(rows))
    failed = sum(not row.holds for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} rows hold (decided at {DECIDE:.1%})")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(commands.run(main, "calibration"))
