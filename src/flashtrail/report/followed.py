"""A page that its reader's browser renews part by part while something goes on (static/watch.js)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flashtrail.report import early, layout, page
from flashtrail.report.page import Html

_FOOTER = "Made by FLASHTrail while you look, from {}."
_NOBODY = "No answer: the command that gives out this page has ended. Start it again and open what it prints."


def document(
    title: str, top: Html, parts: Mapping[str, Iterable[Html]], seconds: int, subject: str, source: str
) -> tuple[str, str]:
    """Return a page and its content policy. `top` and each of `parts`, groups by name, are renewed on their own.

    A part has an id, by which it is found again. `subject` is followed, every so many `seconds`; `source`: what it is
    made from.
    """
    body = page.join(
        _renewed("top", [Html('<div id="part-top">{}</div>').format(top)]),
        early.checkbox("follow", f"This page follows {subject}, every {seconds:g} seconds.", seconds),
        Html('<p class="warning" id="silent" role="status" hidden>{}</p>').format(_NOBODY),
        *(_renewed(*group) for group in parts.items()),
    )
    head = f'<noscript><meta http-equiv="refresh" content="{5 * seconds:g}"></noscript>'
    text = layout.document(f"FLASHTrail: {title}", body, _FOOTER.format(source), True, head, ["watch"], served=True)
    return text, layout.content_policy(True, ["watch"], served=True)


def sections(parts: Mapping[str, Html]) -> list[Html]:
    """Return each part as a section with an id of its name."""
    return [Html('<section id="part-{}">{}</section>').format(*part) for part in parts.items()]


def _renewed(name: str, parts: Iterable[Html]) -> Html:
    return Html('<div id="{0}" class="{0}" data-parts>{1}</div>').format(name, page.join(*parts))
