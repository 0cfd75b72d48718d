"""What an audit looks at, one function a question; each returns what it found, nothing is repaired.

Every answer is recomputed with the functions that made it, or read from a second place that says the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import looks, summaries
from flashtrail.claims.verdicts import evaluate
from flashtrail.experiment import config
from flashtrail.record import crate, manifest, rows, snakemake_record
from flashtrail.record.run import ABOUT, SHARD_FILES, Run
from flashtrail.tables import merge, schemas
from flashtrail.tables.schemas import EPISODE_KEY, SCHEMAS

RELATIVE = 1e-9  # numbers of two machines may differ in the last digits of a sum; counts and words may not
_KEY = list(EPISODE_KEY)
_ALWAYS = {"verdict", "numbers", "rows"}  # of a claim: by whatever code it was judged


@dataclass(frozen=True)
class Check:
    """One question of the audit: `problems` is empty where all is well; `detail` says what was looked at."""

    name: str
    detail: str
    problems: list[str] = field(default_factory=list)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def checksums(run: Run) -> Check:
    """Every file has the manifest's checksum, and no other file exists."""
    verified = manifest.verify(run.root, run.files())
    return Check("checksums", _counted(verified.files, "file"), verified.problems)


def as_published(run: Run, digest: str) -> Check:
    """The manifest is the one whose digest was published elsewhere."""
    own = provenance.sha256_file(run.path(manifest.NAME))
    return Check("digest", own, [] if own == digest else [f"the bundle's is {own}, not {digest}"])


def row_digests(run: Run) -> Check:
    """Every row of every table has its recorded digest, and every table has such a record."""
    recorded = set(rows.read(run.root / rows.DIGESTS)["file"].to_pylist())
    present = {f for f in run.files() if f.endswith(".parquet") and f != rows.DIGESTS}
    problems = [f"{file}: no recorded row digests" for file in sorted(present - recorded)]
    return Check("row digests", _counted(len(recorded), "table"), problems + rows.changed_rows(run.root))


def described(run: Run) -> Check:
    """The RO-Crate describes every file, nothing that is not there, and gives the files' own SHA-256."""
    files = [f for f in run.files() if f not in (crate.NAME, manifest.NAME)]
    named, folders, digests = crate.listed(run.root)
    problems = [f"{f}: described, but missing" for f in sorted(named - {crate.NAME}) if not run.path(f).is_file()]
    problems += [f"{f}: not described" for f in crate.uncovered(files, named, folders)]
    there = [(f, d) for f, d in digests.items() if run.path(f).is_file()]
    problems += [
        f"{f}: its SHA-256 differs from the crate's" for f, d in there if provenance.sha256_file(run.path(f)) != d
    ]
    return Check("RO-Crate", f"{_counted(len(named), 'file')}, {_counted(len(folders), 'folder')}", problems)


def about(run: Run) -> dict[str, Any]:
    """Return the bundle's own description; UserError where it is not a JSON object."""
    described = provenance.json_load(run.path(ABOUT))
    if not isinstance(described, dict):
        raise UserError(f"{ABOUT} is not a JSON object as flashtrail bundle writes it: get the bundle again")
    return described


def engine_record(run: Run) -> Check:
    """Files are those whose checksums Snakemake noted when jobs read them."""
    noted = snakemake_record.input_checksums(snakemake_record.records(run.root))
    cleaned = about(run).get("cleaned", {})
    problems, compared = [], 0
    for file, digests in sorted(noted.items()):
        if PurePosixPath(file).is_absolute() or not run.path(file).is_file():
            continue
        compared += 1
        own = cleaned.get(file) or provenance.sha256_file(run.path(file))
        for digest, outputs in sorted(digests.items()):
            if digest != own:
                problems.append(f"{file} is not the file that {min(outputs)} was made from")
    return Check("engine's record", f"{compared} files that jobs read", problems)


