"""Every colour of the pages and their figures, once for light and once for dark screens; pages use them by name.

Marks (`--blue` and so on) are told apart by colour-blind readers and stand out from the ground by 3:1 at least, words
by 4.5:1 (tests/report/test_colours.py, in both modes). A verdict or a mark never differs by its colour alone.
"""

from __future__ import annotations

# name: (on light, on dark)
COLOURS = {
    "ground": ("#ffffff", "#14171c"),
    "tint": ("#f4f5f7", "#1c2027"),
    "ink": ("#16191d", "#e9ecf0"),
    "soft": ("#555b66", "#a9b2bf"),
    "line": ("#d3d7dd", "#3a414c"),
    "accent": ("#00528a", "#7cc0ff"),
    "mark": ("#fff3c4", "#4b3d10"),
    "supported": ("#00614a", "#5fd3a8"),
    "refuted": ("#9a2f00", "#ff9d70"),
    "inconclusive": ("#6a5000", "#e5c158"),
    "not-tested": ("#555b66", "#a9b2bf"),
    "blue": ("#0072b2", "#2089e6"),
    "orange": ("#d55e00", "#ed6920"),
    "green": ("#009e73", "#50d899"),
    "purple": ("#882277", "#e1abe2"),
    "navy": ("#003f66", "#d3e6fb"),
    "grey": ("#666666", "#8b8f96"),
    "pale": ("#d9d9d9", "#444b57"),
    "deep": ("#15171a", "#14171c"),  # words on an orange mark, dark in both
}
# What a mark of success stands for, wherever arms are drawn.
ROLES = {"clean": "blue", "fault": "orange", "remedy": "green", "retrained": "purple"}

BLUE, ORANGE, GREEN, PURPLE, NAVY = (COLOURS[name][0] for name in ("blue", "orange", "green", "purple", "navy"))
INK, GREY, PALE, DEEP = (COLOURS[name][0] for name in ("ink", "grey", "pale", "deep"))
_NAME_OF = {light: name for name, (light, _) in reversed(COLOURS.items())}


def of_role(role: str) -> str:
    """Return the colour, on light, in which arms of a role are drawn."""
    return COLOURS[ROLES[role]][0]


def properties() -> tuple[str, str]:
    """Return the custom properties of the colours, light and dark."""
    light, dark = ("".join(f"--{name}:{pair[mode]};" for name, pair in COLOURS.items()) for mode in (0, 1))
    return light, dark


def css() -> str:
    """Return the custom properties of every page: light ones, dark ones where the reader's screen asks for them.

    A `.paper` keeps the light ones: pictures that were made for a light ground. Print is always light.
    """
    light, dark = properties()
    roles = "".join(f"--{role}:var(--{colour});" for role, colour in ROLES.items())
    return (
        f":root{{color-scheme:light dark;{light}{roles}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}.paper{{{light}color-scheme:light}}}}"
    )


def named(colour: str) -> str | None:
    """Return a light colour as the page's own, ``#0072b2`` -> ``var(--blue)``; None for one that is not in COLOURS."""
    name = _NAME_OF.get(colour.lower())
    return f"var(--{name})" if name else None
