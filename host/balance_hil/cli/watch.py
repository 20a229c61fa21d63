"""``hil watch``: a robot that runs the policy by itself, ``firmware/examples/robot``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import cast

import click
from rich.live import Live
from rich.table import Table

from balance_hil.boards.reservation import reserved
from balance_hil.bundle import Bundle
from balance_hil.cli.console import make_table, print_json, print_verdict, say, stderr, stdout
from balance_hil.cli.params import JSON, POLICY, WAIT
from balance_hil.errors import UsageError
from balance_hil.interrupt import entered
from balance_hil.link import open_link
from balance_hil.link.serial_link import DEFAULT_BAUD
from balance_hil.recording.writer import RecordingWriter
from balance_hil.running.result import equals_tflm
from balance_hil.running.robot import (
    Lines,
    Numbers,
    PolarityCheck,
    SignalRange,
    Status,
    Watch,
    Watched,
    lines_of_log,
    lines_of_port,
)
from balance_hil.running.trace import TflmCheck
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.spec import Signal

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOREVER_S = float("inf")


@click.command()
@click.argument("policy", type=POLICY)
@click.option("--port", metavar="PORT", help="Device or URL of the robot: /dev/ttyACM0.")
@click.option("--log", type=_FILE, metavar="FILE", help="Instead: a file with what the robot has printed.")
@click.option(
    "--baud", type=click.IntRange(min=1), default=DEFAULT_BAUD, show_default=True, metavar="BITS_PER_S", help="Baud rate."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="How long to watch."
)
@click.option("--polarity", is_flag=True, help="Check the signs: asks for one movement after the other.")
@click.option("--record", type=_FILE, metavar="FILE.mcap", help="Write a recording, for hil replay and hil compare.")
@WAIT
@JSON
def command(
    policy: Path, port: str | None, log: Path | None, baud: int, seconds: float, polarity: bool, record: Path | None,
    wait_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Watch a robot that runs POLICY by itself: firmware/examples/robot, in any of its modes.

    The outputs of each control period are computed on the desktop (tflm), too, and must be the same bits.

    Exit status 0 when they are, every line was sound and the motors were not switched off; 1 otherwise. With --polarity: 0
    when each signal of the observation rose with its movement.
    """
    if (port is None) == (log is None):
        raise UsageError("name one of --port and --log", "for example: hil watch ppo --port /dev/ttyACM0")
    if polarity and record is not None:
        raise UsageError("--record does not go with --polarity", "leave one of them out")
    bundle = Bundle.load(policy)
    lines = Lines(bundle.spec.n_obs, bundle.spec.n_act)
    with ExitStack() as stack:
        found = _open(stack, lines, port, log, baud, wait_s, _FOREVER_S if polarity else seconds)
        watch = Watch(bundle, cast(ModelRuntime, stack.enter_context(load_runtime("tflm", bundle))))
        if polarity:
            sys.exit(_check_polarity(bundle, watch, found, as_json))
        writer = None
        if record is not None:
            meta = {
                "policy": bundle.path.resolve().name,
                "bundle": bundle.id,
                "clock": "robot",
                "board": {"board": port or str(log)},
            }
            writer = stack.enter_context(entered(lambda: RecordingWriter(record, meta, bundle.spec)))
        try:
            with Live(get_renderable=lambda: _table(watch.ranges()), console=stderr, transient=True):
                for line in found:
                    watch.take(line)
                    if writer is not None and isinstance(line, Numbers):
                        step = watch.step(line)
                        writer.step(step.t_s, step)
        except KeyboardInterrupt:
            _show(_result(watch, lines, writer), as_json)
            raise
        result = _result(watch, lines, writer)
    _show(result, as_json)
    sys.exit(0 if result.verdict.good else 1)


def _result(watch: Watch, lines: Lines, writer: RecordingWriter | None) -> Watched:
    """What was found, which the recording keeps, too: a robot has no episodes to be judged by."""
    result = watch.result(lines.damaged)
    if writer is not None:
        check = TflmCheck(checked=result.compared, differing=result.differing if result.compared else None, skipped=None)
        writer.result = {"metrics": {}, "equals_tflm": equals_tflm(check), "verdict": result.verdict.to_dict()}
    return result


def _open(
    stack: ExitStack, lines: Lines, port: str | None, log: Path | None, baud: int, wait_s: float, seconds: float
) -> Iterator[Numbers | Status]:
    if port is None:
        assert log is not None  # one of the two is there
        return lines_of_log(log, lines)
    stack.enter_context(reserved(port, wait_s, say))
    link = open_link(port, baud)
    stack.callback(link.close)
    return lines_of_port(link.read, time.monotonic, lines, seconds)


def _check_polarity(bundle: Bundle, watch: Watch, lines: Iterator[Numbers | Status], as_json: bool) -> int:
    def ask(signal: Signal) -> None:
        say(f"{signal.positive}: {signal.name} must rise")

    check = PolarityCheck(bundle.spec.observation, ask, bundle.spec.control_period_s)
    if check.done:
        raise UsageError("no signal of this policy says what makes it rise", "name it: `positive` of a signal, docs/policies.md")
    say("hold it still")
    for line in lines:
        watch.take(line)
        if isinstance(line, Numbers):
            check.take(line.inputs)
        if check.done:
            break
    verdict = check.verdict
    if as_json:
        print_json({"bundle": bundle.id, "polarity": [asdict(row) for row in check.results], "verdict": verdict.to_dict()})
        return 0 if verdict.good else 1
    table = make_table("signal", "movement", "found", ">moved by", "unit", "moved instead")
    for signal, row in zip([s for s in bundle.spec.observation if s.positive], check.results, strict=False):
        table.add_row(row.name, row.asked, row.found, f"{row.moved:.3g}", signal.unit, row.instead)
    stdout.print(table)
    print_verdict(verdict, "every sign is right")
    return 0 if verdict.good else 1


def _show(result: Watched, as_json: bool) -> None:
    if as_json:
        print_json(result.to_dict())
        return
    stdout.print(_table(result.signals))
    stdout.print()
    period, inference = result.period_us, result.inference_us
    if period:
        stdout.print(
            f"{result.lines} lines in {result.duration_s:.1f} s ({result.missing} missing, {result.damaged} damaged); period "
            f"{period['p50']:g} us at the median, {period['p99']:g} at 99 %, {period['max']:g} at most; inference "
            f"{inference['p50']:g} us",
            soft_wrap=True,
        )
    stdout.print(f"mode {result.mode or 'unknown'}: {', '.join(result.states)}", soft_wrap=True)
    compared = f"{result.compared} outputs are the desktop's, bit for bit"
    print_verdict(result.verdict, compared if result.compared else "the outputs are not the policy's, and were not compared")


def _table(ranges: tuple[SignalRange, ...]) -> Table:
    table = make_table("signal", ">now", ">least", ">most", "unit")
    for row in ranges:
        table.add_row(row.name, f"{row.latest:+.3f}", f"{row.least:+.3f}", f"{row.most:+.3f}", row.unit)
    return table
