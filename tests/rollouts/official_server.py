"""A server as openpi publishes it, in little: PORT, then MODE and a MODE's number.

One state for all clients; inference on the event loop, so that no ping is answered meanwhile; no size limit; a
traceback to the client; no page but /healthz. Shares no line with ours: openpi's own codec. Modes: ``slow`` takes so
many seconds for the first round ever, ``die`` ends the process at that round, ``dim`` answers with so many numbers an
action, ``plain`` has no FLASH, ``raise`` fails at that round.
"""

from __future__ import annotations

import asyncio
import http
import os
import sys
import time
import traceback

import numpy as np
import websockets.asyncio.server
import websockets.exceptions
from openpi_client import msgpack_numpy

PORT, MODE, NUMBER = int(sys.argv[1]), *(sys.argv[2:4] if len(sys.argv) > 2 else ("", "0"))
TIMING = {"route_type": "full", "encoder_ms": 1.0, "vlm_prefill_ms": 2.0, "full_fallback_ms": 3.0, "total_ms": 6.0}


class Policy:
    rounds = 0
    clients = 0
    most_clients = 0

    def infer(self, obs: dict) -> dict:
        self.rounds += 1
        if MODE == "slow" and self.rounds == 1:
            time.sleep(float(NUMBER))
        if MODE == "die" and self.rounds == int(NUMBER):
            os._exit(9)
        if MODE == "raise" and self.rounds == int(NUMBER):
            raise KeyError("prompt")
        actions = np.full((50, int(NUMBER) if MODE == "dim" else 7), 0.1 * self.most_clients)
        answer = {"actions": actions, "server_timing": {"policy_time_ms": 6.5, "serve_time_ms": 7.5}}
        return answer if MODE == "plain" else {**answer, "accepted_prefix_len": 12, "policy_timing": TIMING}


async def handle(policy: Policy, connection: websockets.asyncio.server.ServerConnection) -> None:
    packer = msgpack_numpy.Packer()
    await connection.send(packer.pack({}))
    asked = False
    try:
        async for message in connection:
            if not asked:  # a client that only says hello has no part in it
                asked, policy.clients = True, policy.clients + 1
                policy.most_clients = max(policy.most_clients, policy.clients)
            await connection.send(packer.pack(policy.infer(msgpack_numpy.unpackb(message))))
    except websockets.exceptions.ConnectionClosed:
        pass
    except Exception:
        await connection.send(traceback.format_exc())
        await connection.close(1011, "Internal server error. Traceback included in previous frame.")
    finally:
        policy.clients -= asked


async def main() -> None:
    policy = Policy()

    def health(connection, request):
        return connection.respond(http.HTTPStatus.OK, "OK\n") if request.path == "/healthz" else None

    options = {"compression": None, "max_size": None, "process_request": health}
    serving = websockets.asyncio.server.serve(lambda c: handle(policy, c), "127.0.0.1", PORT, **options)
    async with serving as server:
        await server.serve_forever()


asyncio.run(main())
