"""Which column of a CSV file is which of ours: the official names, and what the user says beside them.

``--map ours=theirs`` for a column of another name, ``--constant ours=value`` for one that a file lacks, ``--warmup
ours=value,...`` for rows that are not measurements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flashtrail.base import stages
from flashtrail.base.errors import UserError, nearest

# ours: the official client's name (docs/reference/FLASH.md, D and G)
OFFICIAL = {
    "run_id": "run_name",
    "arm": "condition",
    "suite": "task_suite_name",
    "task_id": "task_id",
    "task": "task_description",
    "episode": "episode_idx",
    "init_state": "init_state",
    "repeat": "repeat",
    "seed": "seed",
    # episodes
    "success": "success",
    "completed": "completed",
    "steps": "steps",
    "rounds": "infer_calls",
    "error": "failure_reason",
    "failure_mode": "failure_mode",
    "video": "video_path",
    # rounds
    "round": "infer_id",
    "env_step": "env_step",
    "route": "route_type",
    "accepted_prefix": "accepted_prefix_len",
    "executed": "chunk_exec_len",
    "radius": "radius_dist_mean",
    **stages.COLUMNS,
    "policy_ms": "policy_time_ms",
    "serve_ms": "serve_time_ms",
    "roundtrip_ms": "client_roundtrip_ms",
    "synchronized": "gpu_sync_before_after_used",
    "gripper_fallback": "scheduled_full_fallback_gripper",
    "condition_applied": "stage5_perturb_applied",
    "health_std": "stage7_wrist_health_std",
    "health_range": "stage7_wrist_health_range",
    "healthy": "stage7_wrist_healthy",
    "cache_hit": "stage7_cache_hit",
    "cache_age": "stage7_cache_age_queries",
    "replaced": "stage7_image_replaced",
}
_OURS = {official: ours for ours, official in OFFICIAL.items()}


@dataclass(frozen=True)
class Columns:
    """What the user says of the columns; all three by our names."""

    names: Mapping[str, str] = field(default_factory=dict)  # ours: theirs
    constants: Mapping[str, str] = field(default_factory=dict)  # ours: value
    warmup: Sequence[Mapping[str, str]] = ()  # a row that meets all of one rule is warm-up

    @classmethod
    def parse(cls, names: Iterable[str] = (), constants: Iterable[str] = (), warmup: Iterable[str] = ()) -> Columns:
        """Parse the command line's options; UserError for one without ``=``, or without a column of ours before it."""
        rules = tuple(_pairs(rule.split(","), "--warmup") for rule in warmup)
        return cls(_pairs(names, "--map"), _pairs(constants, "--constant"), rules)

    @property
    def known(self) -> set[str]:
        """Return every name by which a header can be recognised."""
        return {*OFFICIAL.values(), *self.names.values()}

    def positions(self, header: Sequence[str]) -> dict[str, int]:
        """Return, by official name, where a file's columns stand."""
        renamed = {OFFICIAL[ours]: theirs for ours, theirs in self.names.items() if theirs in header}
        columns = {name: header.index(name) for name in header if name in _OURS and name not in renamed}
        return columns | {official: header.index(theirs) for official, theirs in renamed.items()}

    def called(self, header: Sequence[str]) -> dict[str, str]:
        """Return, by official name, what this file calls a column that is mapped."""
        return {OFFICIAL[ours]: theirs for ours, theirs in self.names.items() if theirs in header}

    def check(self, headers: Mapping[str, Sequence[str]]) -> None:
        """Refuse a mapped column that no file has, and a constant for a column that a file has."""
        for ours, theirs in self.names.items():
            if not any(theirs in header for header in headers.values()):
                columns = {name for header in headers.values() for name in header if name}
                raise UserError(f"--map {ours}={theirs}: no file has a column {theirs!r}{nearest(theirs, columns)}")
        for ours, value in self.constants.items():
            for path, header in headers.items():
                position = self.positions(header).get(OFFICIAL[ours])
                if position is not None:
                    message = f"{path} has a column {header[position]!r}: --constant is for columns that it lacks"
                    raise UserError(f"--constant {ours}={value}: {message}")

    def constant_cells(self, header: Sequence[str]) -> dict[str, str]:
        """Return the constants, by official name, that a file with this header lacks."""
        placed = self.positions(header)
        cells = {OFFICIAL[ours]: value for ours, value in self.constants.items()}
        return {official: value for official, value in cells.items() if official not in placed}

    def rules_met(self, row: Mapping[str, object], path: object) -> list[int]:
        """Return which warm-up rules a row, by official names, meets; UserError if it lacks a rule's column."""
        for rule in self.warmup:
            for ours in rule:
                if OFFICIAL[ours] not in row:
                    raise UserError(f"--warmup: {path} has no column for {ours}: give --map {ours}=THEIRS")
        return [
            index
            for index, rule in enumerate(self.warmup)
            if all(_same(str(row[OFFICIAL[ours]]), value) for ours, value in rule.items())
        ]

    def check_met(self, met: Collection[int]) -> None:
        """Refuse a warm-up rule that no row meets: it would leave nothing out."""
        for index, rule in enumerate(self.warmup):
            if index not in met:
                text = ",".join(f"{ours}={value}" for ours, value in rule.items())
                raise UserError(f"--warmup {text}: no row matches")

    def unused(self, header: Sequence[str]) -> list[str]:
        """Return the columns of a file that are not read."""
        used = set(self.positions(header).values())
        return [name for position, name in enumerate(header) if name and position not in used]


def ours(official: str) -> str:
    """Return our name of an official column."""
    return _OURS[official]


def listed() -> str:
    """Return our names, each with the column that is read for it where that has another name."""
    return ", ".join(ours if ours == official else f"{ours} ({official})" for ours, official in OFFICIAL.items())


def _pairs(options: Iterable[str], flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for option in options:
        name, sign, value = (part.strip() for part in option.partition("="))
        if not sign or not name or not value:
            raise UserError(f"{flag} {option}: write OURS={'THEIRS' if flag == '--map' else 'VALUE'}")
        if name not in OFFICIAL:
            raise UserError(f"{flag} {option}: {name!r} is not one of our columns{nearest(name, OFFICIAL)}")
        if name in pairs:
            raise UserError(f"{flag} {option}: duplicate {name}")
        pairs[name] = value
    return pairs


def _same(cell: str, value: str) -> bool:
    try:
        return float(cell) == float(value)
    except ValueError:
        return cell.strip() == value
