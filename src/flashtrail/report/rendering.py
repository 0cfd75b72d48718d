"""A notebook executed with a run's files as its parameter, and one HTML file that needs no network.

papermill executes, nbconvert exports with our template; the result is refused if it would load a script, a style or an
image from elsewhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter

from flashtrail.base import provenance
from flashtrail.base.errors import UserError
from flashtrail.report import in_process, layout  # before papermill, whose imports it shortens

# isort: split
import papermill
from papermill.exceptions import PapermillExecutionError
from papermill.translators import PythonTranslator

_FOOTER = (
    "Made by FLASHTrail. Every number comes from the tables that the page names; the executed notebook lies beside it."
)


def render(
    notebook: str | Path, out_ipynb: str | Path, out_html: str | Path, inputs: Mapping[str, Any] | str | Path
) -> None:
    """Execute `notebook` with parameter `inputs` and export it without code to one HTML file.

    `inputs` is what `campaign.Campaign` takes: a mapping of kinds to files, or the path of a JSON file with one.
    Neither output appears unless all went well. A UserError raised in the notebook comes out as such.
    """
    value = dict(inputs) if isinstance(inputs, Mapping) else str(inputs)
    with provenance.write_atomic(out_ipynb) as executed, provenance.write_atomic(out_html) as exported:
        _execute(Path(notebook), executed, value)
        _forget_places(executed, Path(out_ipynb).parent.resolve())
        exported.write_text(export(executed), encoding="utf-8")
    print(f"{out_html}: {Path(out_html).stat().st_size / 1e6:.1f} MB", flush=True)


def check_notebook(path: Path) -> None:
    """Raise UserError if `path` is not a notebook."""
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
        nbformat.ValidationError,
    ) as error:
        reason = getattr(error, "strerror", None) or "it is not in Jupyter's format"
        raise UserError(f"{path}: {reason}; give a notebook, such as notebooks/final.ipynb") from None


def _execute(notebook: Path, target: Path, inputs: Any) -> None:
    # papermill tells an .ipynb by its name, and `target` is a temporary one.
    result = target.with_name(f"{target.name}.ipynb")
    try:
        with _without_display():
            papermill.execute_notebook(
                str(notebook),
                str(result),
                parameters={"inputs": inputs},
                engine_name=in_process.NAME,
                kernel_name="python3",
                request_save_on_cell_execute=False,
                progress_bar=False,
            )
        result.replace(target)
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(f"{notebook.name}: {error.evalue}") from None
        raise
    finally:
        result.unlink(missing_ok=True)


@contextmanager
def _without_display() -> Iterator[None]:
    """Let matplotlib, where a notebook imports it first, draw without a display."""
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "Agg"
    try:
        yield
    finally:
        if before is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = before


def _forget_places(path: Path, home: Path) -> None:
    """Remove what papermill notes about this machine's directories; parameters name files as seen from `home`."""
    notebook = nbformat.read(path, as_version=4)
    noted = notebook.metadata.get("papermill", {})
    for key in ("input_path", "output_path", "environment_variables"):
        noted.pop(key, None)
    noted["parameters"] = _seen_from(home, noted.get("parameters", {}))
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = PythonTranslator.codify(noted["parameters"])
    nbformat.write(notebook, path)


def _seen_from(home: Path, value: Any) -> Any:
    """Return parameters in which a file below `home` has its path from there, another one its last part."""
    if isinstance(value, Mapping):
        return {key: _seen_from(home, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_seen_from(home, item) for item in value]
    path = Path(value) if isinstance(value, str) else Path()
    if not path.is_absolute() or not path.exists():
        return value
    return str(path.relative_to(home)) if path.is_relative_to(home) else f".../{path.name}"


def export(notebook: str | Path) -> str:
    """Return an executed notebook as one HTML page without code; UserError if it would load anything from outside."""
    content = nbformat.read(str(notebook), as_version=4)
    exporter = HTMLExporter(
        template_file=layout.NOTEBOOK,
        extra_loaders=[layout.TEMPLATES],
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(content)
    text = layout.document(_title(content), body, _FOOTER, parts=("filter",), folds=True)
    outside = external_references(text)
    if outside:
        raise UserError(f"{notebook}: the page would load {outside[0]} from elsewhere; embed it")
    return text


def _title(notebook: Any) -> str:
    for cell in notebook.cells:
        match = re.search(r"^# (.+)$|<h1[^>]*>(.+?)</h1>", _text_of(cell), re.MULTILINE)
        if match:
            return f"FLASHTrail: {unescape(match[1] or match[2])}"
    return "FLASHTrail"


def _text_of(cell: Any) -> str:
    if cell.cell_type == "markdown":
        return str(cell.source)
    return "\n".join(str(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", []))


class _References(HTMLParser):
    """Collects what a browser fetches by itself; links for readers are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag's attributes."""
        self._in_style = tag == "style"
        for name, value in attrs:
            loads = name in ("src", "srcset", "poster", "data") or (
                name in ("href", "xlink:href") and tag in ("link", "image", "use")
            )
            if loads and value and not value.startswith(("data:", "#")):
                self.found.append(f"<{tag} {name}={value[:80]}>")
            if name == "style" and value:
                self.handle_data(value, style=True)

    def handle_data(self, data: str, style: bool = False) -> None:
        """Look at style sheets."""
        if style or self._in_style:
            urls = re.findall(r"url\(\s*['\"]?(?!data:|#)[^)]*\)|@import[^;]*", data)
            self.found += [url[:80] for url in urls]

    def handle_endtag(self, tag: str) -> None:
        """Leave a style sheet."""
        self._in_style = False


def external_references(text: str) -> list[str]:
    """Return everything that a browser would load for this page from anywhere but the page itself."""
    parser = _References()
    parser.feed(text)
    return parser.found
