"""Grid arms: one line of the config, fault x severity x guard, written out as conditions and arms.

Names are made of the grid's name, the severity and the guard, so that they stay what they are when a value or a guard
is added. Pure; knows the config's text only, no result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashtrail.base.errors import UserError

OF_ARM = ("policy", "episodes", "first_init_state", "repeats", "flash", "video")


@dataclass(frozen=True)
class Cell:
    """One arm of a grid; `severity` is the parameter's value, `view` None where the fault has no view."""

    grid: str
    fault: str
    view: str | None
    parameter: str
    severity: float
    guard: str

    @property
    def condition(self) -> str:
        """Name of the cell's condition: ``wrist_grid_every4``, ``noise_sigma2p5``."""
        return f"{self.grid}_{self.parameter}{str(self.severity).replace('.', 'p')}"

    @property
    def arm(self) -> str:
        """Name of the cell's arm: ``wrist_grid_every4_wrist_health``."""
        return f"{self.condition}_{self.guard}"


def cells(name: str, grid: Mapping[str, Any]) -> list[Cell]:
    """Return a grid's cells, severity by severity; UserError where its severity is not one parameter with values."""
    if len(grid["severity"]) != 1:
        raise UserError(f"config: grids.{name}.severity: give one parameter with its values, such as {{every: [2, 4]}}")
    ((parameter, values),) = grid["severity"].items()
    for what, given in ((f"severity.{parameter}", values), ("guards", grid["guards"])):
        if len(set(given)) != len(given) or not given:
            raise UserError(f"config: grids.{name}.{what}: give each once, and at least one")
    return [
        Cell(name, grid["fault"], grid["view"], parameter, value, guard) for value in values for guard in grid["guards"]
    ]


def written_out(data: Mapping[str, Any], grids: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the config with the conditions and arms of its grids added; UserError for a name that is taken."""
    conditions, arms = dict(data.get("conditions", {})), dict(data.get("arms", {}))
    for name, grid in grids.items():
        own: dict[str, Any] = {}
        for cell in cells(name, grid):
            view = {} if cell.view is None else {"view": cell.view}
            fault = {"kind": cell.fault, **view, **grid["parameters"], cell.parameter: cell.severity}
            own[cell.condition] = fault
            arm = {key: grid[key] for key in OF_ARM} | {"condition": cell.condition, "guard": cell.guard}
            _add(f"grids.{name}", "arm", arms, cell.arm, arm)
        for condition, fault in own.items():
            _add(f"grids.{name}", "condition", conditions, condition, fault)
    return {**data, "conditions": conditions, "arms": arms}


def plain(cell: Cell) -> dict[str, Any]:
    """Return a cell as JSON-able data, for whoever draws it (the config adds `guard_kind`)."""
    return asdict(cell)


def _add(where: str, what: str, known: dict[str, Any], name: str, value: Any) -> None:
    if name in known:
        raise UserError(f"config: {where}: its {what} {name!r} has the name of another {what}: rename one of them")
    known[name] = value
