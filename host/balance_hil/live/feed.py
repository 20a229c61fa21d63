"""The control loop's side of the live page: hands every step to the server's process, and never waits for it."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from subprocess import TimeoutExpired
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from balance_hil.errors import HarnessError, MissingExtraError, UsageError
from balance_hil.paths import install_command
from balance_hil.processes import popen
from balance_hil.recording import Step
from balance_hil.recording.format import EPISODE, FAULT, INJECTED, STEP, Encode, step_encoder
from balance_hil.recording.foxglove import SCENE, TRANSFORMS

if TYPE_CHECKING:  # the server's process needs no simulator
    from balance_hil.environment import Environment

Viewer = Literal["page", "foxglove"]
PORT = 8765  # taken where it is free
START_TIMEOUT_S, END_TIMEOUT_S = 10.0, 0.5
BUFFER_BYTES = 1 << 20
MAX_REQUEST_BYTES = 1024
MAX_REQUESTS = 32  # followed between two control steps
BEGIN, END, STATE, REFUSED, READY = "begin", "end", "state", "refused", "ready"
_PACKAGES = {"page": ("starlette", "uvicorn", "websockets"), "foxglove": ("foxglove",)}


class LivePage:
    """Starts the server's process; a sink of runs, one after the other, and the source of requests by hand.

    What the server cannot take at once is dropped: a viewer costs the loop nothing. Where the server dies, the run goes on.

    Args:
        viewer: a page of our own, or a server for Foxglove.
        port: taken if it is free, else another.

    Raises:
        UsageError: this system has no such sockets.
        MissingExtraError: a package is missing.
        HarnessError: the server does not start.
    """

    def __init__(self, viewer: Viewer = "page", port: int = PORT) -> None:
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError("--live needs Linux or macOS", f"look at the recording afterwards: {sys.argv[0]} report")
        if missing := [name for name in _PACKAGES[viewer] if find_spec(name) is None]:
            raise MissingExtraError(f"--live needs the Python package {missing[0]!r}", f"install it: {install_command('live')}")
        self.result: Mapping[str, Any] | None = None
        # A message stays a message. macOS has no SEQPACKET here.
        kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, kind)
        with theirs:
            for end in (self._socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            self._process = popen(
                [sys.executable, "-m", "balance_hil.live.server", str(theirs.fileno()), viewer, str(port)],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the loop; the server ends after it
            )
        self._env: Environment | None = None
        try:
            self.url = self._await_ready()
        except BaseException:
            self._process.kill()  # it may still be importing
            self.close()
            raise
        self._socket.setblocking(False)

    def begin(self, meta: Mapping[str, Any], env: Environment, *, can_inject: bool, encode: Encode | None = None) -> None:
        """A run begins; ``meta`` and ``encode`` as in its recording."""
        self._env = env
        self._encode = encode or step_encoder(env.spec, env.trace)
        self._shapes: Any = None
        keys = ("policy", "bundle", "environment", "clock", "board", "faults", "max_steps", "seeds")
        run = {
            **{key: meta[key] for key in keys},
            "spec": env.spec.to_dict(),
            "trace": list(env.trace),
            "frames": env.scene.frames if env.scene is not None else [],
            "targets": env.targets,
            "can_push": env.can_push,
            "can_inject": can_inject,
        }
        self._send(BEGIN, json.dumps(run).encode())

    def step(self, run_s: float, step: Step) -> None:
        """Takes one control step."""
        scene = self._env.scene if self._env is not None else None
        if scene is not None and step.state is not None:
            if scene.shapes is not self._shapes:
                shapes = {frame: [solid._asdict() for solid in solids] for frame, solids in scene.shapes.items()}
                if self._send(SCENE, json.dumps(shapes).encode()):  # else with the next poses
                    self._shapes = scene.shapes
            self._send(TRANSFORMS, json.dumps([round(value, 5) for value in scene.poses(step.state)]).encode())
        self._send(STEP, b"[%.9g,%b]" % (run_s, self._encode(step)))

    def fault(self, run_s: float, episode: int, step: int, kind: str, detail: str = "", **numbers: float) -> None:
        """Takes a fault."""
        self._message(FAULT, {"t_s": run_s, "episode": episode, "step": step, "kind": kind, "detail": detail, **numbers})

    def injected(self, run_s: float, episode: int, step: int, fault: str, direction: str, values: Mapping[str, float]) -> None:
        """Takes a fault that was injected."""
        self._message(
            INJECTED, {"t_s": run_s, "episode": episode, "step": step, "fault": fault, "direction": direction, "values": values}
        )

    def episode(self, run_s: float, result: Mapping[str, Any]) -> None:
        """Takes the result of a finished episode."""
        self._message(EPISODE, {"t_s": run_s, **result})

    def requests(self) -> Iterator[Mapping[str, Any]]:
        """What was asked for since the last call; it never waits."""
        for _ in range(MAX_REQUESTS):
            try:
                data = self._socket.recv(MAX_REQUEST_BYTES)
            except OSError:  # nothing is there, or the server is gone
                return
            if not data:
                return
            with contextlib.suppress(ValueError, RecursionError):
                request = json.loads(data)
                if isinstance(request, dict) and "do" in request:
                    yield request

    def refuse(self, reason: str) -> None:
        """Tells whoever asked why a request was not followed."""
        self._message(REFUSED, {"reason": reason})

    def paused(self, paused: bool) -> None:
        """Tells that the run is paused, or goes on."""
        self._message(STATE, {"paused": paused})

    def end(self, verdict: str) -> None:
        """A run is over; ``verdict`` in one line. It waits for a server that is behind, half a second at most."""
        self._socket.settimeout(END_TIMEOUT_S)
        self._message(END, {"verdict": verdict})
        self._socket.setblocking(False)

    def close(self) -> None:
        """Ends the server once it has sent what it has, or half a second later; may be called twice."""
        self._socket.close()
        try:
            self._process.wait(END_TIMEOUT_S)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _message(self, topic: str, message: Mapping[str, Any]) -> None:
        self._send(topic, json.dumps(message).encode())

    def _send(self, topic: str, data: bytes) -> bool:
        """Whether the server got it; not where it is behind, or gone."""
        try:
            self._socket.send(topic.encode() + b"\n" + data)
        except OSError:
            return False
        return True

    def _await_ready(self) -> str:
        """The address, once the server listens. Raises HarnessError."""
        self._socket.settimeout(START_TIMEOUT_S)
        try:
            topic, _, data = self._socket.recv(MAX_REQUEST_BYTES).partition(b"\n")
        except OSError:
            topic, data = b"", b""
        if topic.decode() != READY:
            raise HarnessError("the server of the live page did not start", "see what it printed above; run without --live")
        return str(json.loads(data)["url"])
