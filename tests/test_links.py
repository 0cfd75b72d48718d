"""Links in the documentation lead to files and headings that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [path for folder in (".", "docs", "resources") for path in sorted((ROOT / folder).glob("*.md"))]
PAGES += sorted((ROOT / "docs/reference").glob("*.md")) + sorted((ROOT / "resources").glob("*/README.md"))
_FENCED, _LINK = re.compile(r"```.*?```", re.DOTALL), re.compile(r"\]\((?!https?:)([^)\s#]*)#?([^)\s]*)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for place, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{place}: no such file"
        assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{place}#{anchor}: no such heading"


def test_there_are_pages_with_links() -> None:
    assert sum(len(_LINK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 50
