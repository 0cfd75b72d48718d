"""What a rendered page says of its counts: which k/n stand in no link, which are marked as of no episode.

For tests. Knows HTML only: neither tables nor how a page was made.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from urllib.parse import parse_qs

from bs4 import BeautifulSoup, NavigableString
from bs4.element import Comment

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
COUNT = re.compile(rf"(?<![\w./]){_NUMBER}/{_NUMBER}(?![\w/])")
_UNREAD = ("script", "style", "title")


def texts(page: str | Path) -> list[NavigableString]:
    """Return the pieces of text that a reader sees."""
    soup = BeautifulSoup(Path(page).read_text(encoding="utf-8"), "html.parser")
    found = (piece for piece in soup.find_all(string=True) if not isinstance(piece, Comment))
    return [piece for piece in found if not any(parent.name in _UNREAD for parent in piece.parents)]


def unlinked(page: str | Path) -> list[str]:
    """Return every k/n that is neither in a link nor marked as of no episode, with the words around it."""
    found = []
    for piece in texts(page):
        if COUNT.search(piece) and not _link(piece) and not _mark(piece):
            cell = next((p for p in piece.parents if p.name in ("td", "dd", "dt", "p", "figcaption", "li", "th")), None)
            found += [
                f"{count} in <{cell.name if cell else '?'}>: {' '.join(piece.split())[:90]}"
                for count in COUNT.findall(piece)
            ]
    return found


def linked(page: str | Path) -> list[tuple[str, str]]:
    """Return every k/n that stands in a link, with where the link leads."""
    found = ((piece, _link(piece)) for piece in texts(page))
    return [(count, link["href"]) for piece, link in found if link for count in COUNT.findall(piece)]


def marked(page: str | Path) -> list[tuple[str, str]]:
    """Return every k/n that is marked as of no episode, with the mark."""
    found = ((piece, _mark(piece)) for piece in texts(page))
    return [(count, mark["data-behind"]) for piece, mark in found if mark for count in COUNT.findall(piece)]


def answers(page: str | Path, fragment: str) -> bool:
    """Whether a page has what a link's fragment asks of it: an anchor, or the arms that are to be chosen there."""
    text = Path(page).read_text(encoding="utf-8")
    if "=" not in fragment:
        return not fragment or f'id="{fragment}"' in text
    chosen = parse_qs(fragment)
    arms = [arm for key in ("arm", "a", "b") for arm in chosen.get(key, ())]
    return bool(chosen) and all(f'data-arm="{escape(arm)}"' in text for arm in arms)


def _link(piece: NavigableString):
    return next((p for p in piece.parents if p.name == "a" and p.get("href")), None)


def _mark(piece: NavigableString):
    return next((p for p in piece.parents if p.get("data-behind")), None)
