"""Recorded episodes once more: their actions in the same scene, a picture at every step, and what differs.

A record keeps actions as float32, and pictures at few steps or none. So the scene is set up again, the actions are
executed, and the hand, the end and the pictures' mean are compared with what the record has of them.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from flashtrail.base import documents
from flashtrail.base.errors import UserError
from flashtrail.datasets import video
from flashtrail.datasets.write import FPS, Played
from flashtrail.experiment.episodes import EpisodeKey
from flashtrail.experiment.shard import MAX_SEED, SceneSeed
from flashtrail.experiment.suites import suite_of
from flashtrail.policies.parts.pictures import shrink
from flashtrail.record.run import Run
from flashtrail.simulators import registry
from flashtrail.simulators.observation import state_vector, upright
from flashtrail.simulators.robosuite import opengl
from flashtrail.tables import schemas
from flashtrail.training import dataset, demonstrations, pick2d

CAMERAS = ("observation.images.image", "observation.images.wrist_image")  # as LIBERO's sets in LeRobot's form have them
STATE, ACTION, EXECUTED = "observation.state", "action", "executed_action"
NEAR_M, NEAR_GREY = 2e-3, 0.5  # a replay that is farther off is another episode
_SAMPLED = 16  # of a picture's rows and columns every so many are counted in its statistics


class Settings(documents.Section):
    """What a run's scenes are made of."""

    suite: str
    task_id: int
    seed: int = Field(ge=0, le=MAX_SEED)
    scene_seed: SceneSeed
    hard_reset: bool


@dataclass(frozen=True)
class Pick2d:
    """A task whose demonstrations were recorded in pick2d; a number alone is a task of LIBERO's."""

    task_id: int
    suite: str = pick2d.SUITE


Where = Settings | Pick2d | int


@dataclass(frozen=True)
class Recorded:
    """One episode's record. `begin`: its number, or its key's init state and repeat.

    `path`: where the hand was, m, from step `since` on. `grey`: mean of the agent view by step. `end`: the number of
    steps to success, None: there was none. `labels`: what was to be learned, where that is not what was executed.
    """

    name: str
    begin: tuple[int, ...]
    actions: NDArray[np.float32]  # (T, 7)
    path: NDArray[np.float32]  # (n, 3)
    since: int
    grey: Mapping[int, float]
    end: int | None
    labels: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a replay gave: the episode to be written, and how far it was from its record."""

    name: str
    played: Played
    size: tuple[int, int]  # of a picture: width, height
    success: bool
    metres: float
    grey: float
    differs: str = field(default="")  # why it is another episode


class _OfRun:
    """A suite's simulator. `look`: both views, the state (8,) and the mean of the agent view as a policy gets it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._simulator: Any = registry.make(**settings.model_dump())
        self.prompt = self._simulator.prompt

    def begin(self, numbers: tuple[int, ...]) -> None:
        self._simulator.reset(EpisodeKey(self._settings.suite, self._settings.task_id, *numbers))

    def look(self) -> tuple[list[NDArray[np.uint8]], NDArray[Any], float]:
        seen = self._simulator.observe()
        views = [seen.agent, seen.wrist]
        if suite_of(self._settings.suite).simulator == "libero":  # rendered larger than a policy gets them
            views = [upright(self._simulator.truth[1][name]) for name in demonstrations.CAMERAS]
        return views, seen.state, float(seen.agent.mean())

    def step(self, action: Sequence[float]) -> bool:
        return bool(self._simulator.step(action, render=True).done)


