"""The page that every report is set in: style sheet and script of static/, head and footer of templates/.

A content security policy forbids every request and every script but those of static/, so that a browser enforces
what the tests check.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_STATIC = Path(__file__).with_name("static")
TEMPLATES = FileSystemLoader(Path(__file__).with_name("templates"))
NOTEBOOK = "notebook.html.j2"  # rendered by nbconvert
_ENVIRONMENT = Environment(loader=TEMPLATES, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def _static(suffix: str, names: Sequence[str]) -> str:
    files = [_STATIC / f"{name}.{suffix}" for name in ("report", *names)]
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


CSS, SCRIPT = _static("css", ()), _static("js", ())


def document(
    title: str,
    body: str,
    footer: str,
    media: bool = False,
    head: str = "",
    parts: Sequence[str] = (),
    served: bool = False,
) -> str:
    """Return a whole page; `title` and `footer` are text, `body` is HTML. `media`: it may play films beside it. `head`:
    HTML that is the page's alone. `parts`: names of style sheets and scripts in static/ that it needs beside report's.
    `served`: a server of ours gives it out, of which it may ask pictures, and itself again.
    """
    return _ENVIRONMENT.get_template("page.html.j2").render(
        policy=Markup(content_policy(media, parts, served)),
        title=title,
        head=Markup(head),
        css=Markup(_static("css", parts)),
        body=Markup(body),
        footer=footer,
        script=Markup(_static("js", parts)),
    )


def content_policy(media: bool = False, parts: Sequence[str] = (), served: bool = False) -> str:
    """Return what the browser may do for the page: its own style, embedded images, its script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(_static("js", parts).encode()).digest()).decode()
    rules = ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"]
    rules += ["img-src data: 'self'", "connect-src 'self'"] if served else ["img-src data:"]
    rules += ["media-src 'self'"] if media else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
