"""Short films of one start side by side: without a fault, with it, with a remedy; below each its rounds.

A film of at most EMBEDDED bytes is embedded, so that the report stays one file that asks for nothing; else, and where
none was kept, a still from the contact sheet stands in its place.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.claims.campaign import Campaign
from flashtrail.report import arm_words, layout, thumbnails
from flashtrail.report.page import Html
from flashtrail.statistics.wording import plural
from flashtrail.tables import links
from flashtrail.tables.schemas import EPISODE_KEY, PAIR_KEY

EMBEDDED = 300_000
_ROLES = ("clean", "fault", "remedy", "retrained")
_Key = tuple[Any, ...]


def section(run: Campaign) -> Html | None:
    """Return the films of the start that shows most; None where no picture of any was kept."""
    chosen = choose(run)
    if not chosen:
        return None
    shown = [_film(run, row) for row in chosen]
    first = chosen[0]
    where = f"Task {first['task_id']} ({first['task']}), initial state {first['init_state']}"
    return Html(layout.ENVIRONMENT.get_template("films.html.j2").render(films=shown, where=where, drafts=run.drafts))


def choose(run: Campaign) -> list[dict[str, Any]]:
    """Return an episode each of an arm without a fault, one with it and one with a remedy, all of one start.

    Most pictures first, then a start at which the first succeeds and the second fails; arms in their order.
    """
    pictured = _pictured(run)
    if not pictured:
        return []
    best: list[dict[str, Any]] = []
    score: tuple[Any, ...] = ()
    for arms in _triples(run):
        for key in dict.fromkeys(key for arm in arms for key in pictured.get(arm, {})):
            rows = [pictured[arm][key] for arm in arms if key in pictured.get(arm, {})]
            ends = [row["outcome"] == "success" for row in rows]
            telling = ends[:2] == [True, False]
            own = (len(rows), sum(row["film"] is not None for row in rows), telling, ends[-1])
            if own > score:
                best, score = rows, own
    return best


def _triples(run: Campaign) -> list[list[str]]:
    """Return, for each remedy and each fault without one, the arms to be shown together."""
    summaries = run.plain_summaries
    role = {arm: arm_words.role(summary, run.usual_policy(summary)) for arm, summary in summaries.items()}
    drafting = [arm for arm in role if role[arm] == "clean" and summaries[arm]["routes"]["draft"]]
    plain = [arm for arm in role if role[arm] == "clean"]
    usual = [arm for arm in plain if summaries[arm]["policy"] == run.usual_policy(summaries[arm])]
    clean = (drafting or usual or plain)[:1]
    remedied = [(run.control_of(arm), arm) for arm in role if role[arm] in ("remedy", "retrained")]
    found = [[*clean, control, arm] for control, arm in remedied if control]
    return [*found, *([*clean, arm] for arm in role if role[arm] == "fault"), clean]


def _pictured(run: Campaign) -> dict[str, dict[_Key, dict[str, Any]]]:
    """Return the episodes of which a film or a contact sheet was kept, by arm and start, each with both."""
    lists = {arm: path for path in run.files("pages") for arm in run.arms if links.directory(arm) == path.parent.name}
    filmed = run.episodes.merge(run.sheets[[*EPISODE_KEY, "jpeg"]], on=list(EPISODE_KEY), how="left")
    found: dict[str, dict[_Key, dict[str, Any]]] = {}
    for row in filmed[filmed["video"].notna() | filmed["jpeg"].notna()].to_dict("records"):
        film, sheet = _kept(lists.get(row["arm"]), row), row["jpeg"] if isinstance(row["jpeg"], bytes) else None
        if film or sheet:
            start = tuple(row[name] for name in PAIR_KEY)
            found.setdefault(row["arm"], {})[start] = {**row, "film": film, "sheet": sheet}
    return found


def _kept(list_of_arm: Path | None, row: Mapping[str, Any]) -> Path | None:
    """Return an episode's film beside its page, if it is small enough to be embedded."""
    if list_of_arm is None or not isinstance(row["video"], str):
        return None
    film = list_of_arm.parent / "videos" / f"{links.stem(row)}.mp4"
    return film if film.is_file() and film.stat().st_size <= EMBEDDED else None


def _film(run: Campaign, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of one episode."""
    arm = row["arm"]
    summary = run.summaries[arm]
    rounds = run.of_arm("rounds", arm)
    for name in PAIR_KEY:
        rounds = rounds[rounds[name] == row[name]]
    steps = row["steps"]
    end = "success" if row["outcome"] == "success" else "not done"
    after = f" after {plural(int(steps), 'step')}" if steps == steps and steps is not None else ""
    still = None if row["sheet"] is None else thumbnails.frame(row["sheet"], row["rounds"], words=True)
    return {
        "arm": arm,
        "name": arm_words.short(summary, run.usual_policy(summary)),
        "role": arm_words.role(summary, run.usual_policy(summary)),
        "success": row["outcome"] == "success",
        "end": f"{end}{after}",
        "page": links.episode(run.pages[arm], row) if arm in run.pages else None,
        "film": None if row["film"] is None else base64.b64encode(row["film"].read_bytes()).decode(),
        "still": None if still is None else base64.b64encode(still).decode(),
        "rounds": rounds_said(rounds.sort_values("round").to_dict("records")),
    }


def rounds_said(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each round as the strip below a film has it: route, height 0-1, fault, words."""
    most = max([int(row["accepted_prefix"]) for row in rounds], default=0) or 1
    said = []
    for row in rounds:
        accepted, hit = int(row["accepted_prefix"]), row["condition_applied"] is True or row["condition_applied"] == 1
        draft = row["route"] == "draft"
        words = f"round {row['round']}: {row['route']}" + (f", accepted {accepted} of {most}" if draft else "")
        words += ", fault" * hit + "".join(f", {name}" for name in ("replaced", "masked") if row[name] == 1)
        said.append({"route": row["route"], "height": accepted / most if draft else 1.0, "hit": hit, "words": words})
    return said
