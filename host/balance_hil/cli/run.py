"""``hil run``: the plant in simulation, the policy on a board."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from balance_hil.boards import Board
from balance_hil.boards.board import operator_names
from balance_hil.bundle import HEADER, MANIFEST, Bundle, locate
from balance_hil.cli.boards_at_once import start_fork_server
from balance_hil.cli.console import say
from balance_hil.cli.params import (
    BOARDS,
    ENVIRONMENT,
    FAULTS,
    JSON,
    OPTIONS,
    POLICY,
    SEED,
    STEPS,
    Access,
    board_options,
    model_options,
)
from balance_hil.cli.remember import HISTORY, errors_of, remember
from balance_hil.cli.run_output import LiveLine, facts, remarks
from balance_hil.cli.several_boards import on_each_board
from balance_hil.cli.upload import runs_at_first, upload
from balance_hil.documents import CostDocument
from balance_hil.errors import HarnessError, RecordingExistsError, UsageError
from balance_hil.files import read_yaml
from balance_hil.link import Fault, parse_faults
from balance_hil.metrics import Verdict
from balance_hil.opening import open_policy
from balance_hil.spec import Terminated

if TYPE_CHECKING:
    from balance_hil.environment import Environment
    from balance_hil.live import LivePage
    from balance_hil.running import RunConfig, RunResult

RECORDINGS = Path("recordings")
UPLOAD_HELP = "Upload POLICY over the link, without flashing; a reset restores the flashed policy."
TERMINATED_HELP = "Meaning of termination; by default as the environment declares it."
CLOCK_HELP = (
    "realtime: the plant does not wait for the board. lockstep: it does, and the run repeats bit for bit. device: realtime on "
    "the time of an emulated chip whose cycles are counted (pico); it repeats bit for bit, too."
)


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The command line, checked."""

    policy: Bundle
    boards: Sequence[str]
    episodes: int
    clock: Any
    seed: int
    steps: int | None
    seconds: float | None
    environment: str | None
    options: Path | None
    terminated: Terminated | None
    access: Access
    faults: Sequence[Fault]
    fault_seed: int | None
    record: Path | None
    no_record: bool
    max_lost: int | None
    view: bool
    live: Any
    live_port: int
    upload: bool

    def __post_init__(self) -> None:
        if self.record and self.no_record:
            raise UsageError("--record and --no-record exclude each other", "leave one of them out")
        if self.steps and self.seconds:
            raise UsageError("--steps and --seconds exclude each other", "leave one of them out")
        if len(self.boards) > 1 and (self.access.port or self.record):
            raise UsageError("--port and --record are for one board", "give each board its port in its file: hil boards")

    def recording(self, board: str, number: int = 0) -> Path | None:
        """Where the run on ``board`` is recorded, the one after ``number`` others of this name."""
        if self.no_record:
            return None
        if self.record:
            return self.record
        when = datetime.now().astimezone().strftime("%Y-%m-%dT%H%M%S")
        stem = f"{when}-{self.policy.path.resolve().name}-{board.replace(':', '-')}-{self.clock}"
        names = (f"{stem}-{each}.mcap" if each > 1 else f"{stem}.mcap" for each in itertools.count(number + 1))
        free = (name for name in names if not any((RECORDINGS / f"{name}{end}").exists() for end in (".partial", "")))
        return RECORDINGS / next(free)