def config_agrees(run: Run) -> Check:
    """Config and overlays, read today, give the parameters that the jobs had."""
    configs = about(run).get("configs")
    if not isinstance(configs, list) or not configs:
        raise UserError(f"{ABOUT} lists no configs: get the bundle again")
    experiment = config.load(*(run.path(file) for file in configs))
    problems = []
    checked = [] if experiment.checkup is None else [config.CHECKUP]
    planned = {"report": list(experiment.arms), "drills": list(experiment.drill_arms), "checkup": checked}
    for part, arms in run.parts.items():
        if planned[part] != arms:
            wanted = ", ".join(planned[part]) or "none"
            problems.append(f"{part}: config asks for the arms {wanted}; the run had {', '.join(arms)}")
    for arm in run.arms:
        if arm not in experiment.all_arms:
            continue
        for shard in run.shards(arm):
            # A key that only newer code has is not a disagreement; a different value is.
            recorded, configured = shard.job["params"]["arm"], experiment.arm(arm)
            odd = difference(recorded, _only(configured, recorded))
            problems += [f"{arm}, task {shard.task_id}: {odd} (run against config)"] if odd else []
    counted = ", ".join(f"{len(arms)} of the {part}" for part, arms in run.parts.items())
    return Check("config", f"{len(run.arms)} arms ({counted}), {' + '.join(configs)}", problems)


def _only(configured: Any, recorded: Any) -> Any:
    if isinstance(configured, Mapping) and isinstance(recorded, Mapping):
        return {k: _only(v, recorded[k]) for k, v in configured.items() if k in recorded}
    return configured


# --- tables ---


def merged(run: Run) -> Iterator[Check]:
    """Each arm's tables are exactly its shards put together."""
    for arm in run.arms:
        shards, count, problems = run.shards(arm), 0, []
        try:
            again = merge.merge_shards([run.path(s.directory) for s in shards], run.expected(arm))
            for name, path in run.tables(arm).items():
                own = schemas.read_table(path, SCHEMAS[name])
                count += len(own)
                odd_rows = rows.differences(own, getattr(again, name))
                problems += [f"{name}: {odd} (merged against shard)" for odd in odd_rows]
            stored = schemas.read_metadata(run.tables(arm)["episodes"])
            odd = difference(stored, again.metadata)
            problems += [f"metadata: {odd}"] if odd else []
        except UserError as error:
            problems.append(str(error))
        yield Check(f"tables of {arm}", f"{count} rows, {len(shards)} shards", problems)


def ledgers(run: Run) -> Check:
    """Each shard's ledger names the episodes, outcomes and pictures that its tables have."""
    problems, count = [], 0
    for arm in run.arms:
        for shard in run.shards(arm):
            ledger = provenance.json_load(run.path(f"{shard.directory}/ledger.json"))
            episodes = rows.read(run.path(f"{shard.directory}/episodes.parquet")).to_pylist()
            by_name = {f"init_{e['init_state']:03d}_repeat_{e['repeat']}": e for e in episodes}
            count += len(by_name)
            where = f"{arm}, task {shard.task_id}"
            if set(ledger["outcomes"]) != set(by_name) or set(ledger["expected"]) != set(by_name):
                problems.append(f"{where}: the ledger has other episodes than the table")
            for name, outcome in ledger["outcomes"].items():
                if name in by_name and by_name[name]["outcome"] != outcome:
                    problems.append(f"{where}, {name}: ledger {outcome}, table {by_name[name]['outcome']}")
            for sheet in rows.read(run.path(f"{shard.directory}/{SHARD_FILES[3]}")).to_pylist():
                name = f"init_{sheet['init_state']:03d}_repeat_{sheet['repeat']}"
                if name not in by_name or by_name[name]["outcome"] != sheet["outcome"]:
                    problems.append(f"{where}, {name}: its contact sheet says {sheet['outcome']}")
    return Check("ledgers", f"{count} episodes", problems)


