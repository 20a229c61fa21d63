"""One run from start to finish."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Protocol

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.core_queue import cores
from balance_hil.documents import CostDocument
from balance_hil.environment import Environment, open_for, require_control_steps
from balance_hil.errors import BundleError, LinkError, UsageError
from balance_hil.interrupt import Interrupt, entered
from balance_hil.metrics import EpisodeMetrics
from balance_hil.recording import RecordingWriter
from balance_hil.recording.format import Encode, step_encoder
from balance_hil.running import lockstep, realtime, simulated
from balance_hil.running.config import RunConfig, Tick
from balance_hil.running.cores_needed import cores_of
from balance_hil.running.episode import Episode, RunLog, Sink
from balance_hil.running.exchange import Exchange
from balance_hil.running.interventions import Interventions, Remote
from balance_hil.running.realtime import TimingStats, low_jitter
from balance_hil.running.result import Memory, Priority, RunResult
from balance_hil.running.trace import Trace
from balance_hil.scheduling import CpuLatencyRequest, ProcessorWait, moving_to_free_cores, real_time_priority

VERSIONS = ("balance-hil", "mujoco", "gymnasium", "numpy")  # that a recording names
_NOT_IDENTITY = ("nonce", "stack")  # of INFO: change from session to session


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C ended the run; ``result`` is what was done until then."""

    def __init__(self, result: RunResult) -> None:
        super().__init__("the run was interrupted")
        self.result = result


# Episodes on the device clock start at a multiple of this time of the chip, so that a handshake that takes a microsecond more
# or less does not change them.
DEVICE_START_S = 0.1


class LiveView(Sink, Remote, Protocol):
    """Shows a run while it goes on; see ``live.LivePage``."""

    def begin(self, meta: Mapping[str, Any], env: Environment, *, can_inject: bool, encode: Encode | None = None) -> None:
        """A run begins; ``meta`` and ``encode`` as in its recording."""


@dataclass
class _Totals:
    episodes: list[EpisodeMetrics] = field(default_factory=list)
    timing: TimingStats = field(default_factory=TimingStats)
    held_steps: int = 0
    longest_hold: int = 0
    wall_s: float = 0.0
    priority: Priority = "normal"


def open_plant(bundle: Bundle, config: RunConfig) -> Environment:
    """Opens the environment of a run, before a board is started, so that its errors surface first.

    Raises:
        EnvironmentMismatchError: the bundle was made for other tables of observation and action.
        UsageError: the environment has no episode length and none is given.
        What ``open_environment`` raises.
    """
    spec = replace(bundle.spec, terminated=config.terminated or bundle.spec.terminated)
    env = open_for(spec, config.environment, config.options, render_mode="human" if config.view else None)
    try:
        require_control_steps(env, config.max_steps)
    except BaseException:
        env.close()
        raise
    return env


