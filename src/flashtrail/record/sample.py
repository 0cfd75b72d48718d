"""A random sample of a bundle's episodes, run again and compared with the record (``flashtrail audit --rerun``).

The sample depends on the seed and the bundle's episodes only, so that two people can ask for the same one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from flashtrail.base.errors import UserError
from flashtrail.record import replay
from flashtrail.record.checks import Check
from flashtrail.record.replay import Here, Name
from flashtrail.record.run import Run


def size(request: str, available: int) -> int:
    """Return how many episodes ``5%`` or ``3`` are of those there are: at least one, at most all."""
    text = request.strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    share = text.endswith("%")
    if not 0 < number < math.inf or (share and number > 100) or (not share and number != int(number)):
        raise UserError(f"--rerun {request}: give a share such as 5% or a number of episodes such as 3")
    return min(available, max(1, math.ceil(available * number / 100) if share else int(number)))


def draw(names: list[Name], request: str, seed: int) -> list[Name]:
    """Return the sample, in the order of the run."""
    ordered = sorted(names, key=str)
    chosen = random.Random(seed).sample(ordered, size(request, len(ordered)))
    return [name for name in names if name in chosen]


def rerun(run: Run, request: str, seed: int, here: Here | None = None) -> Iterator[Check]:
    """Yield a check for each episode of the sample, as it is done."""
    names = replay.expected_names(run)
    if not names:
        yield Check("rerun", "", ["no episode of this run can be repeated (measured clock, or other servers)"])
        return
    chosen = draw(names, request, seed)
    for i, name in enumerate(chosen, 1):
        title = f"rerun {i}/{len(chosen)}, {name}"
        try:
            outcome = replay.replay(replay.explain(run, name), here or Here(run.root))
        except UserError as error:
            yield Check(title, "", [str(error)])
            continue
        if outcome.excused:
            yield Check(title, outcome.excused)
        else:
            yield Check(title, "the recorded rows, timing apart", outcome.differences)