class _OfDemonstrations:
    """The stage on which demonstrations of a task were recorded."""

    def __init__(self, task_id: int) -> None:
        from flashtrail.training.tokenizer import task_languages

        with opengl.quiet():
            self._stage, self._hard = demonstrations.Stage(task_id), True
        self._step = 0
        self.prompt = task_languages("libero_goal")[task_id]
        self._obs: dict[str, Any] = {}

    def begin(self, numbers: tuple[int, ...]) -> None:
        self._obs, *_ = demonstrations.begin(self._stage, *numbers, hard=self._hard)
        self._step, self._hard = 0, False

    def look(self) -> tuple[list[NDArray[np.uint8]], NDArray[Any], float]:
        """A look samples robosuite's observables anew, so that the states after it are of another moment.

        So it is taken only where the recording took one; in between, the cameras are rendered past the observables.
        """
        if self._step % demonstrations.IMAGE_EVERY == 0:
            seen = self._stage.look()
        else:
            render, pixels = self._stage.inner.sim.render, demonstrations.RENDER_PIXELS
            names = [name.removesuffix("_image") for name in demonstrations.CAMERAS]
            seen = {f"{name}_image": render(camera_name=name, width=pixels, height=pixels) for name in names}
        grey = float(demonstrations.stored_view(seen[demonstrations.CAMERAS[0]]).mean())
        return [upright(seen[name]) for name in demonstrations.CAMERAS], state_vector(self._obs), grey

    def step(self, action: Sequence[float]) -> bool:
        self._obs, success = self._stage.step(np.asarray(action))
        self._step += 1
        return success


class _OfPick2d:
    """The simulator in which demonstrations of pick2d were recorded."""

    def __init__(self, task_id: int) -> None:
        self._task_id, self._simulator = task_id, pick2d.made(task_id)
        self.prompt = self._simulator.prompt

    def begin(self, numbers: tuple[int, ...]) -> None:
        pick2d.begin(self._simulator, self._task_id, *numbers)

    def look(self) -> tuple[list[NDArray[np.uint8]], NDArray[Any], float]:
        seen = self._simulator.observe()
        return [seen.agent, seen.wrist], seen.state, float(shrink(seen.agent).mean())

    def step(self, action: Sequence[float]) -> bool:
        return self._simulator.step(action, render=False).done


def _scene(where: Where) -> _OfRun | _OfDemonstrations | _OfPick2d:
    if isinstance(where, Pick2d):
        return _OfPick2d(where.task_id)
    return _OfDemonstrations(where) if isinstance(where, int) else _OfRun(where)


def play(where: Where, episodes: Sequence[Recorded], out: Path) -> list[Outcome]:
    """Replay episodes of one task in this process, which must not have had a simulator; their videos go below `out`."""
    scene = _scene(where)
    outcomes = []
    for one in episodes:
        outcomes.append(_play(scene, one, out))
        print(f"{one.name}: {len(one.actions)} steps, {outcomes[-1].differs or 'as recorded'}", flush=True)
    return outcomes


def _play(scene: _OfRun | _OfDemonstrations | _OfPick2d, one: Recorded, out: Path) -> Outcome:
    scene.begin(one.begin)
    states: list[NDArray[Any]] = []
    samples: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    films = {camera: out / f"{one.name.replace('/', '_')}_{number}.mp4" for number, camera in enumerate(CAMERAS)}
    grey, end = 0.0, None
    with contextlib.ExitStack() as stack:
        views, state, mean = scene.look()
        size = (views[0].shape[1], views[0].shape[0])
        writers = [stack.enter_context(video.writing(film, size, FPS)) for film in films.values()]
        for step, action in enumerate(one.actions):
            if step:
                views, state, mean = scene.look()
            states.append(state.astype(np.float32))
            grey = max(grey, abs(mean - one.grey[step]) if step in one.grey else 0.0)
            for camera, writer, view in zip(CAMERAS, writers, views, strict=True):
                writer(view)
                samples[camera].append(view[::_SAMPLED, ::_SAMPLED].copy())
            if scene.step([float(value) for value in action]) and end is None:
                end = step + 1
    rows = np.array(states)
    count = min(len(one.path), len(rows) - one.since)
    off = np.linalg.norm(rows[one.since : one.since + count, :3] - one.path[:count], axis=1)
    metres, differs = float(off.max(initial=0.0)), ""
    if end != one.end:
        differs = f"success at step {end or 'none'}, on record {one.end or 'none'}"
    elif metres > NEAR_M or grey > NEAR_GREY:
        differs = f"the hand is up to {metres * 1e3:.2g} mm off, the picture's mean {grey:.2g} grey levels"
    vectors = {STATE: rows, ACTION: one.actions if one.labels is None else one.labels}
    vectors |= {} if one.labels is None else {EXECUTED: one.actions}
    pixels = {camera: np.array(seen) for camera, seen in samples.items()}
    return Outcome(one.name, Played(scene.prompt, vectors, films, pixels), size, end is not None, metres, grey, differs)


