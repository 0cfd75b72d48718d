"""The studio's page: what a visitor chooses, asks and sees. Runs in the environment of envs/studio.yaml.

Started by `begin` with a bound socket, the project's interpreter and the checkout; everything that is shown comes
from the process `stage`, everything that is typed or uploaded goes there as data.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from flashtrail.studio.visitors import Backstage, Message, Turns

_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; media-src 'self' blob:; worker-src 'self' "
    "blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_LIGHTS = {
    "naive": "a height alone, as the report's metric has it",
    "own": "the simulator's own check",
    "printed": "the report's corrected criterion, as printed",
    "verified": "the behaviour was seen, and held at the end",
}


class Studio:
    """The one stage, whose turn it is, and what a visitor's browser is told."""

    def __init__(self, backstage: Backstage, choices: Message) -> None:
        self._backstage, self._choices = backstage, choices
        self._turns, self._tickets = Turns(), itertools.count()

    def visit(self, visitor: str, order: Message) -> Iterator[Message]:
        """Yield words while others are before this visitor, then the stage's messages."""
        ticket = f"{visitor}:{next(self._tickets)}"
        try:
            while before := self._turns.before(ticket):
                others = "one visitor is" if before == 1 else f"{before} visitors are"
                yield {"now": f"Please wait: {others} before you. Your turn comes by itself."}
                time.sleep(0.5)
            for message in self._backstage.ask(order):
                yield message
                if self._turns.before(ticket):  # the browser was away for longer than a turn is kept
                    yield {"failed": "Your turn has passed: ask again."}
                    return
        finally:
            self._turns.leave(ticket)

    def tell(self, visitor: str, order: Message) -> None:
        """Pass an order to what this visitor watches; without effect where that is another's."""
        if self._turns.has(visitor):
            self._backstage.tell(order)

    # --- events ---

    def predict(self, request: gr.Request, handed: Any, *chosen: Any) -> Iterator[str]:
        """Ask for a chunk and show where it leads."""
        order = {"do": "predict", **self._order(chosen)}
        if handed is not None:
            handed.thumbnail((1024, 1024))
            buffer = io.BytesIO()
            handed.convert("RGB").save(buffer, "PNG")
            order["picture"] = base64.b64encode(buffer.getvalue()).decode()
        for message in self.visit(str(request.session_hash), order):
            if message:
                yield predicted(message)

    def play(self, request: gr.Request, guard: str, pace: float, *chosen: Any) -> Iterator[str]:
        """Show an episode as it runs."""
        order = {"do": "play", "guard": guard, "pace": pace, **self._order(chosen)}
        seen: Message = {"now": "…"}
        for message in self.visit(str(request.session_hash), order):
            seen = {**seen, **message}
            yield watching(seen)

    def disturb(self, request: gr.Request, fault: str) -> None:
        """Break a camera of the episode that this visitor watches, from its next round on."""
        self.tell(str(request.session_hash), {"fault": fault})

    def end(self, request: gr.Request) -> None:
        """End the episode that this visitor watches."""
        self.tell(str(request.session_hash), {"end": True})

    def look(self, request: gr.Request, name: str) -> Iterator[list[Any]]:
        """Show what a set holds, and offer its episodes."""
        for message in self.visit(str(request.session_hash), {"do": "survey", "set": name}):
            if "html" in message:
                offered = gr.update(choices=message["episodes"], value=message["episodes"][0][1])
                yield [f"<div class='st-data'>{message['html']}</div>", offered, name]
            elif message:
                said = _now(message.get("failed") or message.get("now", "…"), "failed" in message)
                yield [said, gr.update(choices=[], value=None), name]

    def step_through(self, request: gr.Request, name: str, episode: str | None) -> Iterator[list[Any]]:
        """Fetch an episode, whose pictures the slider then goes through without asking again."""
        if not episode:
            yield [None, gr.skip(), ""]
            return
        for message in self.visit(str(request.session_hash), {"do": "episode", "set": name, "episode": episode}):
            if "pictures" in message:
                last = len(message["pictures"]) - 1
                yield [message, gr.update(maximum=max(1, last), value=0), stepped(message, 0)]
            elif message:
                yield [None, gr.skip(), _now(message.get("failed") or message.get("now", "…"), "failed" in message)]

    def _order(self, chosen: tuple[Any, ...]) -> Message:
        return dict(zip(("policy", "suite", "task", "init_state", "seed", "instruction"), chosen, strict=True))

    # --- the page ---

    def blocks(self) -> gr.Blocks:
        """Return the page."""
        policies, suites = self._choices["policies"], self._choices["suites"]
        first = "lift_nano" if "lift_nano" in policies else next(iter(policies), None)
        suite = policies[first]["suite"] if first else next(iter(suites))
        with gr.Blocks(title="FLASHTrail studio", analytics_enabled=False) as page:
            gr.Markdown("# FLASHTrail studio\nAsk a policy, watch it act, break its camera. What is seen here is one "
                        "episode: no rate and no evidence; those are the reports'.")  # fmt: skip
            for note in self._choices["notes"]:
                gr.Markdown(f"*{note}*")
            with gr.Row():
                policy = gr.Dropdown(list(policies), value=first, label="Policy")
                where = gr.Dropdown(list(suites), value=suite, label="Suite")
                task = gr.Dropdown(_numbered(suites[suite]["tasks"]), value=0, label="Task", scale=2)
                init_state = gr.Number(0, precision=0, minimum=0, label="Initial state")
                seed = gr.Number(self._choices["seed"], precision=0, minimum=0, label="Seed")
            words = gr.Dropdown(
                self._examples(suite),
                value="",
                allow_custom_value=True,
                label="Instruction (empty: the task's own)",
                info=self._words(first),
            )
            chosen = [policy, where, task, init_state, seed, words]
            with gr.Tab("One picture"):
                self._picture(chosen)
            with gr.Tab("An episode, live"):
                self._episode(chosen)
            with gr.Tab("Data"):
                self._data()
            with gr.Tab("Model card"):
                facts, card = gr.HTML(self._facts(first)), gr.Markdown(self._card(first))
            policy.change(self._of_policy, policy, [where, words, facts, card], queue=False)
            where.change(self._of_suite, where, [task, words], queue=False)
            page.unload(self.end)
        return page

    def _picture(self, chosen: list[Any]) -> None:
        with gr.Row():
            with gr.Column():
                handed = gr.Image(
                    type="pil", sources=["upload"], height=260, label="Another picture for the agent view"
                )
                gr.Markdown("It takes the place of the agent view; wrist view and hand stay those of the start.")
                ask = gr.Button("Predict", variant="primary")
            with gr.Column(scale=2):
                answer = gr.HTML(_now("Nothing is asked yet."))
        ask.click(self.predict, [handed, *chosen], answer)

    def _episode(self, chosen: list[Any]) -> None:
        with gr.Row():
            guard = gr.Dropdown(self._choices["guards"], value="none", label="Guard")
            pace = gr.Slider(1, 20, value=10, step=1, label="Control steps a second, at the most")
            fault = gr.Dropdown(self._choices["camera"], label="What breaks")
        with gr.Row():
            run = gr.Button("Run", variant="primary")
            broken = gr.Button("Break the camera")
            ended = gr.Button("End the run", variant="stop")
        stage = gr.HTML(_now("Nothing runs yet."))
        run.click(self.play, [guard, pace, *chosen], stage)
        broken.click(self.disturb, fault, None, queue=False, show_progress="hidden")
        ended.click(self.end, None, None, queue=False, show_progress="hidden")

    def _data(self) -> None:
        known = self._choices["sets"]
        none = "No set of demonstrations was found: make one, or start with DATA=DIR."
        with gr.Row():
            name = gr.Dropdown(
                known, value=next(iter(known), None), allow_custom_value=True, label="Set of demonstrations", scale=3
            )
            ask = gr.Button("Show", variant="primary")
        about = gr.HTML(_now("No set is read yet." if known else none))
        episode = gr.Dropdown([], label="Episode")
        place = gr.Slider(0, 1, value=0, step=1, label="Picture")
        seen, held, of = gr.HTML(), gr.State(), gr.State()
        looked = ask.click(self.look, name, [about, episode, of])
        looked.then(self.step_through, [of, episode], [held, place, seen])  # the next set may have an episode so called
        episode.input(self.step_through, [of, episode], [held, place, seen])
        place.change(stepped, [held, place], seen, queue=False, show_progress="hidden")

    def _of_policy(self, name: str) -> list[Any]:
        about = self._choices["policies"].get(name, {})
        told = gr.update(info=self._words(name))
        return [about.get("suite"), told, self._facts(name), self._card(name)]

    def _of_suite(self, name: str) -> list[Any]:
        tasks = self._choices["suites"][name]["tasks"]
        return [gr.update(choices=_numbered(tasks), value=0), gr.update(choices=self._examples(name), value="")]

    def _examples(self, suite: str) -> list[str]:
        return ["", *dict.fromkeys(task.split(":")[0] for task in self._choices["suites"][suite]["tasks"])]

    def _words(self, name: str | None) -> str:
        known = self._choices["policies"].get(name, {}).get("words", [])
        return f"Words that this policy knows: {', '.join(known)}" if known else "This policy has no list of words."

    def _facts(self, name: str | None) -> str:
        facts = self._choices["policies"].get(name, {}).get("facts", {})
        rows = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(text)}</td></tr>" for key, text in facts.items()
        )
        return f"<table class='st-facts'>{rows}</table>"

    def _card(self, name: str | None) -> str:
        return self._choices["policies"].get(name, {}).get("card") or "There is no card beside this artifact."


