"""One episode in progress: the plant side of a control step, and its logging."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from balance_hil.environment import Environment, Float32Array
from balance_hil.environment import Step as PlantStep
from balance_hil.errors import UnsupportedEnvironmentError
from balance_hil.interrupt import Interrupt
from balance_hil.link import Injection
from balance_hil.metrics import EpisodeAccumulator, EpisodeMetrics
from balance_hil.recording import Step
from balance_hil.running.config import Tick
from balance_hil.running.exchange import Exchange, Reply
from balance_hil.running.interventions import Interventions

VIEW_INTERVAL_S = 1 / 30  # between two pictures
SCENE_INTERVAL_S = 0.02  # between two recorded poses of the plant, at least


class Sink(Protocol):
    """What keeps the steps and faults of a run; see ``RecordingWriter``."""

    result: Mapping[str, Any] | None

    def step(self, run_s: float, step: Step) -> None:
        """Takes one control step."""

    def fault(self, run_s: float, episode: int, step: int, kind: str, detail: str = "", **numbers: float) -> None:
        """Takes a fault."""

    def injected(self, run_s: float, episode: int, step: int, fault: str, direction: str, values: Mapping[str, float]) -> None:
        """Takes a fault that was injected."""

    def episode(self, run_s: float, result: Mapping[str, Any]) -> None:
        """Takes the result of a finished episode."""


class RunLog:
    """Where a run's steps and faults go: the recording, the live page, the live line, the viewer."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        on_tick: Callable[[Tick], None] | None,
        *,
        timed: bool,
        injections: deque[Injection] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self._sinks = sinks
        self._on_tick = on_tick
        self._injections = injections  # not yet recorded; None: no fault is injected
        self.on_wait = on_wait or (lambda text: None)  # for a free core
        self.is_recording = bool(sinks)
        self.timed = timed
        self.before_s = 0.0  # simulated time of the episodes before the current one

    def step(self, env: Environment, step: Step, round_trip_us: float | None, misses: int) -> None:
        """Writes and shows a finished control step."""
        if self._injections:
            self._record_injections(step.episode, step.step)
        for sink in self._sinks:
            sink.step(self.before_s + step.t_s, step)
        if self._on_tick is not None:
            plant = (env.trace[0], step.plant[0]) if step.plant else None
            self._on_tick(Tick(step.episode, step.step, step.t_s, plant, step.action, round_trip_us, misses))
        if env.is_watched and step.step % max(1, round(VIEW_INTERVAL_S / env.spec.control_period_s)) == 0:
            env.render()

    def fault(self, t_s: float, episode: int, step: int, kind: str, detail: str, **numbers: float) -> None:
        """Records a fault."""
        for sink in self._sinks:
            sink.fault(self.before_s + t_s, episode, step, kind, detail, **numbers)

    def episode(self, t_s: float, index: int, metrics: EpisodeMetrics) -> None:
        """Writes the result of a finished episode."""
        if self._injections:
            self._record_injections(index, metrics.steps)
        self.before_s += t_s
        for sink in self._sinks:
            sink.episode(self.before_s, {"episode": index, **metrics.to_dict()})

    def result(self, outcome: Mapping[str, Any]) -> None:
        """Records what the run found."""
        for sink in self._sinks:
            sink.result = outcome

    def _record_injections(self, episode: int, step: int) -> None:
        while self._injections:
            injection = self._injections.popleft()
            for sink in self._sinks:
                sink.injected(injection.t_s, episode, step, injection.fault, injection.direction, dict(injection.values))


