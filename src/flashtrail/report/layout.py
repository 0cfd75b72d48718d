"""The page that every report is set in: style sheet and script of static/, head and footer of templates/.

A content security policy forbids every request and every script but the one in static/, so that a browser enforces
what the tests check.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_STATIC = Path(__file__).with_name("static")
TEMPLATES = FileSystemLoader(Path(__file__).with_name("templates"))
NOTEBOOK = "notebook.html.j2"  # rendered by nbconvert
CSS, SCRIPT = ((_STATIC / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
_ENVIRONMENT = Environment(loader=TEMPLATES, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def document(title: str, body: str, footer: str, media: bool = False, head: str = "") -> str:
    """Return a whole page; `title` and `footer` are text, `body` is HTML. `media`: it may play films beside it. `head`:
    HTML that is the page's alone.
    """
    return _ENVIRONMENT.get_template("page.html.j2").render(
        policy=Markup(content_policy(media)),
        title=title,
        head=Markup(head),
        css=Markup(CSS),
        body=Markup(body),
        footer=footer,
        script=Markup(SCRIPT),
    )


def content_policy(media: bool = False) -> str:
    """Return what the browser may do for the page: its own style, embedded images, the one script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    parts = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"]
    parts += ["media-src 'self'"] if media else []
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])
