"""``hil soak``: real-time episodes on a board for hours."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from balance_hil.boards import connect, find_definition
from balance_hil.bundle import Bundle
from balance_hil.cli import INTERRUPTED, exit_status
from balance_hil.cli.console import print_error, print_json, say, stderr, stdout
from balance_hil.cli.params import BOARD, POLICY, board_options
from balance_hil.cli.run import BOARD_HELP, FAULT_HELP, OPTIONS_HELP, RECORDINGS
from balance_hil.cli.run_output import TABLE_WIDTH, LiveLine, times
from balance_hil.documents import SOAK, FailedRunDocument, OneSoakDocument, SoakMinuteDocument
from balance_hil.errors import HarnessError, UsageError
from balance_hil.files import read_yaml
from balance_hil.link import parse_faults
from balance_hil.metrics import Verdict
from balance_hil.opening import open_policy

if TYPE_CHECKING:
    from balance_hil.environment import Environment
    from balance_hil.running import RunConfig, SoakResult, Tick
    from balance_hil.running.resources import Resources

MIB = 1 << 20


@click.command()
@click.argument("policy", type=POLICY)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), required=True, metavar="H", help="On each board.")
@click.option("-b", "--board", "boards", type=BOARD, multiple=True, default=("native",), show_default=True, help=BOARD_HELP)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Index of the first evaluation seed.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Length of an episode; at most a minute.")
@click.option("-e", "--env", "--environment", "environment", metavar="ID", help="Environment to use instead of the policy's own.")
@click.option("--options", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.yaml", help=OPTIONS_HELP)
@board_options
@click.option("--fault", "faults", multiple=True, metavar="FAULT|FILE.yaml", help=FAULT_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document: docs/json.md.")
def command(policy: Path, boards: tuple[str, ...], as_json: bool, **rest: Any) -> None:
    """Run real-time episodes with POLICY on a board for hours, one after the other: a soak test.

    Prints statistics every minute; records anomalies (misses, faults, reboots, failed episodes) with the second around them in
    recordings/. Exit status 0 when no episode failed, no reply was wrong, no board rebooted and nothing grew: memory, descriptors
    and threads of this program and of an emulator. Misses are counted by cause, and do not fail the soak. Ctrl-C ends it and
    prints the results so far.
    """
    from balance_hil.rollout import EVALUATION_SEED_BASE
    from balance_hil.running import RunConfig, open_plant

    env_options = read_yaml(rest["options"]) if rest["options"] else None
    bundle = open_policy(policy, spec=None, output=None, environment=rest["environment"], options=env_options)
    names = [name.strip() for item in boards for name in item.split(",") if name.strip()]
    if len(names) > 1 and rest["port"]:
        raise UsageError("--port is for one board", "give each board its port in its file: hil boards")
    for name in names:
        find_definition(name)
    steps = None if rest["seconds"] is None else max(1, round(rest["seconds"] / bundle.spec.control_period_s))
    first_seed = EVALUATION_SEED_BASE + rest["seed"]
    config = RunConfig(seeds=[first_seed], max_steps=steps, environment=rest["environment"], options=env_options)
    soaks: list[tuple[str, SoakResult | HarnessError]] = []
    with open_plant(bundle, config) as plant:
        for name in names:
            try:
                soaks.append((name, _soak(name, bundle, config, plant, live=stderr.is_terminal and not as_json, **rest)))
            except HarnessError as exc:
                print_error(f"{name}: {exc.message}" if len(names) > 1 else exc.message, exc.hint)
                soaks.append((name, exc))
            if not isinstance(soaks[-1][1], HarnessError) and soaks[-1][1].interrupted:
                break
    results = [soak for _, soak in soaks if not isinstance(soak, HarnessError)]
    if as_json:
        print_json({"schema": SOAK, "soaks": [_document(name, soak) for name, soak in soaks]})
    else:
        _print(results)
    if any(result.interrupted for result in results):
        sys.exit(INTERRUPTED)
    sys.exit(max(exit_status(soak) if isinstance(soak, HarnessError) else int(not soak.verdict.good) for _, soak in soaks))


def _soak(name: str, bundle: Bundle, config: RunConfig, plant: Environment, *, live: bool, **rest: Any) -> SoakResult:
    """Connects to one board and soaks it. Raises HarnessError."""
    from balance_hil.running import SoakConfig, soak

    when = datetime.now().astimezone().strftime("%Y-%m-%dT%H%M%S")
    duration_s = rest["hours"] * 3600
    soak_config = SoakConfig(
        duration_s=duration_s,
        first_seed=config.seeds[0],
        run=config,
        folder=RECORDINGS / f"{when}-{bundle.path.resolve().name}-{name}-soak",
    )
    connecting = connect(
        name,
        bundle,
        port=rest["port"],
        baud=rest["baud"],
        engine=rest["engine"],
        faults=parse_faults(rest["faults"]),
        fault_seed=rest["seed"],
        wait_s=rest["wait_s"],
        progress=say,
    )
    with connecting as board:
        start_s = time.monotonic()

        def progress(tick: Tick) -> str:
            return f"{name}  {_clock(time.monotonic() - start_s)} of {_clock(duration_s)}  episode"

        with LiveLine(progress, enabled=live) as line:

            def print_minute(result: SoakResult) -> None:
                line.clear()
                say(_minute_line(result.minutes[-1]))

            return soak(board, bundle, soak_config, plant, line.show, print_minute)


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


def _print(soaks: Sequence[SoakResult]) -> None:
    """The table to stdout, a column for each board, and each verdict."""
    if not soaks:
        return
    console = stdout if stdout.is_terminal else Console(highlight=False, markup=False, width=TABLE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("board", no_wrap=True, style="bold")
    for soak in soaks:
        table.add_column(soak.board, overflow="fold", style="" if soak.verdict.good else "red")
    rows = [_facts(soak) for soak in soaks]
    for heading in rows[0]:
        table.add_row(heading, *(row[heading] for row in rows))
    console.print(table)
    for soak in soaks:
        if soak.total.anomalies:
            stderr.print(f"{soak.board}: {soak.total.anomalies} anomalies, recorded in {soak.folder}", soft_wrap=True)
        console.print(
            f"{soak.board}: {soak.verdict.line}", style="bold green" if soak.verdict.good else "bold red", soft_wrap=True
        )


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


def _document(name: str, soak: SoakResult | HarnessError) -> OneSoakDocument | FailedRunDocument:
    if not isinstance(soak, HarnessError):
        return soak.to_dict()
    return {"board": name, "error": soak.message, "hint": soak.hint, "verdict": Verdict((soak.message,)).to_dict()}
