"""`make studio` from end to end: a checkout in a path with a space, the page in Chromium, two visitors, Ctrl-C."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import browser
import numpy as np
import psutil
import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from flashtrail.base import commands
from flashtrail.studio import __main__ as start

ROOT = Path(__file__).parents[2]
NO_NETWORK = re.compile(r"dns|resolve|connect|network is unreachable|timed out|offline", re.IGNORECASE)


@pytest.fixture(scope="module")
def environment():
    """.venv-studio of this checkout, made if it is missing."""
    setup = [sys.executable, str(ROOT / "scripts/setup_env.py"), "--studio"]
    made = subprocess.run(setup, capture_output=True, text=True)
    if made.returncode and NO_NETWORK.search(made.stderr):
        pytest.skip("the studio's environment is not there and cannot be fetched: no network")
    assert made.returncode == 0, made.stderr
    return ROOT / ".venv-studio"


@pytest.fixture
def checkout(environment, tmp_path):
    """As much of a checkout as the studio needs, where a path has a space and a quote."""
    root = tmp_path / "it's a checkout"
    for part in ("src", "resources/lift_nano", "resources/scripted"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".venv-studio").symlink_to(environment)
    (root / "secret.txt").write_text("of the checkout")
    return root


@contextlib.contextmanager
def studio(root):
    """Yield the process and the address that it prints; end it as Ctrl-C does, and see that nothing is left."""
    log, words = root.parent / "studio.log", [sys.executable, "-P", "-m", "flashtrail.studio"]
    before = set(Path(tempfile.gettempdir()).glob("flashtrail-studio-*"))
    with log.open("wb") as said:
        process = subprocess.Popen(
            words, cwd=root.parent, stdout=said, stderr=said, env={**os.environ, "PYTHONPATH": str(root / "src")}
        )
    try:
        wait_for(lambda: "open http" in log.read_text() or process.poll() is not None, 120)
        found = re.search(r"open (http://127\.0\.0\.1:\d+/[\w-]{22}/) on this machine", log.read_text())
        assert found, log.read_text()
        yield psutil.Process(process.pid), found[1]
        under = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and log.read_text().endswith("ended\n")
        wait_for(lambda: not [child for child in under if child.is_running()], 15)
        assert set(Path(tempfile.gettempdir()).glob("flashtrail-studio-*")) <= before
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def wait_for(true, seconds):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def asked(url, path="", **headers):
    at = urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
    connection.request("GET", path or at.path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


class Visitor:
    """A tab of a browser of its own, and what it asked for."""

    def __init__(self, window, url, size=browser.DESK):
        self.requests, self.errors = [], []
        context = window.new_context(viewport={"width": size[0], "height": size[1]})
        self.page = context.new_page()
        self.page.set_default_timeout(120_000)
        context.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.get_by_role("button", name="Predict").wait_for()

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()

    def open(self, tab):
        self.page.locator("button[role=tab]", has_text=tab).first.click()

    def sees(self, text):
        self.page.get_by_text(text).first.wait_for()


@pytest.mark.slow
@pytest.mark.skipif(browser.executable() is None, reason="no browser on this machine")
def test_each_set_that_is_chosen_is_shown_and_stepped_through(checkout):
    for number, task in enumerate(("push", "pick")):
        place = checkout / f"results/training/{task}/task0"
        place.mkdir(parents=True)
        rows = np.full((9, 2), number, np.float32)
        views = np.full((9, 112, 112, 3), 200 * number, np.uint8)
        np.savez(place / "ep0000.npz", state=rows, label=rows, at=np.arange(9), agent=views)
    with studio(checkout) as (_, url), browser.launched() as window:
        visitor = Visitor(window, url)
        visitor.open("Data")
        for number, task in enumerate(("push", "pick")):  # both have an episode of the same name
            field = visitor.page.get_by_label("Set of demonstrations", exact=True)
            field.fill(f"results/training/{task}")
            field.press("Enter")
            visitor.press("Show")
            visitor.sees(re.compile(f"^results/training/{task}; cameras: agent$"))
            visitor.sees("Step 0 of 9")
            visitor.page.locator("td", has_text=re.compile(f"^{number}, {number}$")).first.wait_for()
            place = visitor.page.locator("input[type=number][aria-label*='Picture']")
            place.fill("8")
            place.press("Enter")
            visitor.sees("Step 8 of 9")
        field.fill("/etc")
        field.press("Enter")
        visitor.press("Show")
        visitor.sees("unknown choice '/etc'")
        visitor.page.locator(".st-cursor").wait_for(state="detached")
        assert not visitor.errors and not visitor.page.evaluate(browser._OVERFLOW)
        assert all(urlsplit(asked_for).hostname in (None, "", "127.0.0.1") for asked_for in visitor.requests)


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.skipif(browser.executable() is None, reason="no browser on this machine")
def test_a_run_is_watched_disturbed_and_ended_while_a_second_visitor_waits(checkout):
    with studio(checkout) as (process, url), browser.launched() as window:
        one, two = Visitor(window, url), Visitor(window, url, browser.PHONE)
        one.open("An episode, live")
        one.page.locator("input[type=number][aria-label*='Control steps']").fill("2")
        one.press("Run")
        one.page.locator("[data-round]").wait_for()
        assert one.page.locator("[data-light]").count() == 4
        two.press("Predict")
        two.sees("Please wait: one visitor is before you.")
        one.press("Break the camera")
        one.sees("Broken: agent view black.")
        foreign = [c for p in (process, *process.children(recursive=True)) for c in p.net_connections() if c.raddr]
        assert foreign and all(connection.raddr.ip == "127.0.0.1" for connection in foreign)
        assert two.page.locator("img[alt^='the chunk']").count() == 0
        one.press("End the run")
        one.sees("Ended: ended by the visitor")
        two.page.locator("img[alt^='the chunk']").wait_for()
        two.sees("Told: lift the red cube.")
        one.open("Model card")
        one.page.get_by_role("heading", name="lift_nano").wait_for()
        assert not one.page.evaluate(browser._OVERFLOW)
        one.open("An episode, live")
        one.press("Run")
        one.sees("Step 2 of 100")
        one.page.close()  # whoever leaves gives way
        field = two.page.get_by_label("Instruction (empty: the task's own)")
        field.fill("grasp the cube")
        field.press("Enter")
        two.press("Predict")
        two.sees("Told: grasp the cube.")
        assert not two.page.evaluate(browser._OVERFLOW)
        for visitor in (one, two):
            assert not visitor.errors
            local = [address for address in visitor.requests if not address.startswith(("data:", "blob:"))]
            assert len(local) > 10 and all(address.startswith(url.rsplit("/", 2)[0] + "/") for address in local)
        gives_out_nothing_else(url, checkout)


def gives_out_nothing_else(url, checkout):
    status, _, headers = asked(url)
    assert status == 200 and "default-src 'self'" in headers["Content-Security-Policy"]
    path = urlsplit(url).path
    files = (checkout / "secret.txt", checkout / "src/flashtrail/cli.py", ROOT / "README.md", Path("/etc/passwd"))
    for name in [*map(str, files), "secret.txt", "../secret.txt", "stage.log"]:
        for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/"):
            status, content, _ = asked(url, f"{path}{route}{quote(name)}")
            assert status in (403, 404, 405) and b"of the checkout" not in content, (route, name)
    assert asked(url, "/")[0] == 404 and asked(url, "/gradio_api/info")[0] == 404
    assert asked(url, Host="rebound.example")[0] == 421
    assert asked(url, Origin="http://elsewhere.example")[0] == 403


def test_a_port_that_is_taken_is_one_line(environment, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert commands.run(lambda: start.main(["--port", str(port)]), "studio") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: port {port} on 127.0.0.1 is taken")


def test_ctrl_c_while_gradio_is_imported_is_one_word(tmp_path):
    (tmp_path / "gradio.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flashtrail.studio.begin", "0", sys.executable, str(ROOT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"},
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "ended\n" and process.returncode == 0


def test_without_its_environment_it_says_how_to_make_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(start, "PYTHON", tmp_path / "python")
    assert commands.run(lambda: start.main([]), "studio") == 2
    assert "run make studio" in capsys.readouterr().err


def test_every_package_of_the_environment_is_pinned_and_admits_the_oldest_python(environment):
    told = (
        "import importlib.metadata as m\n"
        "for d in m.distributions(): print(d.metadata['Name'], d.version, d.metadata.get('Requires-Python') or '')"
    )
    lines = (ROOT / "envs/studio-constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    done = subprocess.run([environment / "bin/python", "-c", told], capture_output=True, text=True, check=True)
    installed = [line.split(" ", 2) for line in done.stdout.splitlines()]
    have = {canonicalize_name(name): version for name, version, _ in installed if name not in ("pip", "setuptools")}
    assert have == pinned
    assert not [name for name, _, wanted in installed if "3.11.2" not in SpecifierSet(wanted)]
