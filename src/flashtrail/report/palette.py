"""The colours of figures and timelines: apart for colour-blind readers, at least 3:1 against white (PALE is a fill)."""

from __future__ import annotations

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#882277"
INK, GREY, PALE, NAVY = "#1a1a1a", "#666666", "#d9d9d9", "#003f66"
