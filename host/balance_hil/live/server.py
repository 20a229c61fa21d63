"""The server's process of the live page: ``python -m balance_hil.live.server DESCRIPTOR page|foxglove PORT``.

It takes the loop's messages from a socket and hands them to the viewers; requests go the other way. The page is for whoever has
the token; requests of other hosts and origins are refused. Each viewer has a queue that loses its oldest messages when it is
behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs

from balance_hil.live.feed import BEGIN, BUFFER_BYTES, END, MAX_REQUEST_BYTES, READY, REFUSED, STATE
from balance_hil.recording import foxglove as well_known
from balance_hil.recording.format import EPISODE, FAULT, INJECTED, STEP, schemas
from balance_hil.recording.foxglove import SCENE, TRANSFORMS
from balance_hil.spec import PolicySpec

HOST = "127.0.0.1"
NICENESS = 10  # the control loop comes first
SEND_EVERY_S = 1 / 30
KEPT_MESSAGES = 4000  # of a viewer that is behind: about 10 s
KEPT_STEPS, KEPT_EVENTS = 4000, 200  # for a viewer that comes later
HISTOGRAM_BINS_PER_PERIOD, HISTOGRAM_PERIODS = 20, 2  # of round trips; the last bin has those above
MAX_VIEWERS = 16
ASSETS = Path(__file__).parent / "assets"
REPORT_ASSETS = Path(__file__).parents[1] / "reporting" / "assets"
Take = Callable[[str, bytes], None]


class Hub:
    """The state of the run, and the viewers' queues. Messages are JSON texts: [topic, content]."""

    def __init__(self) -> None:
        self.viewers: dict[Any, deque[str]] = {}  # by web socket
        self.ended = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self._run: str | None = None
        self._scene: str | None = None
        self._poses: str | None = None
        self._end: str | None = None
        self._steps: deque[str] = deque(maxlen=KEPT_STEPS)
        self._events: deque[str] = deque(maxlen=KEPT_EVENTS)
        self._paused = False
        self._counts: Counter[str] = Counter()
        self._bins = [0] * (HISTOGRAM_BINS_PER_PERIOD * HISTOGRAM_PERIODS + 1)
        self._max_us = 0.0
        self._period_us = 1.0

    def take(self, topic: str, data: bytes) -> None:
        """Takes a message of the loop."""
        text = f'["{topic}",{data.decode()}]'
        if topic == BEGIN:
            self._clear()
            self._run = text
            self._period_us = json.loads(data)["spec"]["control_period_s"] * 1e6
        elif topic == STEP:
            self._steps.append(text)
            step = json.loads(data)[1]
            self._counts["steps"] += 1
            self._counts["held"] += step["held"]
            self._time(step.get("round_trip_us"))
        elif topic == FAULT:
            fault = json.loads(data)
            self._counts[fault["kind"]] += 1
            self._time(fault.get("round_trip_us"))
            self._events.append(text)
        elif topic in (INJECTED, EPISODE):
            self._events.append(text)
        elif topic == SCENE:
            self._scene = text
        elif topic == TRANSFORMS:
            self._poses = text
        elif topic == STATE:
            self._paused = json.loads(data)["paused"]
        elif topic == END:
            self._end = text
        for queue in self.viewers.values():
            queue.append(text)

    def history(self) -> list[str]:
        """What a new viewer has to know."""
        state = f'["{STATE}",{json.dumps({"paused": self._paused})}]'
        known = [self._run, self._scene, self._poses, *self._steps, *self._events, state, self._end]
        return [text for text in known if text is not None]

    def summary(self) -> str:
        """Counts and the histogram of round trips, late replies included."""
        facts = {"counts": self._counts, "bins": self._bins, "bins_per_period": HISTOGRAM_BINS_PER_PERIOD, "max_us": self._max_us}
        return f'["summary",{json.dumps(facts)}]'

    def _time(self, round_trip_us: float | None) -> None:
        if round_trip_us is not None:
            which = int(round_trip_us / self._period_us * HISTOGRAM_BINS_PER_PERIOD)
            self._bins[min(which, len(self._bins) - 1)] += 1
            self._max_us = max(self._max_us, round_trip_us)


class Guard:
    """ASGI middleware: 403 without the token, and for other hosts and origins (a page of another site, DNS rebinding)."""

    def __init__(self, app: Any, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before accept: 403
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"403: open the address that hil run printed\n"})

    def _is_allowed(self, scope: Any) -> bool:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return (
            headers.get(b"host") in self._hosts
            and headers.get(b"origin", "http://" + headers[b"host"]).removeprefix("http://") in self._hosts
            and secrets.compare_digest(token.encode(), self._token.encode())
        )


