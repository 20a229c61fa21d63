"""What a person does to a run while it goes on: pause it, push the plant, move a target, inject a fault."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from balance_hil.environment import Environment
from balance_hil.errors import HarnessError, UsageError
from balance_hil.link import Fault, FaultyLink, parse_fault

POLL_S = 0.01  # while the run is paused
MAX_PUSH_M_S = 5.0
MAX_INJECTED = 100  # faults in a run: each costs time in every frame


class Running(Protocol):
    """The episode that goes on: see ``running.episode.Episode``."""

    def check_stop(self) -> None:
        """Raises KeyboardInterrupt after Ctrl-C."""

    def fault(self, kind: str, detail: str) -> None:
        """Records a fault at the current time."""


class Remote(Protocol):
    """Where requests come from: see ``live.LivePage``."""

    def requests(self) -> Iterable[Mapping[str, Any]]:
        """Those that arrived since the last call; it never waits."""

    def refuse(self, reason: str) -> None:
        """Tells whoever asked why a request was not followed."""

    def paused(self, paused: bool) -> None:
        """Tells that the run is paused, or goes on."""


class Interventions:
    """Follows the requests of a ``Remote`` between two control steps, and counts them.

    Args:
        remote: where they come from.
        env: the plant.
        link: to the board; None: no fault can be injected.
        rest: called when the run is paused.
        go_on: called before it goes on; may wait.
    """

    def __init__(
        self,
        remote: Remote,
        env: Environment,
        link: FaultyLink | None,
        rest: Callable[[], None] = lambda: None,
        go_on: Callable[[], None] = lambda: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._remote, self._env, self._link = remote, env, link
        self._rest, self._go_on = rest, go_on
        self.paused_s = 0.0  # in all
        self._is_paused = False

    def take(self, episode: Running) -> bool:
        """Follows what was asked for, and returns when the run goes on; whether it was paused. Raises KeyboardInterrupt."""
        self._follow(episode)
        if not self._is_paused:
            return False
        since_s = time.perf_counter()
        self._remote.paused(True)
        self._rest()
        try:
            while self._is_paused:
                episode.check_stop()
                time.sleep(POLL_S)
                self._follow(episode)
            self._go_on()
        finally:
            self._remote.paused(False)
            paused_s = time.perf_counter() - since_s
            self.paused_s += paused_s
            episode.fault("paused", f"for {paused_s:.1f} s, by hand")
        return True

    def _follow(self, episode: Running) -> None:
        for request in self._remote.requests():
            try:
                done = self._do(request)
            except (KeyError, TypeError, ValueError, OverflowError) as exc:
                self._remote.refuse(exc.message if isinstance(exc, HarnessError) else f"invalid request: {exc!r}")
                continue
            if done is not None:
                kind, detail = done
                self.counts[kind] += 1
                episode.fault(kind, f"{detail}, by hand")

    def _do(self, request: Mapping[str, Any]) -> tuple[str, str] | None:
        """Follows one request. Returns kind and detail for the recording; None for what ``take`` records. Raises ValueError."""
        match request["do"]:
            case "pause" if not self._is_paused:
                self._is_paused = True
                self.counts["paused"] += 1
            case "resume":
                self._is_paused = False
            case "push":
                velocity = [float(request["x_m_s"]), float(request["y_m_s"]), 0.0]
                if not math.hypot(*velocity) <= MAX_PUSH_M_S:
                    raise UsageError(f"a push is at most {MAX_PUSH_M_S:g} m/s", "push less")
                self._env.push(velocity)
                return "push", "x {:+.2f} y {:+.2f} m/s".format(*velocity)
            case "target":
                name, value = str(request["name"]), float(request["value"])
                self._env.set_target(name, value)
                return "target", f"{name} {value:g}"
            case "fault":
                fault = self._inject(str(request["fault"]))
                return "fault", str(fault)
            case other if other != "pause":
                raise UsageError(f"unknown request {str(other)[:40]!r}", "pause, resume, push, target or fault")
        return None

    def _inject(self, text: str) -> Fault:
        """A fault as on the command line; without a time it begins now. Raises UsageError."""
        link = self._link
        if link is None:
            raise UsageError("faults are injected in real time only", "--clock realtime")
        if len(link.faults) >= MAX_INJECTED:
            raise UsageError(f"a run takes at most {MAX_INJECTED} faults", "start another run")
        if not any(f"{key}=" in text for key in ("at_s", "at_step", "every_s")):
            text += f"{',' if ':' in text else ':'}at_s={link.now():.3f}"
        fault = parse_fault(text)
        link.inject(fault)
        return fault
