"""The process behind the page, in the project's own environment: one simulator, one policy server, one order at a time.

Started by `visitors` as ``python -m flashtrail.studio.stage ROOT LOGS FD [SETS...]``; talks JSON over that socket. An
order is answered by any number of messages, the last of which has ``last``. One process has one suite and task in its
life: a second simulator renders other pictures. The server is kept until another policy is wanted.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flashtrail.base import commands
from flashtrail.base.errors import UserError, cause
from flashtrail.experiment import shard as specs
from flashtrail.experiment.shard import ShardSpec
from flashtrail.rollouts.servers import Server
from flashtrail.rollouts.shard import check_understood, episodes_of
from flashtrail.rollouts.worker import make_simulator
from flashtrail.serving import TOKEN_VARIABLE
from flashtrail.serving.client import PolicyClient, ServerUnavailable
from flashtrail.serving.handles import serve_command
from flashtrail.serving.launch import ServerError, leave_with_parent
from flashtrail.simulators import seeds
from flashtrail.simulators.observation import resize_with_pad
from flashtrail.simulators.protocol import Simulator
from flashtrail.studio import choices, data, picture, watched
from flashtrail.studio.choices import Artifact

_CONNECT_S = 20.0
_LIMITS: dict[str, Any] = {"reply_timeout_s": 600.0, "ping_timeout_s": 60.0}
_MOST_PIXELS = 40_000_000
_LONGEST = 500  # of an instruction, characters


def spec_of(artifact: Artifact, policy: str, order: Mapping[str, Any]) -> ShardSpec:
    """Return the spec of the one episode that is ordered, as a shard of it would have; UserError for what cannot be."""
    words, own = _words(order), choices.instruction(str(order.get("suite")), order.get("task"))
    told = {"kind": "instruction", "text": words} if order["do"] == "play" and words not in ("", own) else None
    return specs.read(
        {
            "arm": "studio",
            "policy": policy,
            "suite": order.get("suite"),
            "task_id": order.get("task"),
            "init_states": [order.get("init_state")],
            "seed": order.get("seed"),
            "condition": told or {"kind": "none"},
            "guard": choices.chosen(order.get("guard", "none"), choices.GUARDS),
            "server": {"command": serve_command(artifact.base, draft=artifact.draft, workers=1, max_batch=1)},
        }
    )


class Stage:
    """What one process holds: choices, a simulator, a policy server and a session with it."""

    def __init__(self, root: Path, logs: Path, connection: Connection, beside: Sequence[Path] = ()) -> None:
        self._root, self._logs, self._connection, self._beside = root, logs, connection, beside
        self._simulator: Simulator | None = None
        self._needs: tuple[Any, ...] = ()
        self._serving = contextlib.ExitStack()
        self._served: tuple[str, Server] | None = None
        self._session: PolicyClient | None = None

    def answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is ordered and return the last message; never raises for what a visitor can cause."""
        try:
            done = {"describe": self._describe, "predict": self._predict, "play": self._play}
            done |= {"survey": self._survey, "episode": self._episode}
            return {**done[order["do"]](order), "last": True}
        except watched.Ended:
            return {"ended": "ended by the visitor", "last": True}
        except UserError as error:
            self.close(server=isinstance(error, ServerUnavailable | ServerError))
            return {"failed": str(error), "last": True}
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:  # whatever a simulator throws: this process is not used again
            traceback.print_exc()
            return {"failed": str(UserError(cause(f"{type(error).__name__}: {error}"))), "lost": True, "last": True}

    def _describe(self, order: Mapping[str, Any]) -> dict[str, Any]:
        return choices.described(self._root) | {"sets": list(data.sets(self._root, self._beside))}

    def _survey(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Read a set from beginning to end, as the report does; whoever leaves meanwhile ends it."""
        return data.shown(str(order.get("set")), self._set(order), self._read)

    def _read(self, count: int) -> None:
        if count % 10 == 1:
            self._say(f"{count} of its episodes are read")
        if (self._orders(0) or {}).get("end"):
            raise watched.Ended

    def _episode(self, order: Mapping[str, Any]) -> dict[str, Any]:
        return data.episode(self._set(order), str(order.get("episode")))

    def _set(self, order: Mapping[str, Any]) -> Path:
        return choices.chosen(order.get("set"), data.sets(self._root, self._beside))

    def _predict(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for one chunk at the start of an episode, then let the simulator execute all of it to see where it goes.

        A picture that was handed in takes the place of the agent view; wrist view and state stay the simulator's.
        """
        spec, artifact = self._spec(order)
        key, simulator = episodes_of(spec)[0], self._ready(spec)
        simulator.reset(key)
        seen = simulator.observe()
        handed = order.get("picture")
        words = _words(order) or seen.prompt
        given = replace(seen, prompt=words, agent=seen.agent if handed is None else _picture(handed))
        client = self._client(spec, artifact)
        noise = seeds.derive(spec.seed, key, "noise", 0)
        self._say("the policy answers")
        reply = client.infer(given.request(), executed_steps=0, reset=True, noise_seed=noise)
        actions = np.asarray(reply.actions)
        if actions.ndim != 2 or actions.shape[1] != 7:
            raise UserError(f"the policy answers with actions of shape {actions.shape}, the simulator takes (any, 7)")
        self._say("the simulator executes the chunk")
        way = [seen.state[:3], *(simulator.step(action, render=False).eef_pos for action in actions)]
        drawn = picture.Camera(simulator, spec.suite).points(way)
        accepted = min(spec.replan_steps, int(reply.accepted_prefix_len))
        closed = [bool(action[6] > 0) for action in actions]
        return {
            "image": picture.jpeg(picture.chunk(given.agent, drawn, accepted, closed), 90),
            "drawn": drawn is not None,
            "told": words,
            "actions": [[round(float(value), 4) for value in action] for action in actions],
            "accepted": accepted,
            "route": str(reply.policy_timing.get("route_type", "full")),
            "moved_mm": [round(1e3 * float(value), 1) for value in way[-1] - way[0]],
            "ms": round(float(reply.roundtrip_ms), 1),
            "unknown": int(reply.policy_timing.get("unknown_words", 0) or 0),
        }

    def _play(self, order: Mapping[str, Any]) -> dict[str, Any]:
        spec, artifact = self._spec(order)
        pace = min(20.0, max(1.0, float(order.get("pace", 10))))
        simulator = self._ready(spec)
        client = self._client(spec, artifact)
        self._say("the episode begins")
        record = watched.play(simulator, client, spec, choices.CAMERA, pace, self._send, self._orders)
        names: tuple[str, ...] = (
            "outcome",
            "success",
            "verified_success",
            "verified_reason",
            "naive_success",
            "own_success",
        )
        names += ("printed_success", "steps", "rounds", "draft_rounds", "gripper_closures")
        rows = {"rows": {"rounds": record.rounds, "steps": record.steps}} if order.get("rows") else {}
        return {"ended": record.episode["outcome"], **{name: record.episode[name] for name in names}, **rows}

    # --- parts ---

    def _spec(self, order: Mapping[str, Any]) -> tuple[ShardSpec, Artifact]:
        known, _ = choices.artifacts(self._root)
        name = str(order.get("policy"))
        artifact = choices.chosen(name, known)
        return spec_of(artifact, name, order), artifact

    def _ready(self, spec: ShardSpec) -> Simulator:
        needs = (spec.suite, spec.task_id, spec.seed)
        if self._simulator is None:
            self._say("the simulator is built")
            self._needs, self._simulator = needs, make_simulator(spec)
        if needs != self._needs:
            raise RuntimeError(f"this process has a simulator of {self._needs}")
        return self._simulator

    def _client(self, spec: ShardSpec, artifact: Artifact) -> PolicyClient:
        """Return a session with a server of the policy: the one that runs, or a new one."""
        if self._served is None or self._served[0] != spec.policy:
            self.close()
            self._say("the policy server starts")
            self._served = spec.policy, self._serving.enter_context(Server(spec, self._logs / "server.log", 1))
        _, server = self._served
        if self._session is None:
            self._session = PolicyClient(server.url, _CONNECT_S, token=os.environ.get(TOKEN_VARIABLE), **_LIMITS)
        check_understood(spec, self._session.metadata, server.url)
        return self._session

    def close(self, server: bool = True) -> None:
        """End the session, and the server unless it is to stay."""
        if self._session is not None:
            self._session.close()
        self._session = None
        if server:
            self._served = None
            self._serving.close()

    def _say(self, what: str) -> None:
        self._send({"now": what})

    def _send(self, message: dict[str, Any]) -> None:
        self._connection.send_bytes(json.dumps(message).encode())

    def _orders(self, seconds: float) -> dict[str, Any] | None:
        if not self._connection.poll(seconds):
            return None
        order: dict[str, Any] = json.loads(self._connection.recv_bytes())
        return order


def _words(order: Mapping[str, Any]) -> str:
    return " ".join(str(order.get("instruction") or "").split())[:_LONGEST]


def _picture(encoded: Any) -> np.ndarray:
    """Return a picture that was handed in (base64 of a PNG), as a policy gets it; UserError for what is none."""
    try:
        opened = Image.open(io.BytesIO(base64.b64decode(str(encoded), validate=True)), formats=("PNG",))
        if opened.width * opened.height > _MOST_PIXELS:
            raise UserError(f"the picture has {opened.width} x {opened.height} pixels: give a smaller one")
        return resize_with_pad(np.asarray(opened.convert("RGB")))
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError):
        raise UserError("the picture cannot be read: give a PNG or JPEG") from None


def serve(root: Path, logs: Path, connection: Connection, beside: Sequence[Path] = ()) -> None:
    """Answer orders until the other end is closed. An order that ends or disturbs comes too late here: nothing runs."""
    stage = Stage(root, logs, connection, beside)
    try:
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                order = json.loads(connection.recv_bytes())
                if "do" in order:
                    connection.send_bytes(json.dumps(stage.answer(order)).encode())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the server is to be gone before this process is
        stage.close()


def main() -> int:
    """Run the process."""
    leave_with_parent(grace_s=12.0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, which then ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.dup2(2, 1)  # LIBERO prints while it loads
    root, logs, descriptor, *beside = sys.argv[1:]
    serve(Path(root), Path(logs), Connection(int(descriptor)), [Path(place) for place in beside])
    return 0


if __name__ == "__main__":
    sys.exit(commands.run(main, "studio"))