def _numbered(tasks: list[str]) -> list[tuple[str, int]]:
    return [(f"{number}: {words}", number) for number, words in enumerate(tasks)]


def _now(words: str, bad: bool = False) -> str:
    return f"<p class='st-now{' st-bad' if bad else ''}' role='status'>{html.escape(words)}</p>"


def _figure(kind: str, encoded: str, alt: str, caption: str) -> str:
    image = f"<img src='data:image/jpeg;base64,{encoded}' alt='{html.escape(alt, quote=True)}'>"
    return f"<figure class='{kind}'>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def predicted(message: Message) -> str:
    """Return what a chunk looks like, or how far its making is."""
    if "failed" in message:
        return _now(message["failed"], bad=True)
    if "image" not in message:
        return _now(message.get("now", "…"))
    count, accepted = len(message["actions"]), message["accepted"]
    along, across, up = message["moved_mm"]
    caption = (
        f"Told: {message['told']}. Green: the {accepted} actions that would be executed; orange: the other "
        f"{count - accepted}; a ring where the hand opens or closes. The whole chunk, executed in the simulator, moves "
        f"the hand by {along:g}, {across:g} and {up:g} mm in x, y and z."
    )
    if not message["drawn"]:
        caption += " The camera of this suite is not known, so nothing is drawn."
    if message["unknown"]:
        caption += f" Words that the policy does not know: {message['unknown']}."
    rows = "".join(f"<tr>{''.join(f'<td>{value:g}</td>' for value in action)}</tr>" for action in message["actions"])
    table = f"<details><summary>The actions</summary><table class='st-facts'>{rows}</table></details>"
    done = f"{message['route']} round, {accepted} of {count} accepted, {message['ms']:g} ms"
    return _now(done) + _figure("st-big", message["image"], "the chunk's path in the agent view", caption) + table


