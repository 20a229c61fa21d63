"""``hil run`` and ``hil soak`` on several boards: results, tables and exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, TypeVar

from balance_hil.cli import GOOD, INTERRUPTED, exit_status
from balance_hil.cli.boards_at_once import Job, run_at_once
from balance_hil.cli.console import make_table, print_error, print_json, print_verdict, say, wide
from balance_hil.documents import FailedRunDocument
from balance_hil.errors import HarnessError
from balance_hil.metrics import Verdict

if TYPE_CHECKING:
    from balance_hil.running import RunResult, SoakResult

HEADING_WIDTH, COLUMN_WIDTH = 40, 42  # of a table, for a board
Result = TypeVar("Result", "RunResult", "SoakResult")


def on_each_board(
    boards: Sequence[str],
    run: Callable[[str], Result],
    *,
    key: str,
    facts: Callable[[Result], dict[str, str]],
    remarks: Callable[[Result], list[str]],
    as_json: bool,
    job: Job,
    shown: bool,
) -> NoReturn:
    """Runs on all boards at once, prints the results in their order, and exits. Ctrl-C ends it and prints those so far.

    Exit status: the worst of all boards.

    Args:
        boards: their names.
        run: takes the name of the only board; raises HarnessError or KeyboardInterrupt.
        key: of the results in the JSON document.
        facts: rows of a result's column in the table, by heading.
        remarks: lines about a result for stderr.
        as_json: a document in place of the table.
        job: does what ``run`` does in a process of its own: for one of several boards.
        shown: how far several boards are.
    """
    outcomes: dict[int, Result | HarnessError] = {}
    interrupted = False
    try:
        for index, outcome in run_at_once(boards, job, shown=shown) if len(boards) > 1 else _alone(boards[0], run):
            if isinstance(outcome, HarnessError):
                name = f"{boards[index]}: " if len(boards) > 1 else ""
                print_error(f"{name}{outcome.message}", outcome.hint)
            interrupted |= outcome is None or getattr(outcome, "interrupted", False)
            if outcome is not None:
                outcomes[index] = outcome
    except KeyboardInterrupt:
        interrupted = True
    in_order = [(boards[index], outcomes[index]) for index in sorted(outcomes)]
    results = [each for _, each in in_order if not isinstance(each, HarnessError)]
    if as_json:
        print_json({key: [_failed(name, each) if isinstance(each, HarnessError) else each.to_dict() for name, each in in_order]})
    elif results:
        _print(results, facts, remarks)
    statuses = (exit_status(each) if isinstance(each, HarnessError) else int(not each.verdict.good) for _, each in in_order)
    sys.exit(INTERRUPTED if interrupted else max(statuses, default=GOOD))


def _alone(name: str, run: Callable[[str], Result]) -> Iterator[tuple[int, Result | HarnessError]]:
    try:
        yield 0, run(name)
    except HarnessError as exc:
        yield 0, exc


def _failed(board: str, exc: HarnessError) -> FailedRunDocument:
    return {"board": board, "error": exc.message, "hint": exc.hint, "verdict": Verdict((exc.message,)).to_dict()}


def _print(results: Sequence[Result], facts: Callable[[Result], dict[str, str]], remarks: Callable[[Result], list[str]]) -> None:
    """The tables to stdout, with as many boards side by side as fit; remarks to stderr; the verdicts."""
    console = wide()
    fitting = max(1, (console.width - HEADING_WIDTH) // COLUMN_WIDTH)
    for start in range(0, len(results), fitting):
        shown = results[start : start + fitting]
        table = make_table("board", *(result.board for result in shown))
        table.columns[0].style, table.columns[0].no_wrap = "bold", True
        for column, result in zip(table.columns[1:], shown, strict=True):
            column.style = "" if result.verdict.good else "red"
        rows = [facts(result) for result in shown]
        for heading in rows[0]:
            table.add_row(heading, *(row[heading] for row in rows))
        console.print(table)
    for result in results:
        for line in remarks(result):
            say(f"{result.board}: {line}")
    for result in results:
        print_verdict(result.verdict, board=result.board)
