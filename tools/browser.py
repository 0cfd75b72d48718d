"""A report opened in a real browser: whatever is wrong with the page as a reader gets it, and a picture of it.

    python tools/browser.py reports        # `make screenshot`

Drives a Chromium that the machine has, through playwright; axe-core judges contrast and the rest of WCAG 2.1 AA. Where
there is a Firefox, it opens the same pages, light and dark (firefox.py). Knows pages by their files only: no table, no
notebook. Nothing of it is needed to make a report.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import firefox

from flashtrail.base import commands
from flashtrail.base.errors import UserError
from flashtrail.report import early

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DESK, PHONE = (1280, 800), (390, 844)
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
_SHOWN = 4  # elements named per violation
_PAGES = 3  # episodes opened per report, beside the lists

# Every image, also one that a browser would load only near the window.
_DECODED = """() => Promise.all([...document.images].map(i => {
  i.loading = "eager";
  return i.decode().catch(() => null);
}))"""
# Images that did not load, by name.
_MISSING = """() => [...document.images].filter(i => !i.complete || i.naturalWidth === 0)
  .map(i => (i.alt || i.src).slice(0, 80))"""
# What makes the page wider than the window: the first elements that stick out and do not lie in a box that scrolls.
_OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= wide) return [];
  const scrolls = e => e &&
    (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
  const out = [...document.body.querySelectorAll("*")]
    .filter(e => e.getBoundingClientRect().right > wide + 1 && !scrolls(e.parentElement));
  return [`${document.documentElement.scrollWidth} px on ${wide} px`].concat(out.slice(0, 3).map(
    e => `${e.tagName.toLowerCase()}.${e.getAttribute("class") || ""} ${(e.textContent || "").trim().slice(0, 40)}`));
}"""

# When the window first shows something of the page, ms from the start of its loading.
_PAINTED = """() => new Promise(done => new PerformanceObserver(
  list => done(list.getEntries()[0].startTime)).observe({type: "paint", buffered: true}))"""


