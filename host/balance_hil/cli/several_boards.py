"""``hil run`` and ``hil soak`` on several boards, one after the other: results, tables and exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from balance_hil.cli import INTERRUPTED, exit_status
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
) -> NoReturn:
    """Runs on each board, prints the results and exits. Ctrl-C ends it and prints the results so far.

    Args:
        boards: their names.
        run: takes a name; raises HarnessError or KeyboardInterrupt.
        key: of the results in the JSON document.
        facts: rows of a result's column in the table, by heading.
        remarks: lines about a result for stderr.
        as_json: a document in place of the table.
    """
    results: list[Result] = []
    documents: list[Any] = []
    statuses: list[int] = []
    interrupted = False
    for name in boards:
        try:
            result = run(name)
        except KeyboardInterrupt:
            interrupted = True
            break
        except HarnessError as exc:
            print_error(f"{name}: {exc.message}" if len(boards) > 1 else exc.message, exc.hint)
            documents.append(_failed(name, exc))
            statuses.append(exit_status(exc))
            continue
        results.append(result)
        documents.append(result.to_dict())
        statuses.append(int(not result.verdict.good))
        if interrupted := result.interrupted:
            break
    if as_json:
        print_json({key: documents})
    elif results:
        _print(results, facts, remarks)
    sys.exit(INTERRUPTED if interrupted else max(statuses))


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
