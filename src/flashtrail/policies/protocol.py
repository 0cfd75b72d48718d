"""What a policy is to a server, and what a family of policies is to the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Policy(Protocol):
    """What the server asks of a policy; `FlashPolicy` is one, a test's script is another.

    A policy may also have ``infer_many(asked, max_batch)``: rounds of different sessions, each a tuple of session,
    observation, executed_steps, reset and noise_seed; it yields (index, result or exception) as they end. One without
    it is asked for one round after another. Only one whose ``reentrant`` is true is asked by several threads at a time.
    ``max_batch`` (rounds in one pass) and ``workers`` (passes at a time) say what is worth while; 1 where absent.
    """

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the policy says of itself; JSON-serialisable, without paths."""

    def new_session(self) -> Any:
        """Return fresh per-episode state; opaque to the server."""

    def infer(
        self,
        session: Any,
        obs: dict[str, Any],
        *,
        executed_steps: int | None,
        reset: bool,
        noise_seed: list[int] | int | None,
    ) -> Mapping[str, Any]:
        """Run one round: ``actions`` (H, D) float, ``accepted_prefix_len`` int, ``policy_timing`` map."""


class Refusal(ValueError):
    """A request that a policy refuses: its one line goes to the client, so it holds nothing of this machine."""

    def __init__(self, message: str) -> None:
        line = " ".join(str(message).split())
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)[:1000])


class Family(Protocol):
    """A module of the registry. Importing it is cheap: its command line is read before a model is loaded.

    `Settings`: a dataclass; each field is a flag of ``flashtrail serve`` and, for some, a shorter one (`SHORT_FLAGS`).
    `Error`: what loading raises, in one line that a user can act on.
    """

    Settings: type[Any]
    SHORT_FLAGS: Mapping[str, str]
    Error: type[Exception]

    def load(
        self,
        artifact: Path,
        draft: Path | None,
        *,
        device: str,
        dtype: str,
        backend: str,
        settings: Any,
        action_stats: Path | None,
        together: int | None,
        sessions: int,
    ) -> Policy:
        """Return an artifact's policy for `sessions` open sessions, `together` of them in one pass (None: its own)."""

    def set_threads(self, count: int) -> None:
        """Give each pass so many CPU threads."""
