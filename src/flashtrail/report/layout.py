"""The page that every report is set in: style sheet and script of static/, head, contents and footer of templates/.

A content security policy forbids every request and every script but the page's own, so that a browser enforces what
the tests check.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flashtrail.report import palette

_STATIC = Path(__file__).with_name("static")
TEMPLATES = FileSystemLoader(Path(__file__).with_name("templates"))
NOTEBOOK = "notebook.html.j2"  # rendered by nbconvert
ENVIRONMENT = Environment(
    loader=TEMPLATES, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
)
_CONTENTS_FROM = 4  # sections from which on a page has a list of them
_SECTION = re.compile(r'<h2(?: id="([^"]*)")?>(.*?)</h2>', re.DOTALL)


def _static(suffix: str, names: Sequence[str]) -> str:
    files = [_STATIC / f"{name}.{suffix}" for name in ("report", *names)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


CSS, SCRIPT = f"{palette.css()}\n{_static('css', ())}", _static("js", ())


def document(
    title: str,
    body: str,
    footer: str,
    media: bool = False,
    head: str = "",
    parts: Sequence[str] = (),
    folds: bool = False,
) -> str:
    """Return a whole page; `title` and `footer` are text, `body` is HTML. `media`: it may play films beside it. `head`:
    HTML that is the page's alone. `parts`: names of style sheets and scripts in static/ that it needs beside report's.
    `folds`: its tables are folded on a phone.
    """
    script = _static("js", parts)
    body, sections = _with_contents(body)
    return ENVIRONMENT.get_template("page.html.j2").render(
        policy=Markup(content_policy(media, script)),
        title=title,
        head=Markup(head),
        css=Markup(f"{palette.css()}\n{_static('css', parts)}"),
        sections=sections if len(sections) >= _CONTENTS_FROM else [],
        folds=folds,
        body=Markup(body),
        footer=footer,
        script=Markup(script),
    )


def _with_contents(body: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the body with an id on each section's head, and each section's id and name in order."""
    sections: list[tuple[str, str]] = []

    def noted(head: re.Match[str]) -> str:
        name = Markup(head[2]).striptags()
        anchor = head[1] or re.sub(r"\W+", "-", str(name)).strip("-").lower() or f"section-{len(sections)}"
        while anchor in [other for other, _ in sections]:
            anchor += "-"
        sections.append((anchor, str(name)))
        return f'<h2 id="{anchor}">{head[2]}</h2>'

    return _SECTION.sub(noted, body), sections


def content_policy(media: bool = False, script: str = SCRIPT) -> str:
    """Return what the browser may do for the page: its own style, what is embedded, its script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"]
    parts.append("media-src data: 'self'" if media else "media-src data:")
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])
