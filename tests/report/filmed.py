"""An episode of a simulated campaign with film, contact sheet and what was sent, made as the recorder makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from claims.simulated import METADATA, SUITE
from rollouts.scripted import DRAFT, Reply

from flashtrail.rollouts.episode import Query
from flashtrail.rollouts.film import Film
from flashtrail.rollouts.guards import GuardRecord
from flashtrail.simulators.observation import Observation
from flashtrail.tables import schemas

STATE = np.arange(8.0) / 8


def shade(query: int) -> int:
    """How bright the pictures of a query are: apart enough to be told after encoding."""
    return 20 + 9 * query


def film_episode(root: Path, arm: str, task: int = 0, state: int = 0) -> int:
    """Film one episode of the campaign below `root`; return how many queries it had."""
    directory = root / "rollouts" / arm / f"task_{task}"
    key = {"arm": arm, "suite": SUITE, "task_id": task, "init_state": state, "repeat": 0}
    own = lambda row: all(row[name] == value for name, value in key.items())  # noqa: E731
    path = directory / "videos" / f"init_{state:03d}_repeat_0.mp4"
    path.parent.mkdir(exist_ok=True)
    rounds = [row for row in schemas.read_table(directory / "rounds.parquet", schemas.ROUNDS).to_pylist() if own(row)]
    film = Film(path)
    for row in rounds:
        grey = np.full((224, 224, 3), shade(row["round"]), np.uint8)
        seen = Observation(grey, grey, STATE + row["round"], f"prompt {row['round']}")
        chunk = np.full((50, 7), 0.01 * row["round"])
        film.add(Query(row["round"], seen, Reply(chunk, row["accepted_prefix"], DRAFT), False, GuardRecord()))
    film.write()
    jpeg = path.with_suffix(".jpg")
    sheet = {**key, "outcome": "success", "jpeg": jpeg.read_bytes()}
    schemas.write_table(directory / "sheets.parquet", [sheet], schemas.SHEETS, METADATA)
    jpeg.unlink()
    table = root / "tables" / arm / "episodes.parquet"
    episodes = schemas.read_table(table, schemas.EPISODES).to_pylist()
    episodes = [row | {"video": f"videos/{path.name}" if own(row) else row["video"]} for row in episodes]
    schemas.write_table(table, episodes, schemas.EPISODES, METADATA)
    return len(rounds)