def integrality(run: Run) -> Check:
    """Each episode's counters are its rounds and steps; it is a success exactly where its last step ended it."""
    problems, count = [], 0
    for arm in run.arms:
        files = run.tables(arm)
        episodes, rounds, steps = (rows.read(files[name]).to_pandas() for name in ("episodes", "rounds", "steps"))
        count += len(episodes)
        simulated = schemas.read_metadata(files["episodes"]).get("simulated")
        problems += _at_odds(episodes, rounds, steps, ends=not simulated)
    return Check("integrality", f"{count} episodes against their rounds and steps", problems)


def _at_odds(episodes: pd.DataFrame, rounds: pd.DataFrame, steps: pd.DataFrame, ends: bool) -> list[str]:
    own = episodes.set_index(_KEY)
    by_episode = rounds.assign(
        draft=(rounds["route"] == "draft").astype(int), taken=rounds["executed"] + rounds["waited_steps"].fillna(0)
    ).groupby(_KEY)
    last = steps.sort_values("step").groupby(_KEY).last()
    drafts = rounds[rounds["route"] == "draft"].groupby(_KEY)["accepted_prefix"].mean()
    counted = {
        "rounds": by_episode.size(),
        "draft_rounds": by_episode["draft"].sum(),
        "full_rounds": by_episode.size() - by_episode["draft"].sum(),
        "executed_actions": by_episode["taken"].sum(),
        "steps": steps.groupby(_KEY).size(),
        "success": own["outcome"] == "success",
    }
    problems = [
        f"{_named(key)}: {name} {own.at[key, name]}, its rows say {counts.get(key, 0):g}"
        for name, counts in counted.items()
        for key in own.index
        if own.at[key, name] != counts.get(key, 0)
    ]
    for key in own.index:
        stated, mean = own.at[key, "accepted_prefix_mean"], drafts.get(key, math.nan)
        if not _close(float(stated), float(mean)):
            problems.append(f"{_named(key)}: accepted_prefix_mean {stated:g}, its draft rounds' {mean:g}")
        if ends and key in last.index:
            ended = bool(last.at[key, "done"]) and last.at[key, "reward"] > 0
            if ended != bool(own.at[key, "success"]):
                problems.append(f"{_named(key)}: success {own.at[key, 'success']}, its last step says {ended}")
    return problems


def _named(key: Any) -> str:
    return "/".join(map(str, key))


# --- numbers and verdicts ---


def summarised(run: Run) -> Iterator[Check]:
    """Each summary, recomputed, is the one in the bundle; its mean latency is that of its routes' mixture."""
    problems, other = [], bool(other_code(run))
    for arm in run.summarised:
        recorded, again = provenance.json_load(run.summary(arm)), plain(summaries.summarize_arm(**run.tables(arm)))
        odd = difference(recorded, _as_recorded(recorded, again) if other else again)
        problems += [f"{arm}: {odd} (recorded against recomputed)"] if odd else []
    apart = " by other code than theirs; what theirs did not record is not compared" if other else ""
    yield Check("summaries", f"{len(run.summarised)} arms recomputed{apart}", problems)
    mixed = []
    for arm in run.arms:
        mixture = summaries.mixture(rows.read(run.tables(arm)["rounds"]).to_pandas())
        mean, implied = mixture["mean_ms"], mixture["implied_ms"]
        if mean is not None and implied is not None and not math.isnan(mean) and not _close(mean, implied, 1e-6):
            mixed.append(f"{arm}: mean {mean:.4f} ms, its routes imply {implied:.4f} ms")
    yield Check("mixture identity", f"{len(run.arms)} arms", mixed)


