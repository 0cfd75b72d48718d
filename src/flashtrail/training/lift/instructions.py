"""What the robot is told: several ways to say each of the two goals, and ways that no demonstration uses."""

from __future__ import annotations

from flashtrail.simulators.verify import LIFT, PUSH

# Lift's are the source document's eight (its section 3.3), word for word.
TRAINED: dict[str, tuple[str, ...]] = {
    LIFT: (
        "Pick up the cube",
        "Lift the red cube",
        "Grasp the cube and lift it up",
        "Move the cube upward",
        "Grab the object and raise it",
        "Pick the cube from the table",
        "Lift the object above the table",
        "Grasp and elevate the cube",
    ),
    PUSH: (
        "Push the red cube forward",
        "Push the cube away from the robot",
        "Slide the cube forward",
        "Move the cube forward",
        "Shove the object ahead",
        "Push the object across the table",
        "Slide the red cube away",
        "Drive the cube ahead on the table",
    ),
}

# No demonstration uses these. The first two of each goal are made of words that the demonstrations use.
HELD_OUT: dict[str, tuple[str, ...]] = {
    LIFT: (
        "Grab the red cube and lift it above the table",
        "Raise the cube up from the table",
        "Take the block off the table",
        "Hoist the red block into the air",
    ),
    PUSH: (
        "Push the red object ahead",
        "Slide the object away from the robot on the table",
        "Nudge the block to the far side",
        "Send the red block further away",
    ),
}


def instruction(goal: str, demonstration: int) -> str:
    """Return the instruction of a goal's n-th demonstration: all of them in turn, each turn begun one further on.

    So none is bound to what comes round in step with it, such as starts after a missed grasp.
    """
    known = TRAINED[goal]
    return known[(demonstration + demonstration // len(known)) % len(known)]
