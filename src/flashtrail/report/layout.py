"""The page that every report is set in: style sheets and scripts of static/, head and footer of templates/.

A content security policy forbids every request and every script but those of static/, so that a browser enforces what
the tests check.
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
# What every page has, and what some have beside it: NAME.css and NAME.js of static/.
COMMON, BROWSER, EPISODE, FILTER = "report", "browser", "episode", "filter"
_ENVIRONMENT = Environment(loader=TEMPLATES, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def _static(parts: Sequence[str], suffix: str) -> str:
    """Return the files of static/ that a page has, one after another; a part need not have one."""
    files = (_STATIC / f"{name}.{suffix}" for name in (COMMON, *parts))
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def document(title: str, body: str, footer: str, media: bool = False, head: str = "", parts: Sequence[str] = ()) -> str:
    """Return a whole page; `title` and `footer` are text, `body` is HTML. `media`: it may play films beside it. `head`:
    HTML that is the page's alone. `parts`: what it has of static/ beside COMMON.
    """
    return _ENVIRONMENT.get_template("page.html.j2").render(
        policy=Markup(content_policy(media, parts)),
        title=title,
        head=Markup(head),
        css=Markup(_static(parts, "css")),
        body=Markup(body),
        footer=footer,
        script=Markup(_static(parts, "js")),
    )


def content_policy(media: bool = False, parts: Sequence[str] = ()) -> str:
    """Return what the browser may do for the page: its own style, embedded images, the one script, nothing else."""
    digest = base64.b64encode(hashlib.sha256(_static(parts, "js").encode()).digest()).decode()
    rules = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'"]
    rules += ["media-src 'self'"] if media else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