@click.command()
@click.argument("policy", type=POLICY)
@model_options
@BOARDS
@click.option("-n", "--episodes", type=click.IntRange(min=1), default=1, show_default=True, help="One after the other.")
@click.option(
    "--clock", type=click.Choice(["realtime", "lockstep", "device"]), default="realtime", show_default=True, help=CLOCK_HELP
)
@SEED
@STEPS
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Length of an episode in seconds, instead of --steps."
)
@ENVIRONMENT
@OPTIONS
@click.option("--terminated", type=click.Choice(["failure", "success"]), help=TERMINATED_HELP)
@board_options
@FAULTS
@click.option("--fault-seed", type=click.IntRange(min=0), help="The same seed injects the same faults; default: --seed.")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), help="Recording; by default a new one in recordings/.")
@click.option("--no-record", is_flag=True, help="Write no recording.")
@click.option("--max-lost", type=click.IntRange(min=0), help="Steps allowed without a timely reply; default: 10 % of all.")
@click.option("--upload", is_flag=True, help=UPLOAD_HELP)
@click.option("--view", is_flag=True, help="Watch in a window.")
@click.option(
    "--live",
    type=click.Choice(["page", "foxglove"]),
    is_flag=False,
    flag_value="page",
    help="Serve a page to watch the run and to intervene, on this computer only; or the same data to Foxglove.",
)
@click.option("--live-port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Another if it is taken.")
@HISTORY
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@JSON
def command(
    policy: Path,
    faults: tuple[str, ...],
    spec: Path | None,
    output: str | None,
    quiet: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Run episodes with POLICY (a bundle, or a .tflite with --spec) on a board as controller.

    Exit status 0 when no episode failed, every output equals TensorFlow Lite Micro's, no reply was wrong and few enough were
    lost. Ctrl-C ends the run at the next control step and prints the partial results.
    """
    if len(rest["boards"]) > 1:
        start_fork_server()  # it imports while this process does
    options = _Options(
        policy=open_policy(
            policy,
            spec=spec,
            output=output,
            environment=rest["environment"],
            options=read_yaml(rest["options"]) if rest["options"] else None,
        ),
        faults=parse_faults(faults),
        **rest,
    )
    from balance_hil.running import open_plant

    config, shown = _config(options), not (quiet or as_json)
    with open_plant(options.policy, config) as plant:  # its errors come before a board is started
        on_each_board(
            options.boards,
            lambda name: _run(name, options, config, plant, shown=shown),
            key="runs",
            facts=facts,
            remarks=remarks,
            as_json=as_json,
            job=functools.partial(_run_at_once, options=options, config=config, shown=shown),
            shown=shown,
        )


@contextlib.contextmanager
def _live_page(options: _Options) -> Iterator[LivePage | None]:
    if options.live is None:
        yield None
        return
    from balance_hil.live import LivePage

    with LivePage(options.live, options.live_port) as page:
        say(f"live: {page.url}")
        if options.live == "foxglove":
            say("Foxglove's server has neither a token nor a check of the origin: every program and web page here can read it")
        yield page


def _run_at_once(
    name: str, number: int, send: Callable[[str], None], *, options: _Options, config: RunConfig, shown: bool
) -> RunResult:
    """A run in a process of its own, on the board that is number ``number`` of this name."""
    from balance_hil.running import open_plant

    with open_plant(options.policy, config) as plant:
        return _run(name, options, config, plant, shown=shown, send=send, number=number)


def _run(
    name: str,
    options: _Options,
    config: RunConfig,
    plant: Environment,
    *,
    shown: bool,
    send: Callable[[str], None] | None = None,
    number: int = 0,
) -> RunResult:
    """Runs on one board; ``--live`` on a page of its own, which shows the verdict. Raises HarnessError, KeyboardInterrupt."""
    with _live_page(options) as page:
        try:
            with options.access.held(name) as name, errors_of("run", options.policy, name):
                line = LiveLine(lambda tick: f"episode {tick.episode + 1}/{len(config.seeds)}", enabled=shown, send=send)
                result = _connect_and_run(name, options, config, plant, page, line, number)
        except BaseException as exc:
            _show_end(page, Verdict((exc.message if isinstance(exc, HarnessError) else "interrupted",)))
            raise
        _show_end(page, result.verdict)
    remember("run", result.to_dict())
    return result


def _show_end(page: LivePage | None, verdict: Verdict) -> None:
    if page is not None:
        page.end(verdict.line)


def _connect_and_run(
    name: str, options: _Options, config: RunConfig, plant: Environment, page: LivePage | None, line: LiveLine, number: int
) -> RunResult:
    """Raises HarnessError, KeyboardInterrupt."""
    connecting = options.access.connect(
        name,
        runs_at_first(name, options.policy, options.access.port) if options.upload else options.policy,
        faults=options.faults,
        fault_seed=options.seed if options.fault_seed is None else options.fault_seed,
        device_clock=options.clock == "device",
        injectable=page is not None and options.clock == "realtime",
    )
    with connecting as board:
        from balance_hil.running import RunInterrupted, run

        if options.upload:
            upload(board, options.policy)
        cost = _instructions(board, options)
        while True:
            config = replace(config, cost=cost, recording=options.recording(name, number))
            try:
                with line:
                    return run(board, options.policy, config, line.show, environment=plant, live=page, on_wait=say)
            except RunInterrupted as exc:
                return exc.result
            except RecordingExistsError:  # another run took the name in this moment: the next one
                if options.record is not None:
                    raise
            except BaseException:
                if config.recording is not None and config.recording.is_file():
                    say(f"partial recording: {config.recording}")
                raise


def _instructions(board: Board, options: _Options) -> CostDocument | None:
    """Instructions of one inference of the policy on an emulated processor, and of its layers; None for other boards."""
    if board.definition.kind != "qemu" or options.access.port is not None:
        return None
    from balance_hil.boards.kinds.instruction_count import engine_cost

    try:
        found = engine_cost(
            board.definition,
            board.info.engine,
            options.policy.model(),
            options.policy.file(HEADER),
            lambda line: say(f"counting instructions: {line}"),
        )
        operators = zip(operator_names(options.policy, board.info.n_ops), found.operator_instructions, strict=False)
    except HarnessError as exc:
        say(f"{board.name}: the instructions of an inference were not counted: {exc.message}")
        return None
    layers = {f"{index} {name}": count for index, (name, count) in enumerate(operators)}
    return {"unit": "instructions", "parts": {"engine": found.inference_instructions, **layers}}


def _config(options: _Options) -> RunConfig:
    from balance_hil.rollout import EVALUATION_SEED_BASE
    from balance_hil.running import RunConfig

    first = EVALUATION_SEED_BASE + options.seed
    steps = options.steps
    if options.seconds is not None:
        steps = max(1, round(options.seconds / options.policy.spec.control_period_s))
    return RunConfig(
        seeds=range(first, first + options.episodes),
        clock=options.clock,
        max_steps=steps,
        environment=options.environment,
        options=read_yaml(options.options) if options.options else None,
        terminated=options.terminated or "",
        max_lost=options.max_lost,
        view=options.view,
        command=_repeated(),
    )


def _repeated() -> str:
    """The command line, without what is about the recording and the output."""
    context = click.get_current_context()
    words = ["hil", "run"]
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name in (
            "record",
            "no_record",
            "no_history",
            "as_json",
            "quiet",
            "view",
            "live",
            "live_port",
        ):
            continue
        value = context.params[name]
        if name == "policy" and _is_named(value):
            value = value.name
        for each in value if isinstance(value, tuple) else (value,):
            given = [] if isinstance(parameter, click.Argument) else [parameter.opts[-1]]
            words += given if each is True else [*given, str(each)]
    return shlex.join(words)


def _is_named(policy: Path) -> bool:
    """Whether its bare name finds the same bundle, whatever path to it or copy of it was given."""
    try:
        return bool(policy.name) and (locate(policy.name) / MANIFEST).read_bytes() == (policy / MANIFEST).read_bytes()
    except OSError:
        return False
