"""Rows of the results database from what commands found out; ``--no-history`` switches them off."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from balance_hil.errors import BoardBootError, LinkError
from balance_hil.history import VARIABLE, Result, append

if TYPE_CHECKING:
    from balance_hil.bundle import Bundle
    from balance_hil.evaluating.robustness_table import RobustnessTable


def _switch_off(context: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        os.environ[VARIABLE] = "off"  # also for the processes that this one starts


HISTORY = click.option(
    "--no-history",
    is_flag=True,
    expose_value=False,
    callback=_switch_off,
    help="Add nothing to the results over time: hil history.",
)


@contextlib.contextmanager
def errors_of(command: str, bundle: Bundle, board: str) -> Iterator[None]:
    """Adds a row for a board that did not work; what a user asked for wrongly is no result."""
    try:
        yield
    except (LinkError, BoardBootError) as exc:
        name, model = _names(bundle)
        append(Result(command=command, bundle=name, bundle_id=model, board=board, good=False, reasons=(exc.message,)))
        raise


def _names(bundle: Bundle) -> tuple[str, str]:
    return bundle.path.resolve().name, bundle.id


def remember(
    command: str,
    document: Mapping[str, Any],
    *,
    variant: str = "",
    board: str = "",
    bundle: tuple[str, str] | None = None,
    metrics: Mapping[str, float | None] | None = None,
) -> None:
    """Adds a row of a command's ``--json`` document, or of one run or soak of it.

    Args:
        command: its name.
        document: the keys of docs/json.md.
        variant: what else makes results comparable; a run's own if empty.
        board: its name, where the document has none.
        bundle: its name and its id, where the document has neither.
        metrics: more of them.
    """
    policy, verdict = document.get("bundle"), document["verdict"]
    name, model = bundle or (((policy or {}).get("name") or "", (policy or {}).get("id") or ""))
    spread = document.get("round_trip_us") or {} if document.get("clock") != "lockstep" else {}  # where nothing has to be in time
    timing = {f"round_trip_{share}_us": spread.get(share) for share in ("p50", "p99")}
    timing |= {misses: document.get(misses) for misses in ("late", "lost")}
    numbers = {**(document.get("metrics") or {}), **(metrics or {})}
    numbers |= {each: document.get(each) for each in ("success_rate", "cycles_per_inference", "instructions_per_inference")}
    engine = (document.get("engine") or "", document.get("engine_version") or "")
    append(
        Result(
            command=command,
            variant=variant or _variant(document),
            bundle=name,
            bundle_id=model,
            board=document.get("board") or board,
            engine=" ".join(engine).strip(),
            firmware=document.get("firmware_commit") or "",
            good=verdict["good"],
            reasons=verdict["reasons"],
            metrics={each: value for each, value in numbers.items() if value is not None},
            timing={each: value for each, value in timing.items() if value is not None},
        )
    )


def _variant(document: Mapping[str, Any]) -> str:
    parts = [document.get("runtime"), document.get("clock"), document.get("environment")]
    episodes = document.get("episodes")
    if isinstance(episodes, list):
        parts.append(f"{len(episodes)} episode" + "s" * (len(episodes) != 1))
    if faults := document.get("faults"):
        parts.append("faults " + " ".join(faults))
    return ", ".join(filter(None, parts))


def remember_suite(table: RobustnessTable, what: str, enough: float, judged: str | None) -> None:
    """Adds a row for each policy of a robustness or fault table: its success under each condition."""
    for policy in table.policies:
        cells = {each.name: table.cell(policy.name, each.name).success_rate.value for each in table.conditions}
        bad = [f"{name}: {value:.1%}" for name, value in cells.items() if judged in (None, name) and value < enough]
        append(
            Result(
                command="evaluate",
                variant=f"{what}, {table.runtime}, {table.environment}, {table.n_episodes} episodes",
                bundle=policy.name,
                bundle_id=policy.id or "",
                good=not bad,
                reasons=bad,
                metrics=cells,
            )
        )