def stepped(episode: Message | None, place: float) -> str:
    """Return one picture of an episode by each camera, and where it is in the curves of states and actions."""
    if not episode:
        return _now("No episode is chosen.")
    at = min(max(0, int(place)), len(episode["pictures"]) - 1)
    step = episode["steps"][at]
    share = 100 * step / max(1, episode["length"] - 1)
    views = "".join(
        _figure("st-small", encoded, f"{camera} at step {step}", camera)
        for camera, encoded in zip(episode["cameras"], episode["pictures"][at], strict=True)
    )
    rows = "".join(
        f"<tr><td>{kind}</td><td>{', '.join(f'{value:g}' for value in values)}</td></tr>"
        for kind, values in zip(("state", "action"), episode["values"][at], strict=True)
    )
    cursor = f"<div class='st-curves'>{episode['curves']}<div class='st-cursor' style='left:{share:.2f}%'></div></div>"
    now = _now(f"Step {step} of {episode['length']}")
    return f"{now}<div class='st-rows'><div>{views}</div>{cursor}</div><table class='st-facts'>{rows}</table>"


def watching(seen: Message) -> str:
    """Return what a run looks like by now."""
    if "failed" in seen:
        now = _now(seen["failed"], bad=True)
    elif "ended" in seen:
        verified = f": {seen['verified_reason']}" if seen.get("verified_reason") else ""
        now = _now(f"Ended: {seen['ended']}{verified} after {seen.get('step', 0)} steps.")
    else:
        now = _now(f"Step {seen['step']} of {seen['horizon']}" if "step" in seen else seen["now"])
    parts = []
    if "world" in seen:
        parts.append(_figure("st-big", seen["world"], "the scene", f"The scene, undamaged. Task: {seen['prompt']}"))
    if "agent" in seen:
        fault = f" Broken: {seen['fault']}." if seen["fault"] else ""
        views = _figure("st-small", seen["agent"], "agent view as sent", "Agent view, as the policy is given it.")
        views += _figure("st-small", seen["wrist"], "wrist view as sent", f"Wrist view, as given.{fault}")
        parts.append(f"<div>{views}</div>")
    if "lights" in seen:
        items = [
            f"<li class='{'st-on' if on else 'st-off'}' data-light='{name}'>{'●' if on else '○'} {name}: "
            f"{'yes' if on else 'no'}<small>{_LIGHTS[name]}</small></li>"
            for name, on in seen["lights"].items()
        ]
        if "query" in seen:
            prefix = "■" * seen["accepted"] + "□" * (seen["chunk"] - seen["accepted"])
            items.append(
                f"<li data-round='{seen['query']}'>round {seen['query']}, {html.escape(seen['route'])}, "
                f"{seen['ms']:g} ms<small>accepted {seen['accepted']} of {seen['chunk']}: {prefix}</small></li>"
                f"<li>guard: {html.escape(seen['guard'])}<small>told: {html.escape(seen['told'])}</small></li>"
            )
        parts.append(f"<ul>{''.join(items)}</ul>")
    return f"{now}<div class='st-rows'>{''.join(parts)}</div>"


