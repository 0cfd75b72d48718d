"""`flashtrail watch`: the page of a run under way, over HTTP as browsers and strangers ask for it, and in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from markupsafe import Markup
from PIL import Image
from report.test_live import NAMES

from flashtrail.base.errors import UserError
from flashtrail.experiment import outlook, progress
from flashtrail.experiment.outlook import Asked, Failed, Standing
from flashtrail.report import early, layout, loopback, watch


def plain(text: str) -> str:
    return " ".join(Markup(re.split("<body[^>]*>", text)[1]).striptags().split())


needs_browser = pytest.mark.skipif(browser.executable() is None, reason="no browser on this machine")
DIGEST = "0123456789ab"
SHARDS = (("clean", 0), ("clean", 1), ("blind", 0))


class Run:
    """A run's directory: three shards, two of them of one arm, each a folder that says what a shard says."""

    def __init__(self, root: Path) -> None:
        self.root, self.results = root, root / "results"
        self.directories = [outlook.directory_of(self.results, *shard) for shard in SHARDS]
        self.records = [progress.Record(directory, NAMES, {}, DIGEST) for directory in self.directories]
        self.site = watch.Site(root)

    def play(self, shard: int, outcome: str, film: bool = True) -> Path:
        number = len(progress.read(self.directories[shard])["outcomes"])
        part = self.directories[shard] / "parts" / DIGEST / NAMES[number]
        part.mkdir(parents=True)
        if film:
            Image.new("RGB", (448, 192), (90, 60 * number, 90)).save(part / "sheet.jpg")
            (part / "video.mp4").write_bytes(bytes(range(200)))
        self.records[shard].add(NAMES[number], outcome, 9.0, 75, 20)
        return part

    def say(self, *failed: Failed, **more: object) -> None:
        shards = [
            Asked(
                arm=arm, task_id=task, expected=NAMES, counts=True, finished=False, at_work=arm == "clean" and not task
            )
            for arm, task in SHARDS
        ]
        said = {"started_at": time.time() - 60, "written_at": time.time(), "ended": False, "running": "roll out shard"}
        Standing(**{**said, "failed": failed, "shards": shards, **more}).write(self.results / progress.FILE)

    def page(self) -> str:
        self.site = watch.Site(self.root)  # what was read a moment ago is read again
        return self.site("")[0]


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path)
    for outcome in ("success", "horizon"):
        made.play(0, outcome)
    made.say()
    return made


def test_counts_with_intervals_pace_and_films_the_newest_first(run):
    run.play(1, "success")
    text = run.page()
    words = plain(text)
    assert "2 of 9 episodes" not in words and "<h1>3 of 9 episodes</h1>" in text
    assert "1/2 [9–91 %], 1 missing" in words and "2/3 [21–94 %], 3 missing" in words
    assert "roll out shard: clean task 0" in words and "No verdict is computed" in words
    assert re.search(r"Pace ?\d+\.\d rounds/s", words)
    films = re.findall(r'<figure id="films/clean/(\d/init_00\d)', text)
    assert films == ["1/init_000", "0/init_001", "0/init_000"]
    assert "○ out of time clean, task 0, init 001 repeat 0; 20 rounds in 9 s" in words
    assert 'value="3" max="9"' in text and text.count("<script") == 1


def test_how_a_run_stands_is_one_line(tmp_path):
    site = watch.Site(tmp_path)
    assert site.line() == "No run under way. No run is here yet: `make report` starts one."
    run = Run(tmp_path)
    run.play(0, "success")
    run.say()
    assert site.line() == "1 of 9 episodes. A run under way."
    run.say(written_at=1764500000.0)
    silent = "The run has said nothing since 10:53:20 UTC: it was killed. `make unlock`, then the same command goes on."
    assert site.line() == f"1 of 9 episodes. {silent}"
    run.say(ended=True)
    assert site.line() == "1 of 9 episodes. The run has stopped: the same command goes on."
    run.say()
    assert site.line() == "1 of 9 episodes. A run under way.", "started again"
    run.say(ended=True, jobs=(9, 9))
    assert site.line() == "1 of 9 episodes. The run has finished."
    report = tmp_path / "reports/final.html"
    early.write(report, early.MARK)
    assert "reports/final.html" not in run.page(), "an early page is no report"
    report.write_text("the report")
    assert '<a href="reports/final.html">final.html</a>' in run.page() and "earlier run" not in run.page()
    run.say()
    assert "Of an earlier run: " in run.page()
    (tmp_path / "results/progress.json").unlink()
    assert site.line() == "No run under way. The report is finished."


