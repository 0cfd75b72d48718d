"""The machine's own Firefox, headless, over WebDriver BiDi: a tab with the words of playwright's that browser.py uses.

playwright drives released Firefoxes, too, but starts with a command that Debian's ESR does not know
(emulation.setMediaFeaturesOverride); the protocol itself is a WebSocket with JSON.
https://w3c.github.io/webdriver-bidi/
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from websockets.sync.client import ClientConnection, connect

from flashtrail.base.errors import UserError

NAMES = ("firefox-esr", "firefox")
MODES = {"light": 1, "dark": 0}
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Space": " "}
KEYS |= {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015"}
_START_S, _ANSWER_S = 120.0, 120.0
_EVENTS = ["log.entryAdded", "network.beforeRequestSent"]
_PREFS = {
    "app.update.auto": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}
# What a page's policy stops is no console message of BiDi's.
_STOPPED = "() => addEventListener('securitypolicyviolation', e => console.error('stopped: ' + e.blockedURI))"


def executable() -> str | None:
    """Return the path of the machine's Firefox, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched(mode: str = "light") -> Iterator[Firefox]:
    """Yield a Firefox whose reader prefers `mode` (a key of MODES); UserError where the machine has none."""
    path = executable()
    if path is None:
        raise UserError(f"no Firefox found ({', '.join(NAMES)}): apt-get install -y firefox-esr")
    with tempfile.TemporaryDirectory(prefix="firefox-", ignore_cleanup_errors=True) as profile:
        prefs = _PREFS | {"layout.css.prefers-color-scheme.content-override": MODES[mode]}
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items())
        Path(profile, "user.js").write_text("".join(lines), encoding="utf-8")
        words = [path, "--headless", "--no-remote", "--remote-debugging-port=0", "--profile", profile]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(process, profile), max_size=None, proxy=None) as socket:
                yield Firefox(socket)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(process: subprocess.Popen[bytes], profile: str) -> str:
    """Return where a Firefox that starts listens: it writes that into its profile."""
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        try:
            said = json.loads(Path(profile, "WebDriverBiDiServer.json").read_bytes())
            return f"ws://{said['ws_host']}:{said['ws_port']}/session"
        except (OSError, ValueError):  # not yet, or not yet whole
            time.sleep(0.1)
    raise UserError(f"{process.args[0]} does not start headless")  # type: ignore[index]


class Firefox:
    """A browser and its connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._sent = socket, 0
        self.tabs: dict[str, Tab] = {}
        self.command("session.new", capabilities={})
        self.command("session.subscribe", events=_EVENTS)
        self.command("script.addPreloadScript", functionDeclaration=_STOPPED)

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come first go to their tabs."""
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_ANSWER_S))
            if answer["type"] == "event":
                self._note(answer["method"], answer["params"])
            elif answer.get("id") == self._sent:
                if answer["type"] == "error":
                    raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
                return dict(answer["result"])

    def _note(self, method: str, event: dict[str, Any]) -> None:
        of = event["context"] if method == "network.beforeRequestSent" else event["source"].get("context")
        if tab := self.tabs.get(of):
            if method == "network.beforeRequestSent":
                tab.tell("request", SimpleNamespace(url=event["request"]["url"]))
            else:
                tab.tell("console", SimpleNamespace(type=event["level"], text=event["text"]))

    @contextmanager
    def tab(self, size: tuple[int, int]) -> Iterator[Tab]:
        """Yield an empty page in a window of `size` pixels, and close it afterwards."""
        context = self.command("browsingContext.create", type="tab")["context"]
        viewport = {"width": size[0], "height": size[1]}
        self.command("browsingContext.setViewport", context=context, viewport=viewport)
        self.tabs[context] = Tab(self, context)
        try:
            yield self.tabs[context]
        finally:
            del self.tabs[context]
            self.command("browsingContext.close", context=context)


class Tab:
    """A page; what it does is called as in playwright."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox, self._context = firefox, context
        self._listeners: list[tuple[str, Callable[[Any], None]]] = []

    def on(self, event: str, note: Callable[[Any], None]) -> None:
        """Let `note` be told of ``console`` (errors of scripts among them) or ``request``."""
        self._listeners.append((event, note))

    def remove_listener(self, event: str, note: Callable[[Any], None]) -> None:
        """Tell it no more."""
        self._listeners.remove((event, note))

    def tell(self, event: str, what: SimpleNamespace) -> None:
        """Tell those who listen."""
        for name, note in self._listeners:
            if name == event:
                note(what)

    def goto(self, url: str) -> None:
        """Open an address and wait until all of it is loaded."""
        self._firefox.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression, or of the function that it is, as plain data; a promise is awaited."""
        to = {"target": {"context": self._context}, "awaitPromise": True}
        if re.match(r"\s*(async )?\(?[\w, ]*\)? =>", script):
            answer = self._firefox.command("script.callFunction", functionDeclaration=script, **to)
        else:
            answer = self._firefox.command("script.evaluate", expression=script, **to)
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return _plain(answer["result"])

    def wait(self, condition: str) -> None:
        """Wait until an expression is true; TimeoutError where it never is. A page that is being left has no value."""
        until = time.monotonic() + _ANSWER_S
        while time.monotonic() < until:
            try:
                if self.evaluate(condition):
                    return
            except RuntimeError:
                pass
            time.sleep(0.05)
        raise TimeoutError(condition)

    def press(self, *keys: str) -> None:
        """Press keys one after another: names of KEYS, or single letters."""
        strokes = [{"type": way, "value": KEYS.get(key, key)} for key in keys for way in ("keyDown", "keyUp")]
        actions: Sequence[Any] = [{"type": "key", "id": "keys", "actions": strokes}]
        self._firefox.command("input.performActions", context=self._context, actions=actions)


def _plain(value: dict[str, Any]) -> Any:
    """Return a value as BiDi gives it as plain data; what cannot be data is None."""
    kind, inside = value["type"], value.get("value")
    if kind == "array":
        return [_plain(item) for item in inside or ()]
    if kind == "object":
        return {name: _plain(item) for name, item in inside or ()}
    return inside if kind in ("string", "number", "boolean") else None
