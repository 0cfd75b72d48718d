"""Looks: each time that the verdict on a comparison was computed, on how many episodes, and what it may rest on since.

A fixed-n test is valid where n was fixed before the first look. So looks are kept in one table, which is only appended
to, and a verdict rests on the fixed-n test only where every look at this comparison saw the same counts and none was
`flashtrail settle`'s, which would have added to them; otherwise on the anytime-valid one (statistics/anytime.py). A
comparison is identified by its test, its arms and what their episodes depend on (`digest`): a new margin or wording
does not make it a new one, since whoever changes them has looked; a new policy or seed does.
"""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import claims as types
from flashtrail.statistics.intervals import Interval
from flashtrail.tables import schemas

FILE = "results/claims/looks.parquet"
ASKED = "FLASHTRAIL_ASKED"  # environment variable: who asked for the look (default: report)
SETTLE = "settle"
_COMPARISON = ("test", "arm", "control", "success")  # of a claim
_DEPENDS = ("config_digest", "artifact_digest")  # of an arm's tables: what its episodes depend on
_COUNTS = ("n", "k_arm", "k_control", "wins", "losses")
# A look is new where one of these differs from the last one's: rendering a page again adds none.
SAME = ("claim", "digest", "n", "k_arm", "k_control", "wins", "losses", "rows", "rests_on", "verdict")


@dataclass(frozen=True)
class Anytime:
    """The anytime-valid side of a comparison: `e` against `needs` = 1/alpha, the confidence sequence, its verdict.

    `looks` has the n of every look so far, this one included, once for each counts, in the order of the first looks;
    `settled` says that one of them was settle's.
    """

    e: float
    needs: float
    interval: Interval | None
    verdict: types.Verdict
    digest: str
    looks: tuple[int, ...]
    counts: Mapping[str, int | None]
    settled: bool = False

    @property
    def fixed(self) -> bool:
        """Whether n was fixed before the first look, as far as is known."""
        return len(self.looks) == 1 and not self.settled

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with what the claim's verdict rests on."""
        return {**asdict(self), "looks": list(self.looks), "rests_on": "fixed-n" if self.fixed else "anytime"}


def digest(claim: types.AnyClaim, metadata: Mapping[str, Mapping[str, str]]) -> str:
    """Return what identifies a comparison: its test, its arms, which success, and what its episodes depend on.

    `metadata`: by arm, its tables' entries.
    """
    tested = {key: getattr(claim, key, None) for key in _COMPARISON}
    if metric := getattr(claim, "metric", None):
        limit = getattr(claim, "limit", None)
        tested |= {"metric": metric, "side": getattr(claim, "side", None)} | ({} if limit is None else {"limit": limit})
    arms = [metadata.get(str(tested[side]), {}) for side in ("arm", "control")]
    return provenance.digest_json([tested, [[entries.get(key, "") for key in _DEPENDS] for entries in arms]])


def sizes(looks: Sequence[Mapping[str, Any]], comparison: str, counts: Mapping[str, int | None]) -> tuple[int, ...]:
    """Return the n of each look at one comparison (its digest), the present one with `counts` included.

    Each set of counts adds one n: the same n with other counts is a second draw of its episodes, and a second chance.
    """
    same_comparison = [*(look for look in looks if look["digest"] == comparison), counts]
    return tuple(
        n or 0 for n, *_ in dict.fromkeys(tuple(look.get(name) for name in _COUNTS) for look in same_comparison)
    )


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return the looks on record, in their order; none where no look was taken yet.

    UserError for a damaged file, or one that is gone though its lock says that it was written: without it no later
    verdict may rest on a fixed-n test.
    """
    try:
        if not Path(path).exists():
            if not _lock(Path(path)).is_file() or not _lock(Path(path)).stat().st_size:
                return []
            raise UserError("it was written and is gone")
        return [dict(row) for row in schemas.read_table(path, schemas.LOOKS).to_pylist()]
    except UserError as error:
        reason = str(error).removeprefix(f"{path} ").removesuffix("; remove it and run again")
        raise UserError(
            f"{path}, the record of looks at the claims, cannot be read ({reason}): put back the copy in your last "
            f"bundle; only if there is none, remove it and {_lock(Path(path)).name}, and do not quote a fixed-n "
            "verdict on these episodes"
        ) from None


def append(
    path: str | Path,
    judged: Sequence[Mapping[str, Any]],
    asked: str,
    planned: Mapping[str, int] | None = None,
    now: str = "",
) -> int:
    """Add the looks of claims just judged (`verdicts.judge_all`) to the table; return how many were new.

    `planned`: by arm, the episodes that the config asks for; `now`: ISO 8601, the clock's where it is empty. The file
    is replaced whole, under a lock.
    """
    target, now = Path(path), now or datetime.now(UTC).isoformat(timespec="seconds")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recorded = read(target)
        last = {look["claim"]: look for look in recorded}
        looks = [of_claim(claim, planned) | {"at": now, "asked": asked} for claim in judged if claim["anytime"]]
        new = [look for look in looks if any(look[k] != last.get(look["claim"], {}).get(k) for k in SAME)]
        if new:
            schemas.write_table(target, [*recorded, *new], schemas.LOOKS)
            lock.write(b"" if lock.tell() else b"written\n")
    return len(new)


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def of_claim(claim: Mapping[str, Any], planned: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the look at a judged comparison as a row, without its time and who asked for it."""
    side = claim["anytime"]
    sizes = [planned[arm] for arm in claim["arms"] if arm in planned] if planned else []
    return {
        **{"claim": claim["id"], "digest": side["digest"], "test": claim["test"]},
        **{"arm": claim["arms"][0], "control": claim["arms"][1] if len(claim["arms"]) > 1 else None},
        **{"n_planned": min(sizes, default=None), "rows": provenance.digest_json(claim["rows"])},
        **dict.fromkeys(("k_control", "wins", "losses")) | dict(side["counts"]),
        **{"e": side["e"], "p": claim["p"], "rests_on": side["rests_on"], "verdict": claim["verdict"]},
    }