@pytest.mark.parametrize(
    "content",
    ["[]", '{"shards": 3}', "{", '{"started_at": NaN}', " " * (8 * 2**20 + 1), "x\0"],
    ids=["list", "keys", "json", "nan", "size", "noise"],
)
def test_a_record_that_is_none_is_one_line_and_the_page_goes_on(run, content):
    (run.results / progress.FILE).write_text(content)
    assert "What the run says of itself cannot be read: " in run.page()
    assert len(run.site.line().splitlines()) == 1
    (run.directories[0] / progress.FILE).write_text('{"outcomes": {"init_000_repeat_0": "success"}, "wall_s": [1]}')
    run.say()
    assert "<h1>" in run.page()


def test_a_failed_job_shows_the_end_of_its_log_as_text(run, tmp_path):
    log = run.results / "logs/roll_out_shard/clean/task_0.log"
    log.parent.mkdir(parents=True)
    log.write_text("first\n" * 5000 + "error: <script>alert(1)</script> a full disk\n")
    secret = tmp_path / "secret.log"
    secret.write_text("not for readers")
    (log.parent / "link.log").symlink_to(secret)
    os.mkfifo(log.parent / "pipe.log")
    places = ("roll_out_shard/clean/task_0.log", "../../secret.log", "roll_out_shard/clean/link.log")
    names = [f"results/logs/{place}" for place in (*places, "roll_out_shard/clean/pipe.log")]
    run.say(*(Failed(job=f"job {n}", log=name) for n, name in enumerate([*names, str(secret), None])))
    text = run.page()
    assert "error: &lt;script&gt;alert(1)&lt;/script&gt; a full disk" in text and text.count("first\n") == 19
    assert "not for readers" not in text and text.count("there is no log</pre>") == 5
    assert "Failed: job 5" in text


# --- over HTTP ---


class Served:
    """The site on a port, and what comes back for the bytes of a request."""

    def __init__(self, site: watch.Site) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url, self.server = asyncio.run_coroutine_threadsafe(self._serve(site), self._loop).result(30)
        self.port, self.root = int(self.url.split(":")[2].split("/")[0]), self.url.split("/", 3)[3].rstrip("/")

    async def _serve(self, site: watch.Site) -> tuple[str, loopback.Server]:
        return loopback.serve(site, 0)

    def stop(self) -> None:
        async def stop() -> None:
            self.server.stop()
            await self.server.close_all_connections()

        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def send(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 30) as found:
            found.sendall(data)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while block := found.recv(2**16):
                    answer += block
            return answer

    def ask(self, path: str, *headers: str, method: str = "GET", host: str | None = "localhost") -> tuple[int, str]:
        lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), "Connection: close", *headers]
        head, _, body = self.send("\r\n".join([*lines, "", ""]).encode("latin-1")).partition(b"\r\n\r\n")
        self.head = head.decode()
        return int(head.split()[1]), body.decode("latin-1")


@pytest.fixture
def served(run) -> Iterator[Served]:
    found = Served(run.site)
    yield found
    found.stop()


def test_the_page_a_report_and_a_film_are_given_out(run, served):
    (run.root / "reports/episodes/clean").mkdir(parents=True)
    (run.root / "reports/episodes/clean/index.html").write_text("episodes of clean")
    code, text = served.ask(f"/{served.root}/")
    assert code == 200 and "2 of 9 episodes" in text
    assert f"Content-Security-Policy: {layout.content_policy(True, ['watch'], served=True)}; frame-anc" in served.head
    assert "connect-src 'self'" in served.head and "unsafe-inline'; script" in served.head
    for line in ("Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer"):
        assert line in served.head
    mark = re.search(r"Etag: (\S+)", served.head)[1]
    assert served.ask(f"/{served.root}/", f"If-None-Match: {mark}") == (304, "")
    assert served.ask(f"/{served.root}/", method="HEAD") == (200, "")
    assert served.ask(f"/{served.root}/reports/episodes/clean/index.html") == (200, "episodes of clean")
    film = f"/{served.root}/films/clean/0/init_000_repeat_0.mp4"
    assert served.ask(film)[1].encode("latin-1") == bytes(range(200)) and "video/mp4" in served.head
    assert served.ask(film, "Range: bytes=10-19") == (206, bytes(range(10, 20)).decode("latin-1"))
    assert served.ask(film, "Range: bytes=900-")[0] == 416
    assert served.ask(film.replace(".mp4", ".jpg"))[1][6:10] == "JFIF"


