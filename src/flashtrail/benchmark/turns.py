"""Taking turns: rounds of several contenders and routes, one after another, so that a drifting device is all's drift.

Knows contenders by their interface; no model and no statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flashtrail.benchmark.workload import Contender

Samples = dict[tuple[str, str], dict[str, list[float]]]  # (contender, route) -> stage -> ms of each round


def take_turns(
    contenders: Sequence[Contender], rounds: int, warmup: int, report: Callable[[str], None] = lambda line: None
) -> Samples:
    """Time `rounds` rounds of each contender's each route after `warmup` of them that are not kept.

    Who goes first changes from turn to turn. The routes of a contender keep their order, full first, because a draft
    round needs a full one before it.
    """
    found: Samples = {(c.name, route): {} for c in contenders for route in c.routes}
    count = len(contenders)
    for turn in range(-warmup, rounds):
        for offset in range(count):
            contender = contenders[(turn + offset) % count]
            for route in contender.routes:
                times = contender.round(route, turn % (1 << 30))
                if turn < 0:
                    continue
                for stage, ms in times.items():
                    found[contender.name, route].setdefault(stage, []).append(ms)
        done = turn + 1
        if done > 0 and (done % max(1, rounds // 4) == 0 or done == rounds):
            report(f"{done} of {rounds} turns")
    return found
