"""Every component of the reports on one page, with invented rows that say so: to look at while a component is changed.

    python tools/kit.py kit.html

Rows are drawn here, verdicts computed from them as in a run. Nothing of it is evidence.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from flashtrail.base import commands, provenance
from flashtrail.base.errors import UserError
from flashtrail.claims import claims, summaries, verdicts
from flashtrail.claims.campaign import Campaign
from flashtrail.report import chapters, claims_chapter, count_links, headline, layout, overview, page
from flashtrail.tables import schemas

_CLAIMS = provenance.PACKAGE_ROOT.parents[1] / "claims.yaml"
_SUITE, _TASK = "invented", "an invented task"
_BLACK = {"kind": "zero", "view": "wrist", "every": 4, "length": 1, "start": 0}
# arm: rate of success, condition, guard, every round full; names are those that claims.yaml compares
_ARMS: dict[str, tuple[float, dict[str, Any], str, bool]] = {
    "clean": (0.90, {"kind": "none"}, "none", False),
    "full_only": (0.93, {"kind": "none"}, "none", True),
    "wrist_zero_every4": (0.35, _BLACK, "none", False),
    "wrist_zero_all": (0.0, _BLACK | {"every": 1}, "none", False),
    "guard_wrist_zero_every4": (0.55, _BLACK, "wrist_health", False),
}
_EPISODES, _ROUNDS = 30, 9
_MS = {"draft": 8.0, "full": 33.0}


def campaign(arms: list[str] | None = None) -> Campaign:
    """Return a run of invented rows, its summaries and its verdicts; `arms`: some of them only."""
    chosen = list(_ARMS) if arms is None else arms
    drawn = [_rows(arm) for arm in chosen]
    schema = (schemas.EPISODES, schemas.ROUNDS)
    episodes, rounds = (_frame([row for rows in drawn for row in rows[i]], schema[i]) for i in (0, 1))
    run = Campaign.of_frames(
        episodes=episodes, rounds=rounds, profile=_profile(), sheets=_sheets(chosen), simulated=True
    )
    told = {"simulated": "true", "device": "invented"}
    run.__dict__["metadata"] = {arm: told | _settings(arm) for arm in chosen}
    run.__dict__["summaries"] = {
        arm: summaries.summary(run.of_arm("episodes", arm), run.of_arm("rounds", arm))
        | {"clock": None, "metadata": run.metadata[arm]}
        for arm in chosen
    }
    run.__dict__["claims"] = {"claims": verdicts.judge_all(claims.load(_CLAIMS), run)}
    run.repeat = "python tools/kit.py kit.html"
    return run


def _settings(arm: str) -> dict[str, str]:
    _, condition, guard, _ = _ARMS[arm]
    return {"condition": json.dumps(condition), "guard": json.dumps({"kind": guard, "std_min": 1.0})}


def _rows(arm: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return an arm's episodes and rounds; one draw a start decides in every arm, so that arms are paired."""
    rate, condition, guard, full_only = _ARMS[arm]
    luck = np.random.default_rng(5).random(_EPISODES)
    generator = np.random.default_rng(sorted(_ARMS).index(arm))
    episodes: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    for state in range(_EPISODES):
        key = {"arm": arm, "suite": _SUITE, "task_id": 0, "init_state": state, "repeat": 0}
        success = bool(luck[state] < rate)
        drafts = 0 if full_only else int((generator.random(_ROUNDS - 1) < 0.8).sum())
        for number in range(_ROUNDS):
            draft = 0 < number <= drafts
            hit = condition["kind"] != "none" and number % condition["every"] == 0
            accepted = int(generator.choice([0, 6, 9, 12])) if draft else schemas.EXEC_STEPS
            told = {"healthy": not hit, "replaced": hit and number > 0, "masked": False} if guard != "none" else {}
            rounds.append(
                {**key, "round": number, "env_step": 12 * number, "route": "draft" if draft else "full"}
                | {"accepted_prefix": accepted, "executed": accepted, "condition_applied": hit, "noise_seed": ""}
                | {"fallback_cause": None if draft else "first" if number == 0 else "zero_accept", **told}
                | {"policy_ms": _MS["draft" if draft else "full"], "synchronized": True, "batch_size": 1}
                | {"health_std": (0.0 if hit else 50.0) if told else None}
            )
        of_episode = rounds[-_ROUNDS:]
        episodes.append(
            {**key, "run_id": "invented", "policy": "invented", "task": _TASK, "seed": 0, "success": success}
            | {"outcome": "success" if success else "horizon", "steps": 108, "rounds": _ROUNDS}
            | {"draft_rounds": drafts, "full_rounds": _ROUNDS - drafts, "started_at": "2000-01-01T00:00:00Z"}
            | {"executed_actions": sum(row["executed"] for row in of_episode)}
        )
    return episodes, rounds


def _frame(rows: list[dict[str, Any]], schema: Any) -> pd.DataFrame:
    return pd.DataFrame(rows).reindex(columns=schema.names)


def _profile() -> pd.DataFrame:
    generator, rows = np.random.default_rng(2), []
    for route, ms in _MS.items():
        for time in ms * generator.lognormal(0, 0.04, 40):
            rows.append({"policy": "invented", "route": route, "policy_ms": time, "synchronized": True})
    rows = [row | {"device": "invented", "warmup": False} for row in rows]
    return _frame(rows, schemas.PROFILE)


def _sheets(arms: list[str]) -> pd.DataFrame:
    buffer = io.BytesIO()
    Image.new("RGB", (896, 384), (96, 104, 112)).save(buffer, "JPEG")
    key = {"suite": _SUITE, "task_id": 0, "init_state": 0, "repeat": 0, "outcome": "success"}
    return pd.DataFrame([{"arm": arm, **key, "jpeg": buffer.getvalue()} for arm in arms])


def body(run: Campaign) -> str:
    """Return every component, each under its name."""
    long = [{"n": number, "square": number**2, "word": "even" if number % 2 == 0 else "odd"} for number in range(40)]
    words = ("supported", "refuted", "inconclusive", "not_tested")
    parts = [
        overview.header(run, "The kit: every component, with invented rows"),
        headline.section(run),
        page.heading("Verdicts by group"),
        claims_chapter.matrix(run),
        page.heading("A figure that follows the page, and a table"),
        chapters.success(run),
        page.heading("A long table"),
        page.table(long, {"n": "N", "square": "Square", "word": "Word"}, ("n", "square"), "Its head stays in view"),
        page.heading("Words and marks"),
        page.paragraph(page.inline(*(page.inline(page.badge(word), " ") for word in words))),
        page.paragraph(page.inline("A count of no episode: ", count_links.apart("3/4", "published"), ".")),
        page.paragraph("A note.", "note"),
        page.paragraph("A warning.", "warning"),
        page.facts({"A term": "its text", "Another": page.code("a_name_in_a_file")}),
        page.details("A part that is folded on screen", page.paragraph("It is open on paper.")),
    ]
    return page.join(*parts)


def main(arguments: list[str]) -> int:
    """Write the page."""
    if len(arguments) != 1:
        raise UserError("say where the page goes: python tools/kit.py kit.html")
    text = layout.document("FLASHTrail: the kit", body(campaign()), "Invented rows: not evidence about anything.")
    Path(arguments[0]).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(lambda: main(sys.argv[1:]), "kit"))
