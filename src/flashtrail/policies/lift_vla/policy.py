"""The policy that a server serves: observation in, a chunk of robot actions out; one pass, no noise, no memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashtrail.policies.lift_vla import artifact, clip, statistics
from flashtrail.policies.lift_vla.dims import LiftDims
from flashtrail.policies.lift_vla.doubt import Doubt
from flashtrail.policies.lift_vla.errors import OptionError
from flashtrail.policies.lift_vla.model import LiftVLA, Recalled, normalised, parts
from flashtrail.policies.lift_vla.settings import Settings
from flashtrail.policies.parts import chunks, words
from flashtrail.policies.parts.precision import lowered
from flashtrail.policies.spread import spread


@dataclass(frozen=True)
class _Taken:
    """A round in the network's form."""

    pictures: NDArray[np.uint8]  # (V, P, P, 3)
    hand: NDArray[np.float32]  # (10,)
    text: Tensor  # (L, width)
    unknown: list[str]  # words not known
    missing: list[bool]  # views


class LiftPolicy(chunks.ChunkPolicy[_Taken]):
    """A network with its statistics and its text encoder's tokenizer."""

    def __init__(
        self,
        model: LiftVLA,
        stats: statistics.Stats,
        tokenizer: words.Vocabulary | clip.Tokenizer,
        manifest: Mapping[str, Any],
        settings: Settings,
        device: str = "cpu",
        action_stats: str | None = None,
        doubt: Doubt | None = None,
    ) -> None:
        super().__init__(device, settings.precision)
        self._parameters = parts(model)  # before it is lowered: 8-bit products count as none
        self.model, self.stats, self.settings = lowered(model.to(device), settings.precision), stats, settings
        self._tokenizer, self._manifest, self._action_stats = tokenizer, manifest, action_stats
        self._doubt = None if doubt is None else doubt.to(device)
        self._acting = robots_of(model.dims, settings)  # robot and token; none of one robot
        self._idle = slice(0)
        if self._acting:
            self._idle = slice(model.dims.embodiments[self._acting[0]].action_dim - 1, model.dims.action_dim - 1)
        self._said: dict[str, tuple[Tensor, list[str]]] = {}

    @classmethod
    def load(cls, directory: Path, settings: Settings, device: str, action_stats: Path | None) -> LiftPolicy:
        """From an artifact; ArtifactError in one line. `action_stats`: a file whose statistics unnormalise instead."""
        model, stats, manifest = artifact.read(directory)
        if acting := robots_of(model.dims, settings):
            stats = stats.of(acting[0])
        tokenizer = artifact.tokenizer(directory, model.dims)
        doubt = artifact.read_doubt(directory, manifest, model.dims) if settings.doubt else None
        if action_stats is not None:
            stats = stats.with_actions_of(action_stats)
        name = None if action_stats is None else action_stats.name  # anybody may ask for it: no path
        return cls(model, stats, tokenizer, manifest, settings, device, name, doubt)

    @property
    def metadata(self) -> dict[str, Any]:
        """Digest, device, settings and sizes; ``action_stats`` only where foreign statistics are in force."""
        dims = self.model.dims
        about = {
            "family": artifact.FAMILY,
            "base_digest": self._manifest["digest"],
            **self.about(),
            "settings": asdict(self.settings),
            "facts": {"action_horizon": dims.action_horizon, "num_views": dims.views, "blind": dims.blind},
            "parameters": self._parameters,
        }
        return about if self._action_stats is None else about | {"action_stats": self._action_stats}

    def new_session(self) -> None:
        """There is nothing to remember: each chunk follows from the current observation alone."""

    def take(self, session: None, obs: Mapping[str, Any], reset: bool) -> _Taken:
        """See `ChunkPolicy`."""
        dims = self.model.dims
        pictures, state, missing = chunks.seen(obs, dims.views, dims.pixels, dims.state_dim)
        text, unknown = self._encoded(str(obs[chunks.PROMPT_KEY]))
        return _Taken(pictures, self.stats.proprioception(state), text, unknown, missing)

    def _encoded(self, prompt: str) -> tuple[Tensor, list[str]]:
        """Tokens (L, text width) of an instruction, and its words that are not known; remembered."""
        if prompt not in self._said:
            if isinstance(self._tokenizer, words.Vocabulary):
                ids, unknown = self._tokenizer.ids(prompt)
            else:
                ids, unknown = self._tokenizer(prompt), []
            with torch.inference_mode():
                text = self.model.text(torch.tensor([ids], device=self.device))[0]
            if len(self._said) >= chunks.REMEMBERED:
                self._said.clear()
            self._said[prompt] = (text, unknown)
            return text, unknown
        return self._said[prompt]

    def answer(self, rounds: Sequence[_Taken]) -> list[dict[str, Any]]:
        """See `ChunkPolicy`. Stages: encoder (pictures), prefill (attention to the text), decoder and doubt."""
        marks = chunks.Marks(self.device)
        model, device = self.model, self.device
        longest = max(len(one.text) for one in rounds)
        absent = torch.tensor([[place >= len(one.text) for place in range(longest)] for one in rounds], device=device)
        text = torch.nn.utils.rnn.pad_sequence([one.text for one in rounds], batch_first=True)
        missing = torch.tensor([one.missing for one in rounds], device=device)
        hand = torch.from_numpy(np.stack([one.hand for one in rounds])).to(device, self.dtype)
        pictures = torch.from_numpy(np.stack([one.pictures for one in rounds])).to(device)
        seen = model.see([view.to(self.dtype) for view in normalised(pictures, model.dims)])
        marks.mark()
        fused = model.fuse(seen, text, absent)
        marks.mark()
        masked = missing if bool(missing.any()) else None
        doubts: list[dict[str, float]] = [{}] * len(rounds)
        if self._doubt is None:
            acting = [torch.full((len(rounds),), number, device=device) for number in self._acting]
            answered = model.decode(fused, hand, masked, *acting)
        else:
            recalled = model.recall(fused, hand, masked)
            answered, doubts = model.conclude(*recalled), self._doubts(self._doubt, seen, recalled)
        answers = answered.float().cpu().numpy()
        marks.mark()
        timing = marks.timing(len(rounds))
        return [
            self._reply(answer, one, timing | doubted)
            for answer, one, doubted in zip(answers, rounds, doubts, strict=True)
        ]

    def _doubts(self, doubt: Doubt, seen: Tensor, recalled: Recalled) -> list[dict[str, float]]:
        """Each round's `head_spread`, RMS of the heads' deviation (the gripper's apart, as sent), and `novelty`."""
        answers = self.stats.actions(doubt.answers(recalled).cpu().numpy())
        spreads = [spread(heads[:, : self.settings.max_exec_steps]) for heads in answers]
        distances = doubt.novelty(seen).cpu().tolist()
        return [{"head_spread": s, "novelty": d} for s, d in zip(spreads, distances, strict=True)]

    def _reply(self, answer: NDArray[Any], one: _Taken, timing: Mapping[str, Any]) -> dict[str, Any]:
        accepted = min(self.settings.max_exec_steps, len(answer))
        timing = {**timing, "unknown_words": float(len(one.unknown))}
        actions = self.stats.actions(answer)
        actions[:, self._idle] = 0.0  # what the robot's controller does not take
        return {"actions": actions, "accepted_prefix_len": accepted, "policy_timing": timing}


def robots_of(dims: LiftDims, settings: Settings) -> tuple[int, ...]:
    """Return the numbers of the robot that acts and of the one whose token it has; none for a policy of one robot.

    OptionError where the settings name no robot of the artifact. One of a single embodiment need not be named.
    """
    known = dims.robots
    for key in ("embodiment", "token"):
        name = getattr(settings, key)
        if name and not known:
            raise OptionError(f"{key} {name}: this artifact is of one robot: leave the setting out")
        if name and name not in known:
            raise OptionError(f"{key} {name}: this artifact has no such robot; it has {', '.join(known)}")
    if not known:
        return ()
    if settings.doubt:
        raise OptionError("doubt: an artifact of several robots has no heads for it: leave the setting out")
    if not settings.embodiment and len(known) > 1:
        raise OptionError(f"this artifact has several robots: say which with embodiment: {', '.join(known)}")
    robot = settings.embodiment or known[0]
    return known.index(robot), known.index(settings.token or robot)