def run(
    board: Board,
    bundle: Bundle,
    config: RunConfig,
    on_tick: Callable[[Tick], None] | None = None,
    *,
    environment: Environment | None = None,
    live: LiveView | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> RunResult:
    """Runs episodes with the board as controller.

    The recording is closed and whole however the run ends; ``config.recording`` is its path. In the main thread Ctrl-C,
    SIGTERM and a closed terminal end the run at the next control step.

    Args:
        board: identified; it must run ``bundle``.
        bundle: the policy.
        config: what to do.
        on_tick: called once per control step, while the loop waits; it must be quick.
        environment: from ``open_plant``; it stays open. None: one is opened for this run.
        live: shows the run and takes requests from whoever watches it.
        on_wait: called with a message when a run in real time waits for others on this computer to end.

    Raises:
        ModelMismatchError: the board runs, or after a reboot comes back with, another model.
        TooManyLostError, SilentBoardError, BoardRebootedError, BoardStatusError, CableUnpluggedError: board failure.
        RecordingError: the recording, or the file for the check against tflm, cannot be written.
        What ``open_plant`` raises.
        RunInterrupted: Ctrl-C; it carries what was done.
    """
    if config.clock != "lockstep" and board.has_device_clock != (config.clock == "device"):
        raise UsageError(
            f"the clock {config.clock} does not fit how {board.name} was opened", 'connect(..., device_clock=clock == "device")'
        )
    stop = Interrupt()
    with (
        open_plant(bundle, config) if environment is None else contextlib.nullcontext(environment) as env,
        _run_log(board, bundle, config, env, on_tick, live, on_wait) as log,
        prepare(board, bundle, config, env, log, stop, live) as this_run,
    ):
        try:
            with stop:
                this_run.execute()
            result = this_run.result()
        except KeyboardInterrupt:
            result = this_run.result(interrupted=True)
            log.result(result.outcome())
            raise RunInterrupted(result) from None
        log.result(result.outcome())
    return result


@contextlib.contextmanager
def prepare(
    board: Board,
    bundle: Bundle,
    config: RunConfig,
    env: Environment,
    log: RunLog,
    stop: Interrupt,
    remote: Remote | None = None,
) -> Iterator[RunInProgress]:
    """A run that is about to begin. Raises ModelMismatchError, RecordingError."""
    board.bundle = bundle
    board.accept(board.info)
    waiting = board.process_ids if config.clock == "realtime" else None
    with Trace(kept=config.check_tflm) as trace, ProcessorWait(waiting) as processor_wait:
        yield RunInProgress(board, bundle, config, env, log, trace, processor_wait, stop, remote)


def priority_for(board: Board) -> AbstractContextManager[bool]:
    """Scheduling of a run in real time, for the calling thread and an emulated board: see ``real_time_priority``."""
    return real_time_priority(board.process_ids, processor_first=board.definition.settings.get("processor_first", False))


def identity(board: Board) -> dict[str, Any]:
    """Identity of the board in a recording, equal in every session."""
    facts = {key: value for key, value in asdict(board.info).items() if key not in _NOT_IDENTITY}
    return {"definition": board.name, **facts}


class RunInProgress:
    """The episodes of one run."""

    def __init__(
        self,
        board: Board,
        bundle: Bundle,
        config: RunConfig,
        env: Environment,
        log: RunLog,
        trace: Trace,
        processor_wait: ProcessorWait,
        stop: Interrupt,
        remote: Remote | None,
    ) -> None:
        self._board, self._bundle, self._config = board, bundle, config
        self._env, self._log, self._trace, self._stop = env, log, trace, stop
        self._max_steps = require_control_steps(env, config.max_steps)
        self._episode: Episode | None = None
        self.totals = _Totals()
        self._simulated = board.faults if config.clock == "lockstep" else None
        rule = replace(config, clock="realtime") if self._simulated is not None else config
        injecting = board.faults if config.clock == "realtime" else None
        self._share = 0.0  # of this computer's cores, once it is known
        self._cores = contextlib.ExitStack()  # that are held
        self._interventions = (
            None if remote is None else Interventions(remote, env, injecting, self._cores.close, self._take_cores)
        )
        self._timeout_s = rule.timeout_s(board.definition.timing, env.spec.control_period_s)
        self.exchange = Exchange(
            board,
            bundle,
            reply_timeout_s=self._timeout_s,
            max_lost=config.lost_bound(self._max_steps),
            on_fault=self._on_fault,
            trace=self._trace,
            processor_wait=processor_wait,
            asks_again=config.clock == "lockstep",
            simulated=self._simulated,
        )

    def execute(self) -> None:
        """Runs them all; those on the wall clock as soon as the cores that they need are free. Raises what ``run`` raises.

        While somebody pauses them by hand, others may have the cores.
        """
        if self._config.clock == "realtime":
            self._share = cores_of(self._board, self._env.spec.control_period_s)
        with self._cores:
            self._take_cores()
            self._run_episodes()

    def _take_cores(self) -> None:
        if self._config.clock == "realtime":
            self._cores.enter_context(cores(self._share, self._log.on_wait, self._stop.check))

    def _run_episodes(self) -> None:
        faults = self._board.faults
        if faults is not None:
            faults.begin(self._env.spec.control_period_s, simulated=self._simulated is not None)
        try:
            for index, seed in enumerate(self._config.seeds):
                self._run_episode(index, seed)
        finally:
            if faults is not None:
                faults.end()

    def result(self, *, interrupted: bool = False) -> RunResult:
        """Their result, checked against tflm unless the run was interrupted."""
        exchange, totals, board, config = self.exchange, self.totals, self._board, self._config
        return RunResult(
            bundle=self._bundle,
            board=board.name,
            processor=board.info.processor,
            engine=board.info.engine,
            engine_version=board.info.engine_version,
            firmware_commit=board.info.firmware_commit,
            port=board.port,
            memory=Memory.of(board.info) if interrupted else _memory(board),
            cost=config.cost if interrupted else _cost(board, config),
            cycles_per_us=board.cycles_per_us,
            environment=self._env.spec.environment,
            clock=config.clock,
            episodes=totals.episodes,
            round_trip_us=exchange.round_trip_us,
            inference_us=exchange.inference_us,
            jitter_us=totals.timing.jitter_us,
            stalls_ms=totals.timing.stalls_ms,
            steps=sum(episode.steps for episode in totals.episodes),
            wall_s=totals.wall_s - (self._interventions.paused_s if self._interventions else 0.0),
            priority=totals.priority,
            late=exchange.late,
            lost=exchange.lost,
            unsent=exchange.unsent,
            rejected=exchange.rejected,
            first_rejected=exchange.first_rejected,
            miss_causes=exchange.miss_causes,
            reboots=exchange.reboots,
            held_steps=totals.held_steps,
            longest_hold=totals.longest_hold,
            bad_frames=board.bad_frames,
            injected_faults=board.injected_faults,
            faults=[str(fault) for fault in board.faults.faults] if board.faults else [],
            fault_seed=board.faults.seed if board.faults else None,
            metrics=self._env.metrics,
            interventions=dict(self._interventions.counts) if self._interventions else {},
            tflm_check=self._trace.check(self._bundle, with_tflm=not interrupted),
            interrupted=interrupted,
            recording=config.recording,
        )

    def _run_episode(self, index: int, seed: int) -> None:
        exchange, totals = self.exchange, self.totals
        episode = Episode(self._env, index, seed, self._max_steps, self._log, exchange, self._stop, self._interventions)
        self._episode = episode
        start_s = time.perf_counter()
        try:
            if self._simulated is not None:
                simulated.run_episode(episode, exchange, self._simulated)
            elif self._config.clock == "lockstep":
                with moving_to_free_cores(self._board.process_ids):
                    lockstep.run_episode(episode, exchange, self._timeout_s)
            elif self._config.clock == "device":
                realtime.run_episode(episode, exchange, totals.timing, DEVICE_START_S)
            else:
                awake = contextlib.closing(CpuLatencyRequest())
                with awake, low_jitter(), priority_for(self._board) as granted:
                    totals.priority = "real-time" if granted else "normal"
                    realtime.run_episode(episode, exchange, totals.timing)
        finally:
            totals.wall_s += time.perf_counter() - start_s
            totals.held_steps += episode.held_steps
            totals.longest_hold = max(totals.longest_hold, episode.longest_hold)
            totals.episodes.append(episode.finish())

    def _on_fault(self, kind: str, detail: str, **numbers: float) -> None:
        if self._episode is not None:
            self._episode.fault(kind, detail, **numbers)


def _memory(board: Board) -> Memory:
    """What the board has used of its memory by now."""
    with contextlib.suppress(LinkError):  # no reply: keep the values of the handshake
        return Memory.of(board.info, board.stats().stack)
    return Memory.of(board.info)


def _cost(board: Board, config: RunConfig) -> CostDocument | None:
    """What an inference costs, asked after the last episode, so that nothing of a run depends on it."""
    if config.cost is not None or board.cycles_per_us is None:
        return config.cost
    with contextlib.suppress(LinkError, BundleError):  # no reply, or nothing to ask with
        return {"unit": "cycles", "parts": board.profile().costs}
    return None


def _float_metrics(bundle: Bundle) -> dict[str, float]:
    """Of the float policy in simulation, as measured by the export; the run's are held against them."""
    stages = bundle.metrics.get("stages") or [{}]
    return dict(stages[0].get("metrics", {}))


@functools.cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in VERSIONS}