def test_an_address_that_lost_its_last_slash_leads_to_the_page(served):
    for method in ("GET", "HEAD"):
        code, _ = served.ask(f"/{served.root}", method=method)
        assert code == 302 and re.search(r"^Location: (.*)\r$", served.head, re.M)[1] == f"/{served.root}/"
        assert "frame-ancestors" in served.head
    assert served.ask(f"/{served.root[:-1]}")[0] == 404
    assert served.ask(f"/{served.root}", host="evil.example")[0] == 421


STRANGE = [
    "/", "/{wrong}/", "/{root}x/", "//{root}/", "//{root}", "http://127.0.0.1/{root}/", "/{root}/progress.json",
    "/{root}/reports", "/{root}/reports/", "/{root}/reports/link.html", "/{root}/reports/up/secret.html",
    "/{root}/reports/pipe.html", "/{root}/reports/notes.txt", "/{root}/reports/../secret.html",
    "/{root}/reports/%2e%2e/secret.html", "/{root}/reports/..%2fsecret.html", "/{root}/reports//etc/passwd.html",
    "/{root}/reports/%00.html", "/{root}/reports/%ff.html", "/{root}/reports/..\\secret.html",
    "/{root}/../{root}/", "/{root}/films/clean/0/init_002_repeat_0.mp4", "/{root}/films/clean/0/../../../secret.mp4",
    "/{root}/films/clean/0/init_000_repeat_0.parquet", "/{root}/films/clean/0/init_000_repeat_0",
    "/{root}/films/clean/9/init_000_repeat_0.mp4", "/{root}/results/progress.json",
    "/{root}/reports/" + "a" * 5000 + ".html",
]  # fmt: skip


@pytest.mark.parametrize("path", STRANGE)
def test_nothing_else_is_given_out(run, served, path):
    reports = run.root / "reports"
    reports.mkdir()
    (run.root / "secret.html").write_text("secret")
    (reports / "link.html").symlink_to("../secret.html")
    (reports / "up").symlink_to("..")
    (reports / "notes.txt").write_text("secret")
    os.mkfifo(reports / "pipe.html")
    code, text = served.ask(path.format(root=served.root, wrong="A" * 22))
    assert code in (400, 404) and "secret" not in text and len(text) < 80 and str(run.root) not in text