def guarded(app: FastAPI) -> Any:
    """Return the application for this machine's own browser alone: no other name (Host), no other page (Origin)."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def headed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _HEADERS.items())]
            await send(message)

        if scope["type"] == "http":
            asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
            host, origin = asked.get(b"host", ""), asked.get(b"origin")
            if host.rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
                await PlainTextResponse("this server does not answer to that name (Host)\n", 421)(scope, receive, send)
                return
            if origin not in (None, f"http://{host}"):
                await PlainTextResponse("other web pages may not ask (Origin)\n", 403)(scope, receive, send)
                return
            if scope["path"] == "/favicon.ico":  # browsers ask by themselves
                await Response(status_code=204)(scope, receive, send)
                return
        if scope["type"] != "websocket":
            await app(scope, receive, headed)

    return answer


def application(page: gr.Blocks, path: str, root: Path) -> FastAPI:
    """Return the page at a path that nobody else is told; it gives out no file of the checkout."""
    font, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page.queue(default_concurrency_limit=None, api_open=False, max_size=32),
        path,
        server_name="127.0.0.1",
        theme=gr.themes.Default(font=font, font_mono=mono),
        css_paths=[Path(__file__).with_name("studio.css")],
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        allowed_paths=[],
        blocked_paths=[str(root)],
        max_file_size="10mb",
    )


def main() -> NoReturn:
    """Give out the page until Ctrl-C or SIGTERM."""
    descriptor, python, root, *beside = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it once more, which would end it here
    sock, path = socket.socket(fileno=int(descriptor)), f"/{secrets.token_urlsafe(16)}"
    place = Path(tempfile.mkdtemp(prefix="flashtrail-studio-"))
    os.environ.update(
        {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(place / "uploads"), "HF_HUB_OFFLINE": "1"}
    )
    os.chdir(place)  # nothing of the checkout is the working directory of a file server
    backstage, code = Backstage(Path(python), Path(root), place, beside), 0
    try:
        *_, choices = backstage.ask({"do": "describe"})
        if "failed" in choices:
            print(f"error: {choices['failed']}", file=sys.stderr)
            code = 2
        else:
            app = application(Studio(backstage, choices).blocks(), path, Path(root))
            config = uvicorn.Config(guarded(app), log_level="error", timeout_graceful_shutdown=1)
            sock.listen(64)
            print(f"open http://127.0.0.1:{sock.getsockname()[1]}{path}/ on this machine; Ctrl-C ends it", flush=True)
            uvicorn.Server(config).run(sockets=[sock])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is ending: a second Ctrl-C would leave something behind
        backstage.close()
        if code == 0:  # else its message may name the log
            shutil.rmtree(place, ignore_errors=True)
    if code == 0:
        print("ended", flush=True)
    os._exit(code)  # threads of visitors that wait must not keep the process alive
