"""Sets of demonstrations in the studio: the report's chapter on one, and an episode's pictures with its curves."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashtrail.base.errors import UserError
from flashtrail.claims.campaign import Campaign
from flashtrail.datasets import survey, take
from flashtrail.report import data_chapter, drawing, palette, plotting
from flashtrail.simulators.observation import resize_with_pad
from flashtrail.studio import picture
from flashtrail.training import dataset

_LOOKED = ("*", "results/*", "results/*/*", "data/*")  # below the checkout
_BESIDE = ("", "*", "*/*")  # below a directory that the command names
MOST_PICTURES = 200  # of an episode and camera
_MOST_ROWS = 24  # of curves
_FILE = re.compile(r"(task\d{1,4}/ep\d{4,5})|episode (\d{1,7})")


def sets(root: Path, beside: Sequence[Path] = ()) -> dict[str, Path]:
    """Return the sets that may be chosen by name: a path from the checkout, or one of those that the command names."""
    below = {str(path.relative_to(root)): path for path in _found(root, _LOOKED)}
    return below | {str(path): path for place in beside for path in _found(place, _BESIDE)}


def _found(root: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in (sorted(root.glob(pattern)) if pattern else [root]) if survey.is_set(path))


def shown(name: str, path: Path, told: Callable[[int], None]) -> dict[str, Any]:
    """Return what the report's chapter shows of a set, as HTML, and its episodes by name with a line on each."""
    sheet, found = io.BytesIO(), survey.survey(path, told=told)
    about = survey.record(found, name, sheet)
    run = Campaign.of_frames(datasets={path.name: about}, dataset_sheets={path.name: sheet.getvalue()})
    lines = [f"{one['name']}: {one['steps']} steps, {one['task']}" for one in about["each"]]
    names = [one["name"] for one in about["each"]]
    return {"html": f"{_colours()}{data_chapter.section(run)}", "episodes": [*zip(lines, names, strict=True)]}


def _colours() -> str:
    light, dark = palette.properties()
    return f"<style>.st-data{{{light}}}.dark .st-data{{{dark}}}</style>"


def episode(path: Path, name: str) -> dict[str, Any]:
    """Return an episode: pictures as JPEGs in base64, a list a step, the steps that they are of, curves as SVG.

    UserError for one that the set does not have.
    """
    match = _FILE.fullmatch(name)
    if match and match[1] and (path / f"{name}.npz").is_file():
        _, _, arrays = dataset.read_episode(path / f"{name}.npz")
        survey.check(arrays, path / f"{name}.npz")
        steps, states, actions = arrays["at"], arrays["state"], arrays["label"]
        names = survey.dims_of(dataset.described(path), states.shape[1], actions.shape[1])
        kept = _thinned(len(steps))
        views = {view: [arrays[view][at] for at in kept] for view in dataset.VIEWS if view in arrays}
        steps = steps[kept]
    elif match and match[2] and (path / "meta").is_dir():
        source = take.opened(path)
        if int(match[2]) >= len(source):
            raise source.wrong(f"it has no {name}")
        read = source.episode(int(match[2]))
        states, actions, steps = read.states, read.actions, _thinned(len(read.actions))
        wanted = set(steps)
        names = (source.names(source.state), source.names(source.action))
        views = {
            camera: [resize_with_pad(p) for at, p in enumerate(source.pictures(read, camera)) if at in wanted]
            for camera in source.cameras
        }
    else:
        raise UserError(f"the set has no episode {name!r}")
    pictures = [[picture.jpeg(one) for one in at] for at in zip(*views.values(), strict=True)]
    return {
        **{"cameras": [*views], "pictures": pictures, "steps": [int(at) for at in steps], "length": len(actions)},
        "curves": curves({"action": (names[1], actions), "state": (names[0], states)}),
        "values": [[[round(float(v), 4) for v in rows[at]] for rows in (states, actions)] for at in steps],
    }


def _thinned(count: int) -> NDArray[Any]:
    return np.unique(np.linspace(0, count - 1, min(MOST_PICTURES, count)).round().astype(int))


def curves(dims: Mapping[str, tuple[Sequence[str], NDArray[Any]]]) -> str:
    """Return dims over the steps of an episode, a row each from its least to its largest; by kind: names, (T, D)."""
    every = ((kind, *dim) for kind, (names, values) in dims.items() for dim in zip(names, values.T, strict=True))
    rows = [*every][:_MOST_ROWS]
    with plotting.style():
        figure, axes = plotting.axes_of(0.3 * len(rows), layout=None)
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        for row, (kind, name, column) in enumerate(rows):
            low, high = float(column.min()), float(column.max())
            heights = row + 0.95 - 0.5 * (column - low) / ((high - low) or 1.0)
            axes.plot(heights, color=palette.BLUE if kind == "action" else palette.GREEN, lw=1.0)
            axes.text(0, row + 0.36, f"{kind} {name[:40]}: {low:.3g} to {high:.3g}", fontsize=7, color=palette.GREY)
        axes.set_xlim(0, max(1, len(rows[0][2]) - 1))
        axes.set_ylim(len(rows), 0)
        axes.axis("off")
        drawn = drawing.svg(figure, "actions and states over the episode")
    return f"{_colours()}<div class='st-data'>{drawn}</div>"