class Episode:
    """One episode. ``begin``, then for each control step the physics and ``finish_step``; ``report`` when there is time."""

    def __init__(
        self,
        env: Environment,
        index: int,
        seed: int,
        max_steps: int,
        log: RunLog,
        exchange: Exchange,
        stop: Interrupt,
        interventions: Interventions | None = None,
    ) -> None:
        self.env = env
        self.index = index
        self.step = 0
        self.failed = False
        self._over = False  # the environment ended it
        self._seed = seed
        self._max_steps = max_steps
        self._log = log
        self._exchange = exchange
        self._stop = stop
        self._interventions = interventions
        self._metrics = EpisodeAccumulator(seed, env.metrics)
        self._action = self._outputs = [0.0] * env.spec.n_act  # as the board returned it; within its limits
        self._scene = env.scene if log.is_recording else None
        self._scene_steps = math.ceil(SCENE_INTERVAL_S / env.spec.control_period_s - 1e-9)
        self._state: Any = None  # of the plant at the observation
        self._unreported: tuple[Step, float | None] | None = None
        self.held_steps = 0
        self.longest_hold = 0
        self._hold = 0

    @property
    def run_s(self) -> float:
        """Simulated time of the current step since the run began."""
        return self._log.before_s + self.step * self.env.spec.control_period_s

    def goes_on(self) -> bool:
        """Whether another control step follows. Raises KeyboardInterrupt after Ctrl-C."""
        self._stop.check()
        return not self._over and self.step < self._max_steps

    def intervene(self) -> bool:
        """Follows what was asked for by hand; whether the run was paused meanwhile. Raises KeyboardInterrupt after Ctrl-C."""
        return self._interventions is not None and self._interventions.take(self)

    def check_stop(self) -> None:
        """Raises KeyboardInterrupt after Ctrl-C."""
        self._stop.check()

    def begin(self) -> Float32Array:
        """Resets the plant; returns the first observation."""
        observation = self.env.reset(self._seed)
        if self._scene is not None:
            self._scene.begin_episode()
            self._state = self._scene.state()
        return observation

    def finish_step(
        self,
        observation: Float32Array,
        result: PlantStep,
        reply: Reply | None,
        jitter_us: float | None = None,
        taken: Sequence[tuple[int, Reply]] = (),
    ) -> Float32Array:
        """Ends a control step in which ``reply`` took effect last, None when the action was held.

        Returns the next observation. In real time, ``taken`` are all replies that took effect, with the physics substep.
        """
        held = reply is None
        if reply is not None:
            self._action, self._outputs = reply.action.action.tolist(), reply.outputs.tolist()
            self._hold = 0
        else:
            self.held_steps += 1
            self._hold += 1
            self.longest_hold = max(self.longest_hold, self._hold)
        info = result.info
        self._metrics.add(self._outputs, result.reward, info)
        self._over = result.terminated or result.truncated
        if self._over or self.step + 1 >= self._max_steps:
            self.failed = self.env.failed(result.terminated, not result.terminated, info)
        try:
            plant = [float(info[name]) for name in self.env.trace]
        except (KeyError, TypeError, ValueError) as exc:
            raise UnsupportedEnvironmentError(
                f"{self.env.spec.environment} promises numbers in info (policy_trace), and not all are there: {exc!r}",
                f"info has: {', '.join(map(str, info)) or 'nothing'}",
            ) from exc
        timed = reply is not None and self._log.timed and reply.step == self.step  # a late reply's times are in its fault
        step = Step(
            t_s=self.step * self.env.spec.control_period_s,
            episode=self.index,
            step=self.step,
            observation=observation.tolist(),
            action=self._action,
            held=held,
            plant=plant,
            reward=result.reward,
            input_int8=reply.action.input.tolist() if reply else None,
            output_int8=reply.action.output.tolist() if reply else None,
            round_trip_us=reply.round_trip_us if reply and timed else None,
            inference_us=reply.action.inference_us if reply and timed else None,
            jitter_us=jitter_us if self._log.timed else None,
            substep=taken[-1][0] if taken else None,
            earlier=[(substep, *each.action.action.tolist()) for substep, each in taken[:-1]],
            state=self._state,
        )
        self._unreported = (step, reply.round_trip_us if reply else None)
        self.step += 1
        if self._scene is not None:
            self._state = self._scene.state() if self.step % self._scene_steps == 0 else None
        return result.observation

    def report(self) -> None:
        """Records and shows the latest finished step, once."""
        if self._unreported is not None:
            step, round_trip_us = self._unreported
            self._unreported = None
            self._log.step(self.env, step, round_trip_us, self._exchange.misses)

    def fault(self, kind: str, detail: str, **numbers: float) -> None:
        """Records a fault at the current time."""
        self._log.fault(self.step * self.env.spec.control_period_s, self.index, self.step, kind, detail, **numbers)

    def finish(self) -> EpisodeMetrics:
        """Ends the episode, complete or not; returns its metrics."""
        self.report()
        metrics = self._metrics.finish(self.failed)
        self._log.episode(self.step * self.env.spec.control_period_s, self.index, metrics)
        return metrics