def test_a_film_that_leads_out_of_the_results_is_not_given_out(run, served, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "video.mp4"
    secret.write_bytes(b"secret")
    film = run.play(0, "success") / "video.mp4"
    place = f"/{served.root}/films/clean/0/{NAMES[2]}.mp4"
    assert served.ask(place)[0] == 200
    film.unlink()
    film.symlink_to(secret)
    assert served.ask(place)[0] == 404
    content = progress.read(run.directories[0])
    (run.root / "x" / NAMES[2]).mkdir(parents=True)
    (run.root / "x" / NAMES[2] / "video.mp4").write_bytes(b"secret")
    for digest in ("../../../../../x", str(run.root / "x")):
        (run.directories[0] / progress.FILE).write_text(str({**content, "spec_digest": digest}).replace("'", '"'))
        assert served.ask(place)[0] == 404
        assert served.ask(f"/{served.root}/")[0] == 200, "its readers still have the rest"


def test_other_names_other_pages_and_other_methods_are_refused(served):
    page = f"/{served.root}/"
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1"):
        assert served.ask(page, host=host) == (421, "this server does not answer to that name (Host)\n")
    for host in ("127.0.0.1:9", "[::1]", "localhost:8080"):
        assert served.ask(page, host=host)[0] == 200, "a tunnel has another port"
    assert served.ask(page, host=None)[0] in (400, 421)
    assert served.ask(page, "Host: evil.example")[0] in (400, 421)
    assert served.ask(page, "Origin: https://evil.example")[0] == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert served.ask(page, "Content-Length: 0", method=method)[0] == 405, method
    assert "flashtrail" in served.head and "ornado" not in served.head


def test_whoever_is_slow_large_or_one_too_many_is_hung_up_on(run, monkeypatch):
    monkeypatch.setattr(loopback, "HEADERS_S", 0.5)
    monkeypatch.setattr(loopback, "CONNECTED_S", 4.0)
    monkeypatch.setattr(loopback, "CONNECTIONS", 4)
    served = Served(run.site)
    try:
        assert served.send(b"GET / HTTP/1.1\r\nHost: local") == b"", "never whole"
        assert b"200" not in served.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 2**17)[:20]
        assert not served.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 no TLS here\r\n\r\n").startswith(
            b"HTTP/1.1 2"
        )
        with socket.create_connection(("127.0.0.1", served.port), 30) as drips:
            drips.sendall(f"GET /{served.root}/ HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            waiting = [socket.create_connection(("127.0.0.1", served.port), 30) for _ in range(8)]
            closed = [one.recv(1) for one in waiting[3:]]
            assert closed == [b""] * 5, "those beyond four"
            for one in waiting:
                one.close()
            while drips.recv(2**16):  # at the latest when its time is over
                pass
        assert served.ask(f"/{served.root}/")[0] == 200, "and others go on"
    finally:
        served.stop()


def test_a_fault_of_ours_is_one_line_here_and_no_word_on_the_wire(run, served, monkeypatch, capfd):
    monkeypatch.setattr(watch.Site, "_page", lambda self: [][1])
    code, text = served.ask(f"/{served.root}/")
    assert code == 500 and "IndexError" not in text
    assert capfd.readouterr().err == "error: IndexError: list index out of range\n"


# --- in a browser ---


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("size", [browser.DESK, browser.PHONE], ids=["desk", "phone"])
def test_readers_see_what_is_new_and_a_film_that_plays_plays_on(chromium, run, served, monkeypatch, size):
    monkeypatch.setattr(watch, "RENEWED_S", 0.2)
    monkeypatch.setattr(watch, "FRESH_S", 0.0)
    log = run.results / "logs/check.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: no candidate matches " + "x" * 300)
    with browser.tab(chromium, size) as page, browser.tab(chromium, size) as other:
        said: list[str] = []
        for one in (page, other):
            one.on("console", lambda message: said.append(message.text))
            one.on("pageerror", lambda error: said.append(str(error)))
            one.on(
                "request", lambda asked: None if asked.url.startswith((served.url, "data:")) else said.append(asked.url)
            )
            one.goto(served.url)
        page.locator("figure a").last.click()
        film = page.locator("video")
        assert film.get_attribute("src").endswith(f"films/clean/0/{NAMES[0]}.mp4") and not film.get_attribute("poster")
        film.evaluate("film => { film.dataset.mine = 'yes'; }")
        run.play(1, "success")
        run.say(Failed(job="check_parity pi0_nano", log="results/logs/check.log"))
        for one in (page, other):
            one.get_by_role("heading", name="3 of 9 episodes").wait_for()
            one.get_by_text("error: no candidate matches").wait_for()
            one.get_by_text("2/3").wait_for()
        assert page.title() == "FLASHTrail: 3 of 9 episodes"
        assert page.locator("figure").count() == 3 and film.get_attribute("data-mine") == "yes"
        head = page.locator("#so-far th button").first
        head.click()
        assert head.evaluate("head => head.parentElement.ariaSort") == "ascending", "a table that came later sorts, too"
        page.evaluate("() => Promise.all([...document.images].map(i => i.decode().catch(() => null)))")  # as they come
        assert page.evaluate(browser._OVERFLOW) == [] and page.evaluate(browser._MISSING) == []
        assert [line for line in said if not line.startswith((served.url, "data:"))] == [], "errors, other requests"
        assert browser.violations(page) == []
        served.stop()
        page.get_by_text("No answer: the command that gives out this page has ended.").wait_for()


@needs_browser
@pytest.mark.slow
def test_without_scripts_the_page_is_loaded_again(chromium, run, served):
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        page.goto(served.url)
        assert page.locator("noscript meta").get_attribute("content") == "15"
        assert page.get_by_text("1/2").count() == 2 and page.locator("figure img").count() == 2
    finally:
        context.close()


# --- the command ---


def command(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(watch.__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-m", "flashtrail", "watch", *words], **pipes)


def test_the_command_says_how_the_run_stands_and_where_and_ends_with_ctrl_c(run):
    started = command(str(run.root))
    assert started.stdout.readline() == "2 of 9 episodes. A run under way.\n"
    url = re.fullmatch(r"open (http://127\.0\.0\.1:\d+/\S{22}/) on this machine; .*\n", started.stdout.readline())[1]
    port = url.split(":")[2].split("/")[0]
    taken = command(str(run.root), "--port", port)
    assert taken.communicate()[1] == (
        f"error: port {port} on 127.0.0.1 is taken: stop what listens there or give another --port (make: PORT=)\n"
    )
    assert taken.returncode == 2
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=60) == ("ended; the run goes on\n", "") and started.returncode == 0


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("http://localhost:8000", "watch takes a run's directory, or a server"),
        ("nowhere", "nowhere is not a directory"),
    ],
)
def test_what_cannot_be_watched_is_one_line(source, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        watch.run(type("Arguments", (), {"source": source, "port": 0}))