def page_app(hub: Hub, request: Callable[[bytes], None], token: str, port: int) -> Any:
    """The ASGI application: the page and its web socket."""
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, Response
    from starlette.routing import Route, WebSocketRoute

    async def page(_: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
            f"connect-src ws://{HOST}:{port} ws://localhost:{port}"
        )
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        parts = {
            "nonce": nonce,
            "uplot": (REPORT_ASSETS / "uPlot.iife.min.js").read_text(),
            "uplot_css": (REPORT_ASSETS / "uPlot.min.css").read_text(),
            "three": (ASSETS / "three.iife.min.js").read_text(),
            "script": (ASSETS / "live.js").read_text(),
        }
        return HTMLResponse(Template((ASSETS / "live.html").read_text()).substitute(parts), headers=headers)

    async def stream(websocket: Any) -> None:
        if len(hub.viewers) >= MAX_VIEWERS:
            await websocket.close(1013)
            return
        await websocket.accept()
        queue: deque[str] = deque(maxlen=KEPT_MESSAGES)
        knows_run = False
        hub.viewers[websocket] = queue
        reading = asyncio.create_task(read(websocket))
        try:
            while not reading.done():
                is_last = hub.ended.is_set()
                messages = list(queue) if knows_run and len(queue) < KEPT_MESSAGES else hub.history()
                knows_run = True
                queue.clear()
                await websocket.send_text(f"[{','.join([*messages, hub.summary()])}]")
                if is_last:
                    break
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(hub.ended.wait(), SEND_EVERY_S)
        finally:
            del hub.viewers[websocket]
            reading.cancel()

    async def read(websocket: Any) -> None:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            request((message.get("text") or "").encode())

    return Guard(Starlette(routes=[Route("/", page), WebSocketRoute("/stream", stream)]), token, port)


def listen(port: int) -> socket.socket:
    """A socket on loopback, at ``port`` or, if that is taken, at a free one."""
    for each in (port, 0):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, each))
            listening.listen()  # at once: until then, another program may bind the same port
        except OSError:
            listening.close()
            if each == 0:
                raise
            continue
        return listening
    raise AssertionError


async def serve_page(loop_end: socket.socket, port: int) -> None:
    """Serves the page until the loop closes its end."""
    import uvicorn

    token, listening = secrets.token_urlsafe(16), listen(port)
    port = listening.getsockname()[1]
    hub = Hub()

    def request(data: bytes) -> None:
        with contextlib.suppress(OSError):  # the loop is busy, or gone
            loop_end.send(data)

    config = uvicorn.Config(
        page_app(hub, request, token, port), lifespan="off", log_level="error", access_log=False, timeout_graceful_shutdown=1,
        ws_max_size=4 * MAX_REQUEST_BYTES, ws_per_message_deflate=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    await take_messages(loop_end, f"http://{HOST}:{port}/?token={token}", hub.take)
    hub.ended.set()
    server.should_exit = True
    await serving


async def serve_foxglove(loop_end: socket.socket, port: int) -> None:
    """Serves Foxglove's own protocol until the loop closes its end."""
    import foxglove

    listening = listen(port)  # finds a free port; Foxglove's server opens one itself
    port = listening.getsockname()[1]
    listening.close()
    context = foxglove.Context()
    server = foxglove.start_server(name="balance_hil", host=HOST, port=port, context=context)
    channels: dict[str, Any] = {}
    frames: list[str] = []
    encode = well_known.transforms_encoder(())
    now_ns = 0

    def take(topic: str, data: bytes) -> None:
        nonlocal encode, now_ns
        if topic == BEGIN:
            run = json.loads(data)
            named = schemas(PolicySpec.from_dict(run["spec"]), run["trace"]) | well_known.schemas()
            for name, (title, schema) in named.items():
                if name not in channels:
                    text = json.dumps({"title": title, **schema}).encode()
                    wanted = foxglove.Schema(name=title, encoding="jsonschema", data=text)
                    channels[name] = foxglove.Channel(name, message_encoding="json", schema=wanted, context=context)
            frames[:] = run["frames"]
            encode = well_known.transforms_encoder(frames)
            return
        if topic == STEP:
            run_s, text = data[1:-1].split(b",", 1)
            now_ns = round(float(run_s) * 1e9)
            data = text
        elif topic == SCENE:
            shapes = {frame: [well_known.Shape(**each) for each in solids] for frame, solids in json.loads(data).items()}
            data = json.dumps(well_known.scene_update(shapes, now_ns)).encode()
        elif topic == TRANSFORMS:
            data = encode(now_ns, json.loads(data))
        elif topic == REFUSED:
            return
        elif topic in (END, STATE):
            level = well_known.INFO
            topic, data = well_known.LOG, json.dumps(well_known.log_message(now_ns, level, data.decode())).encode()
        if topic in channels:
            channels[topic].log(data, log_time=now_ns)

    try:
        await take_messages(loop_end, f"ws://{HOST}:{port}", take)
    finally:
        server.stop()


async def take_messages(loop_end: socket.socket, url: str, take: Take) -> None:
    """Tells the loop the address, then hands its messages to ``take`` until it closes its end."""
    with contextlib.suppress(BrokenPipeError):  # the loop is gone already
        loop_end.send(f"{READY}\n{json.dumps({'url': url})}".encode())
    loop_end.setblocking(False)
    running = asyncio.get_running_loop()
    while True:
        data = await running.sock_recv(loop_end, BUFFER_BYTES)
        if not data:
            return
        topic, _, content = data.partition(b"\n")
        take(topic.decode(), content)


def main() -> None:
    """Entry point of the process."""
    descriptor, viewer, port = sys.argv[1:]
    os.nice(NICENESS)
    loop_end = socket.socket(fileno=int(descriptor))
    asyncio.run({"page": serve_page, "foxglove": serve_foxglove}[viewer](loop_end, int(port)))


if __name__ == "__main__":
    main()
