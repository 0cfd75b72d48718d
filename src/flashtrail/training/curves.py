"""The curves of a training run: curve.csv, history.json and TensorBoard event files."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashtrail.base.provenance import json_dump, write_atomic

CSV, HISTORY, EVENTS = "curve.csv", "history.json", "tensorboard"
Row = Mapping[str, float]


class Events:
    """TensorBoard scalars of a run, where tensorboardX is installed (envs/model.yaml); else nothing is written.

    What a killed process wrote beyond its last checkpoint is struck out when the run goes on from `step`.
    """

    def __init__(self, directory: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(directory / EVENTS), purge_step=step + 1 if step else None)

    def add(self, row: Row) -> None:
        """Write a row's scalars at its step."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "step" and not math.isnan(value):
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


def write(directory: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Write curve.csv and history.json (`about` and the rows), each whole; what was not measured is empty or null."""
    if not rows:
        return
    with write_atomic(directory / CSV) as path, path.open("w", -1, "utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows([{k: "" if math.isnan(v) else v for k, v in row.items()} for row in rows])
    plain = [{k: None if math.isnan(v) else v for k, v in row.items()} for row in rows]
    json_dump({**about, "rows": plain}, directory / HISTORY)
