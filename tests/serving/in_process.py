"""A policy server in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from flashtrail.policies.protocol import Policy
from flashtrail.serving.server import PolicyServer


@contextlib.contextmanager
def running(policy: Policy, **options: Any) -> Iterator[PolicyServer]:
    """Serve from a thread of this process, on a free loopback port, while the block runs.

    `options` are those of `PolicyServer`.
    """
    started, failures = threading.Event(), list[BaseException]()
    handle: dict[str, Any] = {}

    async def main() -> None:
        server = PolicyServer(policy, **{"port": 0, **options})
        leave = asyncio.Event()
        handle.update(server=server, leave=leave, loop=asyncio.get_running_loop())
        await server.start()
        started.set()
        await leave.wait()
        await server.stop()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, name="policy-server", daemon=True)
    thread.start()
    started.wait()
    if failures:
        raise failures[0]
    try:
        yield handle["server"]
    finally:
        handle["loop"].call_soon_threadsafe(handle["leave"].set)
        thread.join()