# --- records ---


def of_demonstrations(directory: Path, limit: int | None) -> dict[Where, list[Recorded]]:
    """Return the episodes of DIRECTORY/task*/ep*.npz by task; UserError for one that is damaged or was imported."""
    about, tasks = dataset.described(directory), defaultdict[Where, list[Recorded]](list)
    ours = about is not None and about.source.get("suite") == pick2d.SUITE
    for number_of_task, number, kept in dataset.episodes(directory):
        task = Pick2d(number_of_task) if ours else number_of_task
        name = f"task{number_of_task}/ep{number:04d}"
        if not {"executed", "done_at"} <= kept.keys():
            raise UserError(f"{directory}/{name} was not recorded in the simulator, where it is to be replayed")
        if limit is None or len(tasks[task]) < limit:
            grey = dict(zip(kept["at"].tolist(), kept["agent"].mean((1, 2, 3)).tolist(), strict=True))
            path, end = kept["state"][:, :3], int(kept["done_at"])
            tasks[task].append(Recorded(name, (number,), kept["executed"], path, 0, grey, end, kept["label"]))
    return tasks


def of_run(root: Path, arm: str, successful: bool, limit: int | None) -> Iterator[tuple[Settings, list[Recorded]]]:
    """Yield the episodes of each task of a finished run's arm; UserError where they are not there, or cannot be."""
    run = next((run for run in Run.of_each_report(root) if arm in run.arms), None)
    if run is None:
        raise UserError(f"{root}: no finished report, drills or checkup has an arm {arm!r}; see `flashtrail ledger`")
    try:
        for shard in run.shards(arm):
            known = shard.job["params"]["arm"]
            given = {name: known[name] for name in ("suite", "seed", "scene_seed")} | {"task_id": shard.task_id}
            given |= {"hard_reset": known["rollout"]["hard_reset"]}
            settings = documents.typed(TypeAdapter(Settings), given, f"{arm}'s record")
            episodes, rows = (
                schemas.read_table(run.path(f"{shard.directory}/{name}.parquet"), schemas.SCHEMAS[name]).to_pylist()
                for name in ("episodes", "steps")
            )
            wanted = [e for e in episodes if e["outcome"] != "error" and (_earned(e) or not successful)]
            steps = defaultdict(list)
            for step in rows:
                steps[step["init_state"], step["repeat"]].append(step)
            yield settings, [_episode(arm, shard.task_id, e, steps) for e in wanted[:limit] if e["steps"]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{root}: {arm}'s record is damaged ({type(error).__name__}: {error})") from None


def _earned(episode: Mapping[str, Any]) -> bool:
    return bool(episode["success"]) and episode["verified_success"] is not False


def _episode(
    arm: str, task: int, episode: Mapping[str, Any], steps: Mapping[tuple[int, int], list[dict[str, Any]]]
) -> Recorded:
    key = (episode["init_state"], episode["repeat"])
    own = sorted(steps[key], key=lambda step: step["step"])
    if [step["step"] for step in own] != list(range(episode["steps"])):
        raise ValueError(f"episode {task}/{key[0]}/{key[1]} has not each of its {episode['steps']} steps")
    grey = {step["step"]: step["img_mean"] for step in own if step["img_mean"] is not None}
    acted = [step["action"] if step["executed"] is None else step["executed"] for step in own]
    actions, path = np.array(acted, np.float32), np.array([step["eef_pos"] for step in own], np.float32)
    end = next((step["step"] + 1 for step in own if step["done"]), None)
    return Recorded(f"{arm}/{task}/{key[0]}/{key[1]}", key, actions, path, 1, grey, end)
