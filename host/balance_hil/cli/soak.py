"""``hil soak``: real-time episodes on a board for hours."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from balance_hil.bundle import Bundle
from balance_hil.cli.boards_at_once import start_fork_server
from balance_hil.cli.console import say, stderr
from balance_hil.cli.params import BOARDS, ENVIRONMENT, FAULTS, JSON, OPTIONS, POLICY, SEED, Access, board_options
from balance_hil.cli.remember import HISTORY, errors_of, remember
from balance_hil.cli.run import RECORDINGS
from balance_hil.cli.run_output import LiveLine, times
from balance_hil.cli.several_boards import on_each_board
from balance_hil.documents import SoakMinuteDocument
from balance_hil.errors import UsageError
from balance_hil.files import read_yaml
from balance_hil.link import parse_faults
from balance_hil.opening import open_policy

if TYPE_CHECKING:
    from balance_hil.environment import Environment
    from balance_hil.running import RunConfig, SoakResult, Tick
    from balance_hil.running.resources import Resources

MIB = 1 << 20


@click.command()
@click.argument("policy", type=POLICY)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), required=True, metavar="H", help="On each board.")
@BOARDS
@SEED
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Length of an episode; at most a minute.")
@ENVIRONMENT
@OPTIONS
@board_options
@FAULTS
@HISTORY
@JSON
def command(policy: Path, boards: tuple[str, ...], access: Access, faults: tuple[str, ...], as_json: bool, **rest: Any) -> None:
    """Run real-time episodes with POLICY on a board for hours, one after the other: a soak test.

    Prints statistics every minute; records anomalies (misses, faults, reboots, failed episodes) with the second around them in
    recordings/. Exit status 0 when no episode failed, no reply was wrong, no board rebooted and nothing grew: memory, descriptors
    and threads of this program and of an emulator. Misses are counted by cause, and do not fail the soak. Ctrl-C ends it and
    prints the results so far.
    """
    if len(boards) > 1:
        start_fork_server()  # it imports while this process does
    from balance_hil.rollout import EVALUATION_SEED_BASE
    from balance_hil.running import RunConfig, open_plant

    env_options = read_yaml(rest["options"]) if rest["options"] else None
    bundle = open_policy(policy, spec=None, output=None, environment=rest["environment"], options=env_options)
    if len(boards) > 1 and access.port:
        raise UsageError("--port is for one board", "give each board its port in its file: hil boards")
    steps = None if rest["seconds"] is None else max(1, round(rest["seconds"] / bundle.spec.control_period_s))
    first_seed = EVALUATION_SEED_BASE + rest["seed"]
    config = RunConfig(seeds=[first_seed], max_steps=steps, environment=rest["environment"], options=env_options)
    shown = stderr.is_terminal and not as_json
    rest["faults"] = parse_faults(faults)
    with open_plant(bundle, config) as plant:  # its errors come before a board is started
        on_each_board(
            boards,
            lambda name: _soak(name, bundle, config, plant, access, shown=shown, **rest),
            key="soaks",
            facts=_facts,
            remarks=_remarks,
            as_json=as_json,
            job=functools.partial(_soak_at_once, bundle=bundle, config=config, access=access, shown=shown, **rest),
            shown=shown,
        )


def _soak_at_once(
    name: str, number: int, send: Callable[[str], None], *, bundle: Bundle, config: RunConfig, access: Access, **rest: Any
) -> SoakResult:
    """``_soak`` in a process of its own, on the board that is number ``number`` of this name."""
    from balance_hil.running import open_plant

    with open_plant(bundle, config) as plant:
        return _soak(name, bundle, config, plant, access, send=send, **rest)


def _soak(
    name: str, bundle: Bundle, config: RunConfig, plant: Environment, access: Access, *, shown: bool, **rest: Any
) -> SoakResult:
    """Connects to one board and soaks it. Raises HarnessError."""
    with access.held(name) as name, errors_of("soak", bundle, name):
        result = _soak_on(name, bundle, config, plant, access, shown=shown, **rest)
    of = result.total
    counts = {"episodes": of.episodes, "failed": of.failed, "anomalies": of.anomalies, "errors": result.errors}
    remember("soak", result.to_dict(), metrics=counts)
    return result


def _soak_on(
    name: str,
    bundle: Bundle,
    config: RunConfig,
    plant: Environment,
    access: Access,
    *,
    shown: bool,
    send: Callable[[str], None] | None = None,
    **rest: Any,
) -> SoakResult:
    from balance_hil.running import SoakConfig, soak

    when = datetime.now().astimezone().strftime("%Y-%m-%dT%H%M%S")
    duration_s = rest["hours"] * 3600
    soak_config = SoakConfig(
        duration_s=duration_s,
        first_seed=config.seeds[0],
        run=config,
        folder=RECORDINGS / f"{when}-{bundle.path.resolve().name}-{name.replace(':', '-')}-soak",
    )
    with access.connect(name, bundle, faults=rest["faults"], fault_seed=rest["seed"]) as board:
        start_s = time.monotonic()

        def progress(tick: Tick) -> str:
            return f"{_clock(time.monotonic() - start_s)} of {_clock(duration_s)}  episode"

        with LiveLine(progress, enabled=shown, send=send) as line:

            def print_minute(result: SoakResult) -> None:
                line.clear()
                say(_minute_line(result.minutes[-1]))

            return soak(board, bundle, soak_config, plant, line.show, print_minute, say)


def _clock(duration_s: float) -> str:
    return str(timedelta(seconds=round(duration_s)))


def _minute_line(minute: SoakMinuteDocument) -> str:
    causes = minute["miss_causes"]
    parts = [
        f"{_clock(minute['elapsed_s'])}  {minute['steps']} steps",
        f"late {minute['late']}, lost {minute['lost']} (host {causes['host']}, board {causes['board']}, link {causes['link']})",
    ]
    for heading, spread in (("round trip", minute["round_trip_us"]), ("jitter", minute["jitter_us"])):
        if spread is not None:
            parts.append(f"{heading} {spread['p50'] / 1e3:.2f} / {spread['p99'] / 1e3:.2f} / {spread['max'] / 1e3:.2f} ms")
    for heading, held in (("memory", minute["host"]), ("emulator", minute["emulator"])):
        if held is not None:
            parts.append(f"{heading} {held['memory_bytes'] / MIB:.1f} MiB, {held['descriptors']} fd, {held['threads']} threads")
    if minute["reboots"] or minute["failed"]:
        parts.append(f"REBOOTS {minute['reboots']}, FAILED EPISODES {minute['failed']}")
    return "  ".join(parts)


def _remarks(soak: SoakResult) -> list[str]:
    return [f"{soak.total.anomalies} anomalies, recorded in {soak.folder}"] if soak.total.anomalies else []


def _facts(soak: SoakResult) -> dict[str, str]:
    of = soak.total
    return {
        "policy": f"{soak.bundle.path.resolve().name} ({soak.bundle.id}), {soak.environment}",
        "time, episodes, steps": f"{_clock(soak.elapsed_s)}, {of.episodes}, {of.steps}",
        "episodes without failure": f"{of.episodes - of.failed} of {of.episodes}",
        "late, lost, not sent, wrong": " / ".join(str(of.counts[name]) for name in ("late", "lost", "unsent", "rejected")),
        "misses by host, board, link": " / ".join(str(of.causes[name]) for name in ("host", "board", "link")),
        "reboots, errors": f"{of.counts['reboots']}, {soak.errors}",
        "on the board, ms p50 / p99 / max": times(of.inference_us, ".3f", ("p50", "p99", "max")),
        "round trip, ms p50 / p99 / p99.9 / max": times(of.round_trip_us, ".2f", ("p50", "p99", "p999", "max")),
        "tick jitter, ms p50 / p99 / p99.9 / max": times(of.jitter_us, ".2f", ("p50", "p99", "p999", "max")),
        "board equals tflm": "not checked"
        if soak.differing is None or not soak.checked
        else f"{soak.checked - soak.differing} of {soak.checked}",
        "growth of this program": _growth(soak.host),
        "growth of the emulator": _growth(soak.emulator),
    }


def _growth(growth: Resources | None) -> str:
    if growth is None:
        return "-"
    return f"{growth.memory_bytes / MIB:+.2f} MiB, {growth.descriptors:+d} descriptors, {growth.threads:+d} threads"