def verdicts(run: Run) -> Iterator[Check]:
    """Each claim, judged again on the bundle's tables, has the verdict, numbers, rows and sentence on record."""
    recorded = provenance.json_load(run.path(run.evaluation["output"]["claims"]))
    again = plain(evaluate(run.claims_file(), run.evidence()))
    ours, theirs = ({c["id"]: c for c in side["claims"]} for side in (recorded, again))
    before, after = ({k: v for k, v in side.items() if k != "claims"} for side in (recorded, again))
    head = difference(before, after)
    problems = [f"claims.json: {head} (recorded against recomputed)"] if head else []
    if list(ours) != list(theirs):
        problems.append(f"claims on record {', '.join(ours)}; claims.yaml has {', '.join(theirs)}")
    other = bool(other_code(run))
    for claim in [c for c in ours if c in theirs]:
        own, now = ours[claim], theirs[claim]
        if other:
            own, now = ({key: value for key, value in one.items() if key != "sentence"} for one in (own, now))
            now = _as_recorded(own, now)
        odd = difference(own, now)
        if odd:
            verdict = f"{ours[claim]['verdict']}, recomputed {theirs[claim]['verdict']}; "
            problems.append(f"{claim}: {verdict}{odd} (recorded against recomputed)")
    apart = " by other code than theirs; sentences, and what theirs did not record, not compared" if other else ""
    yield Check("verdicts", f"{len(ours)} claims recomputed{apart}", problems)
    yield _looked(run, recorded["claims"])


def other_code(run: Run) -> str:
    """Return a note where the bundle's code differs from the auditing code; empty where it is the same."""
    sources, own = run.root / "src", provenance.PACKAGE_ROOT
    theirs = provenance.source_files(sources / "flashtrail")
    if not theirs:
        return ""
    same = provenance.digest_tree(theirs, sources) == provenance.digest_tree(provenance.source_files(own), own.parent)
    return "" if same else "note: this bundle was made by different code than the auditing one; its own is in src/"


def _as_recorded(recorded: Any, again: Any) -> Any:
    """Return `again` with no more keys than `recorded` has, on every level."""
    if not (isinstance(recorded, Mapping) and isinstance(again, Mapping)):
        return again
    return {key: _as_recorded(recorded.get(key), value) for key, value in again.items() if key in {*recorded, *_ALWAYS}}


def _looked(run: Run, claims: list[dict[str, Any]]) -> Check:
    """The last look on record at each comparison is the one that gave its verdict on record."""
    kept = looks.read(run.path(run.outputs.looks))
    last, problems = {look["claim"]: look for look in kept}, []
    for claim in claims:
        if claim.get("anytime"):  # a record of before there was one has none
            own, recorded = looks.of_claim(claim), last.get(claim["id"], {})
            odd = difference({key: recorded.get(key) for key in looks.SAME}, {key: own[key] for key in looks.SAME})
            problems += [f"{claim['id']}: {odd} (last look against verdict)"] if odd else []
    return Check("looks", f"{_counted(len(kept), 'look')} at {_counted(len(last), 'comparison')}", problems)


def plain(value: Any) -> Any:
    """Return what reading the written JSON would give."""
    return json.loads(json.dumps(value, default=lambda number: number.tolist()))  # numpy's


def difference(recorded: Any, again: Any, where: str = "") -> str | None:
    """Return the first place where two JSON values differ, with both values; None where they agree.

    Numbers that are not whole may differ by RELATIVE.
    """
    if isinstance(recorded, Mapping) and isinstance(again, Mapping):
        for key in sorted({*recorded, *again}, key=str):
            path = f"{where}.{key}" if where else str(key)
            if key not in recorded or key not in again:
                return f"{path} is only in the {'second' if key not in recorded else 'first'}"
            if odd := difference(recorded[key], again[key], path):
                return odd
        return None
    if isinstance(recorded, list) and isinstance(again, list):
        if len(recorded) != len(again):
            return f"{where} has {len(recorded)} entries against {len(again)}"
        return next(
            (
                odd
                for i, (a, b) in enumerate(zip(recorded, again, strict=True))
                if (odd := difference(a, b, f"{where}[{i}]"))
            ),
            None,
        )
    if isinstance(recorded, float) and isinstance(again, int | float) and _close(recorded, float(again)):
        return None
    if type(recorded) is not type(again) or recorded != again:
        return f"{where} {str(recorded)[:60]} against {str(again)[:60]}"
    return None


def _close(a: float, b: float, tolerance: float = RELATIVE) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=tolerance, abs_tol=1e-12)