def executable() -> str | None:
    """Return the path of the machine's Chromium or Chrome, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Yield a headless browser; UserError where the machine has none."""
    path = executable()
    if path is None:
        raise UserError(f"no browser found ({', '.join(NAMES)}): apt-get install -y chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise UserError("playwright is missing: run `make setup` (envs/dev.yaml pins it)") from None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Opened:
    """A page, and what happened while it was read."""

    page: Any  # Page or firefox.Tab
    messages: list[str]  # errors of the console and of scripts
    requests: list[str]  # whatever was asked for beside the page itself and what is embedded in it


@contextmanager
def tab(browser: Browser, size: tuple[int, int] = DESK) -> Iterator[Page]:
    """Yield an empty page in a window of `size` pixels, and close it afterwards; a second file in it is a cheap one."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def opened(browser: Browser, path: str | Path, size: tuple[int, int] = DESK) -> Iterator[Opened]:
    """Yield a page of this file in a window of `size` pixels, and close it afterwards."""
    with tab(browser, size) as page, visited(page, path) as found:
        yield found


@contextmanager
def visited(page: Page | firefox.Tab, path: str | Path) -> Iterator[Opened]:
    """Yield the page as it shows this file; what happens is noted until the caller is done with it."""
    url = Path(path).resolve().as_uri()
    found = Opened(page, [], [])
    listeners: dict[str, Callable[[Any], None]] = {
        "console": lambda m: found.messages.append(m.text) if m.type == "error" else None,
        "pageerror": lambda error: found.messages.append(str(error)),
        "request": lambda r: None if _own(r.url, url) else found.requests.append(r.url),
    }
    for event, note in listeners.items():
        page.on(event, note)  # type: ignore[call-overload]
    try:
        page.goto(url)
        yield found
    finally:
        for event, note in listeners.items():
            page.remove_listener(event, note)


def _own(asked: str, url: str) -> bool:
    return asked.startswith(("data:", "blob:", "about:")) or asked.split("#")[0] == url


def problems(browser: Browser, path: str | Path, size: tuple[int, int] = PHONE) -> list[str]:
    """Return what is wrong with a page in a window of this size, as `wrong` does."""
    with tab(browser, size) as page:
        return wrong(page, path)


def wrong(page: Page | firefox.Tab, path: str | Path) -> list[str]:
    """Return what is wrong with this file in this tab, one line each; an empty list if nothing is.

    Errors on the console, requests, images that are missing, a page wider than its window; in Chromium also violations
    of WCAG 2.1 AA (contrast among them), which are of the page and not of the browser.
    """
    with visited(page, path) as found:
        page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.evaluate(_DECODED)
        said = [f"image missing: {name}" for name in page.evaluate(_MISSING)]
        said += [f"wider than the window: {'; '.join(wide)}" for wide in [page.evaluate(_OVERFLOW)] if wide]
        said += [] if isinstance(page, firefox.Tab) else violations(page)
        said += [f"console: {text}" for text in found.messages]
        return said + [f"asks for {url}" for url in found.requests]


def violations(page: Page) -> list[str]:
    """Return violations of WCAG 2.1 AA, each with the first elements it is about."""
    from axe_playwright_python.sync_playwright import Axe

    # Of what passes, one element per rule: all of them, each with its selector, is half the time of a long page.
    options = {"runOnly": {"type": "tag", "values": WCAG}, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options)
    lines = []
    for violation in found.response["violations"]:
        nodes = violation["nodes"]
        named = "; ".join(_node(node) for node in nodes[:_SHOWN])
        lines.append(f"{violation['id']} ({len(nodes)}): {named}")
    return lines


def _node(node: dict[str, Any]) -> str:
    ratio = next((c["data"].get("contrastRatio") for c in node["any"] if isinstance(c.get("data"), dict)), None)
    return " ".join(node["html"].split())[:80] + (f" [{ratio}:1]" if ratio else "")


def shoot(browser: Browser, path: str | Path, out: str | Path, size: tuple[int, int] = DESK) -> None:
    """Write a PNG of the first screen."""
    with opened(browser, path, size) as found:
        found.page.screenshot(path=out)


def first_paint_ms(browser: Browser, path: str | Path, size: tuple[int, int]) -> float:
    """Return when a window of this size first shows something of a page, from the start of its loading."""
    with opened(browser, path, size) as found:
        return float(found.page.evaluate(_PAINTED))


def pages_of(reports: Path) -> list[Path]:
    """Return the pages to open: every report, the lists of episodes, and a few episodes of each arm."""
    lists = sorted(reports.glob("episodes/*/index.html"))
    episodes = [page for one in lists for page in sorted(p for p in one.parent.glob("*.html") if p != one)[:_PAGES]]
    return [*sorted(reports.glob("*.html")), *sorted(reports.glob("episodes/*.html")), *lists, *episodes]


def check(browser: Browser, reports: str | Path) -> tuple[list[Path], list[str]]:
    """Open a reports directory's pages at both widths and leave final.png and final-phone.png in it.

    Returns the pages that were opened and what is wrong with them, one line each.
    """
    final = _final(reports)
    shoot(browser, final, final.with_name("final.png"))
    shoot(browser, final, final.with_name("final-phone.png"), PHONE)
    paths = pages_of(Path(reports))
    with tab(browser, DESK) as desk, tab(browser, PHONE) as phone:
        sides = {DESK: desk, PHONE: phone}
        said = [
            f"{path} at {size[0]} px: {line}"
            for path in paths
            for size, page in sides.items()
            for line in wrong(page, path)
        ]
    return paths, said


def _final(reports: str | Path) -> Path:
    """The report of the directory: final.html, else one of another name."""
    final = Path(reports) / "final.html"
    others = (page for page in sorted(Path(reports).glob("*.html")) if "-" not in page.stem and page.stem != "index")
    if not final.is_file() and (final := next(others, final)).name == "final.html":
        raise UserError(f"{final} does not exist: run `make report` first")
    early.refuse(final)
    return final


def check_in_firefox(reports: str | Path) -> list[str]:
    """Open the same pages in Firefox, at both widths, light and dark; return what is wrong, one line each."""
    said = []
    for mode in firefox.MODES:
        with firefox.launched(mode) as browser:
            for size in (DESK, PHONE):
                with browser.tab(size) as tab:
                    where = f"at {size[0]} px in Firefox, {mode}"
                    said += [f"{path} {where}: {line}" for path in pages_of(Path(reports)) for line in wrong(tab, path)]
    return said


def main(arguments: list[str]) -> int:
    """Check the reports directory that is named (default: reports) and print what was found; 1 with any problem."""
    reports = arguments[0] if arguments else "reports"
    with launched() as browser:
        paths, said = check(browser, reports)
        paints = [f"{first_paint_ms(browser, _final(reports), size):.0f} ms at {size[0]} px" for size in (DESK, PHONE)]
    if firefox.executable():
        said += check_in_firefox(reports)
    else:
        print(f"no Firefox ({', '.join(firefox.NAMES)}): opened in Chromium only")
    print(*said, sep="\n", end="\n" if said else "")
    print(f"first paint of {_final(reports).name}: {', '.join(paints)}")
    print(f"{reports}: {len(paths)} pages opened at {DESK[0]} and {PHONE[0]} px, {len(said)} problems; see final.png")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(commands.run(lambda: main(sys.argv[1:]), "browser"))