def metadata(board: Board, bundle: Bundle, config: RunConfig, env: Environment) -> dict[str, Any]:
    """Metadata of a recording of a run that begins now."""
    meta = {
        "policy": bundle.path.resolve().name,
        "bundle": bundle.id,
        "element_type": bundle.kind.name,
        "environment": env.spec.environment,
        "options": env.options,
        "clock": config.clock,
        "seeds": list(config.seeds),
        "max_steps": require_control_steps(env, config.max_steps),
        "board": identity(board),
        "cost": config.cost,
        "versions": _versions(),
        "command": config.command,
        "faults": [str(fault) for fault in board.faults.faults] if board.faults else [],
        "fault_seed": board.faults.seed if board.faults else None,
        "max_lost": config.lost_bound(require_control_steps(env, config.max_steps)),
        "metrics": [asdict(metric) for metric in env.metrics],
        "float_metrics": _float_metrics(bundle),
    }
    if config.clock == "realtime":
        meta["started"] = datetime.now(UTC).isoformat(timespec="seconds")
    return meta


@contextlib.contextmanager
def _run_log(
    board: Board,
    bundle: Bundle,
    config: RunConfig,
    env: Environment,
    on_tick: Callable[[Tick], None] | None,
    live: LiveView | None,
    on_wait: Callable[[str], None] | None,
) -> Iterator[RunLog]:
    is_realtime = config.clock == "realtime"
    injections = board.faults.injections if board.faults else None
    sinks: list[Sink] = []
    if live is None and config.recording is None:
        yield RunLog(sinks, on_tick, timed=config.clock != "lockstep", injections=injections, on_wait=on_wait)
        return
    meta, start_ns = metadata(board, bundle, config, env), time.time_ns() if is_realtime else 0
    encode = step_encoder(bundle.spec, env.trace)
    with contextlib.ExitStack() as held:
        if (path := config.recording) is not None:
            writer = entered(
                lambda: RecordingWriter(path, meta, bundle.spec, env.trace, start_ns=start_ns, scene=env.scene, encode=encode)
            )
            sinks.append(held.enter_context(writer))
        if live is not None:
            live.begin(meta, env, can_inject=is_realtime, encode=encode)
            sinks.append(live)
        yield RunLog(sinks, on_tick, timed=config.clock != "lockstep", injections=injections, on_wait=on_wait)
