"""The index page of a bench: boards, last verdicts, flaky tests and trends, from the results database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape

from balance_hil.history import Result, series, turns, usual, values
from balance_hil.reporting.page import Html, filled, marked, section, table_of

MOST_TURNS = 50
MOST_FLAKY = 100
_STRIP = 20  # verdicts that a strip shows
_WIDTH, _HEIGHT, _EDGE = 160, 24, 3


def render_index(results: Sequence[Result], source: str) -> str:
    """The page about ``results``, oldest first; ``source`` names where they come from."""
    lines = list(series(results).values())
    sections = [
        section("Boards", _boards(results)),
        section("Trends", *_trends(lines)),
        section("Flaky tests", _flaky(results)),
        section("What turned", _turns(results)),
        section("Commands", _commands()),
    ]
    return filled("Results over time", _head(lines, results, source), sections, {}, plots=False)


def _head(lines: Sequence[Sequence[Result]], results: Sequence[Result], source: str) -> str:
    bad = [each[-1] for each in lines if not each[-1].good]
    word, state = ("FAIL", "bad") if bad else ("PASS", "good")
    said = [f"{_name(each)}: {'; '.join(each.reasons) or 'failed'}" for each in bad]
    said = said or ["the last result of every series is good"]
    flaky = {test for each in lines for test in each[-1].flaky}
    boards = {each.board for each in results if each.board}
    tiles = [
        (f"{len(boards)}", "boards", ""),
        (f"{len(results)}", "results", ""),
        (f"{len(lines) - len(bad)} of {len(lines)}", "series good", state),
    ]
    tiles.append((f"{len(flaky)}", "flaky tests, last time", "warn" if flaky else "good"))
    shown = "".join(f'<div class="{state}"><b>{escape(text)}</b>{escape(name)}</div>' for text, name, state in tiles)
    items = "".join(f"<li>{escape(line)}</li>" for line in said)
    span = f"{source}, {_when(results[0])} to {_when(results[-1])}" if results else f"{source}: no results"
    return (
        f'<div class="verdict {state}"><b>{word}</b><ul>{items}</ul></div><div class="tiles">{shown}</div>'
        f'<p class="lead">{escape(span)}</p>'
    )


def _boards(results: Sequence[Result]) -> str:
    rows = []
    for board in sorted({each.board for each in results if each.board}):
        own = [each for each in results if each.board == board]
        bad = [each[-1] for each in series(own).values() if not each[-1].good]
        now = f"FAIL: {'; '.join(' '.join(filter(None, (each.command, each.bundle))) for each in bad)}" if bad else "PASS"
        firmware = ", ".join(filter(None, (own[-1].engine, own[-1].firmware)))
        rows.append([board, marked(now, "bad" if bad else "good"), _strip(own), firmware, _when(own[-1])])
    return table_of(["board", "last of each series", "verdicts", "engine, firmware", "last result"], rows, left=5)


def _trends(lines: Sequence[Sequence[Result]]) -> list[str]:
    heads = ["what", "bundle", "board", "verdicts", "metric", "trend", "last", "ratio"]
    rows: list[list[str]] = []
    more: list[list[str]] = []
    for each in lines:
        last = each[-1]
        cells: list[str] = [f"{last.command} {last.variant}".strip(), last.bundle, last.board]
        shown = usual(each)
        rows += [
            [*(cells if i == 0 else [""] * 3), _strip(each) if i == 0 else "", *_metric(each, name)]
            for i, name in enumerate(shown or [""])
        ]
        rest = sorted({name for one in each for name in (*one.metrics, *one.timing)} - set(shown))
        more += [[*(cells if i == 0 else [""] * 3), "", *_metric(each, name)] for i, name in enumerate(rest)]
    table = table_of(heads, rows, left=6)
    details = f"<details><summary>every metric and timing</summary>{table_of(heads, more, left=6)}</details>" if more else ""
    return [table, details]


def _metric(each: Sequence[Result], name: str) -> list[str]:
    numbers = [value for value in values(each, name) if value is not None]
    ratio = f"{numbers[-1] / numbers[-2]:.3g}" if len(numbers) > 1 and numbers[-2] else ""
    return [name, sparkline(numbers, name), f"{numbers[-1]:.4g}" if numbers else "", ratio]


def sparkline(numbers: Sequence[float], name: str) -> Html:
    """A small chart: the numbers from left to right between least and greatest, the last one marked."""
    if not numbers:
        return Html("")
    least, greatest = min(numbers), max(numbers)
    step = (_WIDTH - 2 * _EDGE) / max(1, len(numbers) - 1)
    height = _HEIGHT - 2 * _EDGE
    points = [
        (_EDGE + i * step, _HEIGHT - _EDGE - (height * (value - least) / (greatest - least) if greatest > least else height / 2))
        for i, value in enumerate(numbers)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    title = f"{name}: {', '.join(f'{value:.4g}' for value in numbers[-_STRIP:])}"
    return Html(
        f'<svg class="trend" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<title>{escape(title)}</title><polyline points="{path}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></svg>'
    )


def _strip(results: Sequence[Result]) -> Html:
    """The last verdicts as marks, oldest first: high and green, or low and red."""
    marks = ""
    for i, each in enumerate(results[-_STRIP:]):
        state, top = ("good", 0) if each.good else ("bad", 8)
        title = escape(f"{_when(each)} {_word(each)}")
        marks += f'<rect class="{state}" x="{8 * i}" y="{top}" width="6" height="{16 - top}"><title>{title}</title></rect>'
    said = "".join("✓" if each.good else "✗" for each in results[-_STRIP:])
    return Html(f'<svg class="verdicts" viewBox="0 0 {8 * _STRIP} 16" role="img" aria-label="verdicts {said}">{marks}</svg>')


def _turns(results: Sequence[Result]) -> str:
    found = turns(results)[-MOST_TURNS:]
    rows = [
        [
            _when(turn.result),
            marked("PASS", "good") if turn.result.good else marked("FAIL", "bad"),
            _name(turn.result),
            turn.what,
            ", ".join(turn.changed) or "nothing that is known",
        ]
        for turn in reversed(found)
    ]
    heads = ["when", "now", "series", "what", "changed with it"]
    return table_of(heads, rows, left=5) or '<p class="lead">nothing</p>'


def _flaky(results: Sequence[Result]) -> str:
    counts: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], Result] = {}
    for each in results:
        for test in each.flaky:
            counts[each.board, test] = counts.get((each.board, test), 0) + 1
            last[each.board, test] = each
    order = sorted(counts, key=lambda key: (-counts[key], key))[:MOST_FLAKY]
    rows = [[test, board, _when(last[board, test]), f"{counts[board, test]}"] for board, test in order]
    return table_of(["test", "board", "last", "times"], rows, left=3) or '<p class="lead">none</p>'


def _commands() -> str:
    line = '<p class="command"><span>{}</span><code>{}</code><button type="button" data-copy>copy</button></p>'
    commands = {"the same in the terminal": "hil history", "this page again": "hil report --history"}
    return "".join(line.format(escape(what), escape(text)) for what, text in commands.items())


def _word(result: Result) -> str:
    return "PASS" if result.good else f"FAIL: {'; '.join(result.reasons) or 'failed'}"


def _name(result: Result) -> str:
    return " ".join(filter(None, (result.command, result.variant, result.bundle, result.board)))


def _when(result: Result) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(result.time_s))
