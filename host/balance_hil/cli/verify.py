"""``hil verify``: breaks the board on purpose and looks whether the HIL suite says so."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import click

from balance_hil.benchmarks.verify_emulators import INPUTS, MODELS, verify_emulators
from balance_hil.boards.channel import printable
from balance_hil.bundle import Bundle
from balance_hil.cli import INTERRUPTED
from balance_hil.cli.console import make_table, print_json, print_verdict, stdout, wide
from balance_hil.cli.params import BOARD, CAMPAIGN, JSON, POLICY, Access, NamesType, board_options, campaign_options
from balance_hil.cli.params import only as only_options
from balance_hil.cli.progress import CampaignBar
from balance_hil.cli.remember import HISTORY, remember
from balance_hil.errors import UsageError
from balance_hil.farm.campaign import Campaign
from balance_hil.files import did_you_mean
from balance_hil.verifying.faults import FAULTS, DeviceFault
from balance_hil.verifying.verify import VerifyConfig, VerifyResult, verify

_LONGEST = 160  # characters of a message in the table; --json has it whole
_STYLES = {"caught": "green", "wrong reason": "bold red", "missed": "bold red", "skipped": "dim"}
_GROUPS = tuple(dict.fromkeys(fault.group for fault in FAULTS.values()))


@click.command(name="verify")
@click.argument("bundle", type=POLICY, required=False)
@click.option("-b", "--board", type=BOARD, default=VerifyConfig.board, show_default=True, help="Which board; see hil boards.")
@board_options
@click.option("--only", type=NamesType("fault", lambda: (*FAULTS, *_GROUPS)), metavar="NAME,...",
              help=f"Only these faults, or groups of faults: {', '.join(_GROUPS)}.")  # fmt: skip
@click.option("--emulators", is_flag=True, help="Instead: verify the emulators of the runtimes on random models.")
@click.option("--models", type=click.IntRange(min=1), default=MODELS, show_default=True, metavar="N",
              help="With --emulators: at most so many of each kind.")  # fmt: skip
@click.option("--inputs", type=click.IntRange(min=1), default=INPUTS, show_default=True, metavar="N",
              help="With --emulators: random inputs of each; a tenth for convolutional networks.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="List the faults and the test that must catch each.")
@campaign_options
@HISTORY
@JSON
def command(
    bundle: Path | None, board: str, access: Access, only: str | None, emulators: bool, models: int, inputs: int, listed: bool,
    as_json: bool, campaign: Campaign,
) -> None:  # fmt: skip
    """Break the board on purpose, one fault at a time, and check that the HIL suite catches each for the right reason.

    First the suite must pass on the sound board. Then, for each fault, its test must fail with a message that names the cause.
    A fault that is none for BUNDLE, or that cannot be put into this board, is skipped, with the reason.

    Exit status 0 when every fault was caught for the right reason; 1 when one was missed or caught for another reason, or when
    the suite fails without a fault.
    """
    if emulators:
        only_options(("emulators", "models", "inputs", *CAMPAIGN, "as_json"), "--emulators")
        _verify_emulators(models, inputs, campaign, as_json=as_json)
    only_options(set(click.get_current_context().params) - {"models", "inputs"}, "hil verify without --emulators")
    faults = _chosen(only)
    if listed:
        _print_list(faults)
        return
    if bundle is None:
        raise click.UsageError("name a bundle: hil verify ppo")
    config = VerifyConfig(board=board, **asdict(access))
    with CampaignBar() as bar:
        result = verify(Bundle.load(bundle), config, faults, bar, campaign)
    document = result.to_dict()
    scores: dict[str, float | None] = {name: document[name] for name in ("caught", "missed", "wrong_reason", "skipped")}
    remember("verify", document, variant=f"{len(faults)} faults", metrics=scores)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)
    sys.exit(INTERRUPTED if result.interrupted else 0 if result.verdict.good else 1)


def _verify_emulators(models: int, inputs: int, campaign: Campaign, *, as_json: bool) -> NoReturn:
    with CampaignBar() as bar:
        result = verify_emulators(models, inputs, bar, campaign)
    remember("verify", result.to_dict(), variant=f"emulators, {result.models} models")
    if as_json:
        print_json(result.to_dict())
    else:
        table = make_table("runtime", ">outputs", ">differing", ">layer values", ">differing")
        for name, total in result.runtimes.items():
            numbers = (total.outputs, total.differing_outputs, total.values, total.differing_values)
            table.add_row(name, *(f"{number:,}" for number in numbers))
        stdout.print(table)
        stdout.print("all pairs of runtimes: " + ", ".join(f"{count:,} {what}" for what, count in result.pairs.items()))
        print_verdict(result.verdict, f"{result.models} models: every value equals its emulator's")
    sys.exit(0 if result.verdict.good else 1)


def _chosen(only: str | None) -> list[DeviceFault]:
    """Raises UsageError."""
    if only is None:
        return list(FAULTS.values())
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in FAULTS and name not in _GROUPS:
            raise UsageError(f"unknown fault {name!r}" + did_you_mean(name, (*FAULTS, *_GROUPS)), "list them: hil verify --list")
    return [fault for fault in FAULTS.values() if fault.name in names or fault.group in names]


def _print_list(faults: list[DeviceFault]) -> None:
    table = make_table("group", "fault", "what the device does", "test that must fail")
    for fault in faults:
        table.add_row(fault.group, fault.name, fault.what, fault.test)
    wide().print(table)


def _print(result: VerifyResult) -> None:
    table = make_table("fault", "score", ">s", "test", "message")
    for column in table.columns[:2]:
        column.no_wrap = True
    for row in result.faults:
        matched = re.search(row.fault.because, row.message, re.DOTALL) if row.score == "caught" else None
        said = printable(" ".join((matched[0] if matched else row.message).split())[:_LONGEST])
        seconds = "" if row.score == "skipped" else f"{row.wall_s:.1f}"
        table.add_row(row.fault.name, row.score, seconds, row.fault.test, said, style=_STYLES[row.score])
    if result.faults:
        wide().print(table)
    caught, skipped = result.count("caught"), result.count("skipped")
    summary = f"{caught} of {caught} faults caught for the right reason on {result.board}"
    print_verdict(result.verdict, summary + (f", {skipped} skipped" if skipped else ""))
