"""The policy that a server serves: the last pictures in, a chunk of robot actions and the steps taken out."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.policies.fluid import artifact
from flashtrail.policies.fluid.dims import STEPPED
from flashtrail.policies.fluid.field import Stop
from flashtrail.policies.fluid.model import FluidVLA, normalised, parts
from flashtrail.policies.fluid.positions import to_actions
from flashtrail.policies.fluid.settings import Settings
from flashtrail.policies.parts import chunks, statistics, words
from flashtrail.policies.parts.errors import OptionError
from flashtrail.policies.parts.precision import lowered

Session = deque[NDArray[np.uint8]]  # the pictures of the last queries, (V, P, P, 3), oldest first


@dataclass(frozen=True)
class _Taken:
    """A round in the network's form."""

    pictures: NDArray[np.uint8]  # (V, T, P, P, 3)
    state: NDArray[np.float32]  # (state_dim,) z-scores
    position: NDArray[np.float64]  # (state_dim,) as it was sent
    said: Tensor | None  # (1, prompt width)
    unknown: int  # words not known
    missing: list[bool]  # views


class FluidPolicy(chunks.ChunkPolicy[_Taken]):
    """A network with its statistics and its vocabulary. A session remembers the pictures of its last queries."""

    def __init__(
        self,
        model: FluidVLA,
        stats: statistics.Stats,
        vocabulary: words.Vocabulary | None,
        manifest: Mapping[str, Any],
        settings: Settings,
        device: str = "cpu",
        action_stats: str | None = None,
    ) -> None:
        super().__init__(device, settings.precision)
        core = model.dims.core
        if core not in STEPPED and (settings.epsilon or settings.max_steps):
            raise OptionError(f"epsilon and max_steps: the core {core} takes no steps; leave them out")
        if core == "document":  # its stop is decided over the batch, so that a session's answer would depend on others
            self.max_batch = 1
        self._parameters = parts(model)  # before it is lowered: 8-bit products count as none
        self.model, self.stats, self.settings = lowered(model.to(device), settings.precision), stats, settings
        self._vocabulary, self._manifest, self._action_stats = vocabulary, manifest, action_stats
        self._said: dict[str, tuple[Tensor, int]] = {}
        self._stop = Stop(settings.epsilon, settings.min_steps, settings.patience) if settings.epsilon else None

    @classmethod
    def load(cls, directory: Path, settings: Settings, device: str, action_stats: Path | None) -> FluidPolicy:
        """From an artifact; ArtifactError in one line. `action_stats`: a file whose statistics unnormalise instead."""
        model, stats, vocabulary, manifest = artifact.read(directory)
        if action_stats is not None:
            stats = stats.with_actions_of(action_stats)
        name = None if action_stats is None else action_stats.name  # anybody may ask for it: no path
        return cls(model, stats, vocabulary, manifest, settings, device, name)

    @property
    def metadata(self) -> dict[str, Any]:
        """Digest, device, settings and sizes; ``action_stats`` only where foreign statistics are in force."""
        dims = self.model.dims
        names = ("action_horizon", "blind", "core", "attention", "layers", "steps", "frames", "frame_gap")
        about = {
            "family": artifact.FAMILY,
            "base_digest": self._manifest["digest"],
            **self.about(),
            "settings": asdict(self.settings),
            "facts": {"num_views": dims.views} | {name: getattr(dims, name) for name in names},
            "parameters": self._parameters,
        }
        return about if self._action_stats is None else about | {"action_stats": self._action_stats}

    def new_session(self) -> Session:
        """Return the memory of an episode: the pictures of its last queries."""
        return deque(maxlen=self.model.dims.frames)

    def take(self, session: Session, obs: Mapping[str, Any], reset: bool) -> _Taken:
        """See `ChunkPolicy`. At the first query every frame is the one that is seen."""
        dims = self.model.dims
        pictures, state, missing = chunks.seen(obs, dims.views, dims.pixels, dims.state_dim)
        said, unknown = self._encoded(str(obs[chunks.PROMPT_KEY]))
        if reset:
            session.clear()
        session.append(pictures)
        window = [session[0]] * (dims.frames - len(session)) + list(session)
        return _Taken(np.stack(window, 1), self.stats.state(state), state, said, unknown, missing)

    def _encoded(self, prompt: str) -> tuple[Tensor | None, int]:
        """Mean (1, prompt width) of an instruction's words, and how many are not known; remembered."""
        if self._vocabulary is None:
            return None, 0
        if (known := self._said.get(prompt)) is not None:
            return known
        ids, unknown = self._vocabulary.ids(prompt)
        with torch.inference_mode():
            encoded = self.model.say(ids), len(unknown)
        if len(self._said) >= chunks.REMEMBERED:
            self._said.clear()
        self._said[prompt] = encoded
        return encoded

    def answer(self, rounds: Sequence[_Taken]) -> list[dict[str, Any]]:
        """See `ChunkPolicy`. Stages: encoder (patches), prefill (the core's steps), then the head."""
        marks, model, device = chunks.Marks(self.device), self.model, self.device
        pictures = torch.from_numpy(np.stack([one.pictures for one in rounds])).to(device)
        state = torch.from_numpy(np.stack([one.state for one in rounds])).to(device, self.dtype)
        sayings = [one.said for one in rounds if one.said is not None]
        said = torch.cat(sayings) if sayings else None
        missing = torch.tensor([one.missing for one in rounds], device=device)
        start = model.embed(normalised(pictures, model.dims).to(self.dtype), said, missing)
        marks.mark()
        core = model.evolve(start, self.settings.max_steps or None, self._stop)
        marks.mark()
        answers = model.decode(model.cells(start, core.u), state, said).float().cpu().numpy()
        marks.mark()
        timing = marks.timing(len(rounds))
        steps = [None] * len(rounds) if core.steps is None else core.steps.tolist()
        return [self._reply(*each, timing) for each in zip(answers, rounds, steps, strict=True)]

    def _reply(self, answer: NDArray[Any], one: _Taken, steps: int | None, timing: Mapping[str, Any]) -> dict[str, Any]:
        accepted = min(self.settings.max_exec_steps, len(answer))
        timing = {**timing, "unknown_words": float(one.unknown), **({} if steps is None else {"steps_used": steps})}
        actions = to_actions(self.stats.actions(answer), one.position, self.model.dims.absolute)
        return {"actions": actions, "accepted_prefix_len": accepted, "policy_timing": timing}
