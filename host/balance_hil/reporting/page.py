"""The page: one self-contained HTML file, without network access. Every text goes through ``escape``."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from balance_hil.errors import HarnessError
from balance_hil.reporting.charts import chart_data, code_strip, histogram
from balance_hil.reporting.collect import PROPAGATED, UNEXPLAINED, Comparison, Difference, Sources
from balance_hil.reporting.frames import Strip
from balance_hil.reporting.runs import MISSED, Run, episode_metrics
from balance_hil.reporting.tables import Row, commands, engine_rows, identity_rows, occupancy, result_rows, timing_rows

ASSETS = Path(__file__).with_name("assets")
MAX_EVENT_ROWS = 200
MAX_EPISODE_ROWS = 200
_PALETTE = 8  # colors of runs and causes in page.html


class Html(str):
    """Text that is markup already: it is not escaped again."""

    __slots__ = ()


def render_page(sources: Sources, strips: Mapping[str, Strip | HarnessError]) -> str:
    """The page about ``sources``; ``strips`` are pictures of its runs, by label, or why there are none."""
    runs = sources.runs
    sections = [
        section("Result", _results(runs)),
        section("Plant", _strips(strips)),
        section("Over time", _charts(runs), note="drag to zoom, double-click for all") if runs else "",
        section("Latency", *_latency(runs)),
        section("Faults and misses", _faults(runs)) if runs else "",
        section("Differences between runtimes", *[_comparison(each) for each in sources.comparisons]),
        section("int8 ranges", _int8(runs)),
        section("Engine and memory", _columns(runs, engine_rows(runs))),
        section("Episodes", _episodes(runs)),
        section("Identity", _identity(runs)),
        section("Commands", _commands(runs)),
    ]
    return filled(_title(sources), _head(sources), sections, chart_data(runs))


def filled(title: str, head: str, sections: Iterable[str], data: object, *, plots: bool = True) -> str:
    """The template, with markup in ``head`` and ``sections``; without ``plots`` the plotting library is left out."""
    scripts = [(ASSETS / "uPlot.iife.min.js").read_text() if plots else "", (ASSETS / "page.js").read_text()]
    return Template((ASSETS / "page.html").read_text()).substitute(
        title=escape(title),
        # Whatever a recording holds, nothing but these two scripts can run.
        hashes=" ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts),
        uplot_css=(ASSETS / "uPlot.min.css").read_text() if plots else "",
        head=head,
        sections="\n".join(filter(None, sections)),
        data=_embedded(data),
        uplot=scripts[0],
        script=scripts[1],
    )


def _embedded(data: object) -> str:
    """JSON within <script>: no character of it can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _title(sources: Sources) -> str:
    if len(sources.runs) == 1:
        return sources.runs[0].label
    if sources.runs:
        return f"{len(sources.runs)} runs: {', '.join(run.label for run in sources.runs)}"
    return ", ".join(each.path.name for each in sources.comparisons)


def _head(sources: Sources) -> str:
    verdict = sources.verdict
    word, state = ("PASS", "good") if verdict.good else ("FAIL", "bad")
    named = len(sources.runs) + len(sources.comparisons) > 1
    if verdict.good:
        lines = [f"{run.label}: {run.summary}" if named else run.summary for run in sources.runs]
        lines += [f"{each.path.name}: {each.summary}" if named else each.summary for each in sources.comparisons]
    else:
        lines = list(verdict.reasons)
    notes = [f"{path}: {exc.message} ({exc.hint})" for path, exc in sources.unreadable]
    notes += [
        f"{run.path.name}: {run.recording.missing}"
        for run in sources.runs
        if run.recording.missing not in ("", *run.verdict.reasons)
    ]
    notes += [f"{sources.left_out} older recordings of the folder are left out"] if sources.left_out else []
    tiles = _tiles(sources.runs[0]) if len(sources.runs) == 1 else ""
    return (
        f'<div class="verdict {state}"><b>{word}</b><ul>{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul></div>{tiles}'
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    )


def _tiles(run: Run) -> str:
    """What a stranger asks first about one run; the table below has the same and the rest."""
    rows = {row.name: row for row in result_rows([run])}
    names = ("episodes without failure", "board equals tflm", "misses", "round trip, p99")
    faults = sum(count for kind, count in run.counts.items() if kind not in MISSED)
    shown = [(name, rows[name].cells[0].text, rows[name].cells[0].state) for name in names]
    shown.append(("other faults", f"{faults}", "warn" if faults else "good"))
    tiles = "".join(f'<div class="{state}"><b>{escape(text)}</b>{escape(name)}</div>' for name, text, state in shown)
    return f'<div class="tiles">{tiles}</div>'


def section(title: str, *parts: str, note: str = "") -> str:
    """A section of markup; nothing where its parts are empty."""
    content = "".join(parts)
    if not content:
        return ""
    more = f" <small>{escape(note)}</small>" if note else ""
    return f"<section><h2>{escape(title)}{more}</h2>{content}</section>"


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1, right: int = 0) -> str:
    """A table; the first ``left`` columns and the last ``right`` are text, those between numbers."""
    end = len(heads) - right
    lines = [f"<tr>{''.join(_cell('th', each, left <= i < end) for i, each in enumerate(row))}</tr>" for row in (heads,)]
    lines += [f"<tr>{''.join(_cell('td', each, left <= i < end) for i, each in enumerate(row))}</tr>" for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>' if len(lines) > 1 else ""


def _cell(tag: str, text: str, number: bool) -> str:
    return f"<{tag}{' class=number' if number else ''}>{text if isinstance(text, Html) else escape(text)}</{tag}>"


def marked(text: str, state: str) -> Html:
    """The word is marked as well as colored."""
    mark = {"good": "✓ ", "bad": "✗ ", "warn": "! "}.get(state, "")
    return Html(f'<span class="{state}">{mark}{escape(text)}</span>')


def _key(run: Run, index: int, of: int) -> Html:
    """A run's label, with its color where there are several."""
    swatch = f'<i class="run{index % _PALETTE}"></i>' if of > 1 else ""
    return Html(swatch + escape(run.label))


def _columns(runs: Sequence[Run], rows: Sequence[Row], target: bool = False) -> str:
    heads = ["", *(_key(run, i, len(runs)) for i, run in enumerate(runs)), *(["target"] if target else [])]
    lines = [
        [row.name, *(marked(cell.text, cell.state) for cell in row.cells), *([row.target] if target else [])] for row in rows
    ]
    return table_of(heads, lines, left=len(heads))


def _results(runs: Sequence[Run]) -> str:
    return _columns(runs, result_rows(runs), target=True) if runs else ""


def _identity(runs: Sequence[Run]) -> str:
    table = _columns(runs, identity_rows(runs))
    return (
        f"<details class=print><summary>bundle, firmware, engine, versions, settings</summary>{table}</details>" if table else ""
    )


def _strips(strips: Mapping[str, Strip | HarnessError]) -> str:
    shown = ""
    missing: dict[str, list[str]] = {}  # reason, runs
    for label, strip in strips.items():
        if isinstance(strip, HarnessError):
            missing.setdefault(f"no pictures: {strip.message} ({strip.hint})", []).append(label)
            continue
        figures = "".join(
            f'<figure><img alt="the plant at {at_s:.2f} s" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f"<figcaption>{at_s:.2f} s</figcaption></figure>"
            for at_s, png in strip.frames
        )
        shown += f'<p class="lead">{escape(label)}. {escape(strip.title)}</p><div class="strip">{figures}</div>'
    return shown + "".join(f'<p class="note">{escape(", ".join(labels))}: {escape(why)}</p>' for why, labels in missing.items())


def _charts(runs: Sequence[Run]) -> str:
    buttons = "".join(
        f'<button type="button" data-zoom="{what}">{text}</button>'
        for what, text in (("all", "show all"), ("previous", "◀ previous event"), ("next", "next event ▶"))
    )
    legend = "".join(f"<span>{_key(run, i, len(runs))}</span>" for i, run in enumerate(runs))
    return (
        f'<div class="controls">{buttons}<span class="legend">{legend}</span></div>'
        '<noscript><p class="note">The curves need JavaScript.</p></noscript><div id="charts"></div>'
    )


def _latency(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    heads = ["microseconds", "", "count", "p50", "p99", "p99.9", "max"]
    table = table_of(heads, timing_rows(runs), left=2)
    period_ms = runs[0].period_us / 1e3
    mark = f"control period {period_ms:g} ms"
    columns = {"round trip, ms": "round_trip_us", "tick jitter, ms": "jitter_us"}
    drawn = [
        histogram([getattr(run.recording, column) / 1e3 for run in runs], period_ms, mark, axis)
        for axis, column in columns.items()
    ]
    if not table:
        return ['<p class="lead">In lockstep the plant waits for the board: nothing is timed.</p>']
    return [f'<div class="pair">{"".join(drawn)}</div>', table]


def _faults(runs: Sequence[Run]) -> str:
    kinds = list(dict.fromkeys(kind for run in runs for kind in run.counts))
    if not kinds:
        return '<p class="lead">none</p>'
    heads = ["", *(_key(run, i, len(runs)) for i, run in enumerate(runs))]
    table = table_of(heads, [[kind, *(f"{run.counts.get(kind, 0):,}" for run in runs)] for kind in kinds])
    lists = []
    for run in runs:
        rows = [
            (f"{fault['t_s']:.3f} s", f"{fault['episode']}", f"{fault['step']}", str(fault["kind"]), str(fault.get("detail", "")))
            for fault in run.recording.faults[:MAX_EVENT_ROWS]
        ]
        rest = len(run.recording.faults) - len(rows)
        more = f'<p class="lead">and {rest:,} more</p>' if rest else ""
        summary = escape(f"{run.label}: every event" if len(runs) > 1 else "every event")
        events = table_of(("time", "episode", "step", "kind", "detail"), rows, left=5)
        lists.append(f"<details><summary>{summary}</summary>{events}{more}</details>" if rows else "")
    return table + "".join(lists)


def _int8(runs: Sequence[Run]) -> str:
    heads = ["", "", "how often each code, -128 to 127", "least", "greatest", "codes used", "saturated"]
    rows: list[Sequence[str]] = []
    for index, run in enumerate(runs):
        recording = run.recording
        answered = ~recording.held
        if not answered.any() or recording.input_int8.dtype.itemsize > 1:  # codes of int8
            continue
        for kind, codes, signals in (
            ("input", recording.input_int8, recording.spec.observation),
            ("output", recording.output_int8, recording.spec.action),
        ):
            for found in occupancy(codes[answered], [signal.name for signal in signals]):
                numbers = (f"{found.low}", f"{found.high}", f"{found.codes} of 256", f"{found.saturated:.2%}")
                name = f"{kind} {found.signal}"
                rows.append(
                    (name, _key(run, index, len(runs)) if len(runs) > 1 else "", Html(code_strip(found.shares)), *numbers)
                )
    order = {name: i for i, name in enumerate(dict.fromkeys(row[0] for row in rows))}
    return table_of(heads, sorted(rows, key=lambda row: order[row[0]]), left=3)


def _comparison(comparison: Comparison) -> str:
    causes = [c for row in (*comparison.pairs, *comparison.layers) for c in row.causes]
    known = [cause for cause in dict.fromkeys(causes) if cause not in (PROPAGATED, UNEXPLAINED)]
    styles = {cause: f"run{i % _PALETTE}" for i, cause in enumerate(known)} | {PROPAGATED: "propagated", UNEXPLAINED: "late"}
    used = [cause for cause in (*known, PROPAGATED, UNEXPLAINED) if cause in causes]
    legend = "".join(f'<span><i class="{styles[cause]}"></i>{escape(cause)}</span>' for cause in used)
    pairs, layers = (
        table_of(
            (title, "", "differing", "of", "max LSB", "causes"),
            [_difference_row(row, styles, max(each.differing for each in rows)) for row in rows],
            left=2,
            right=1,
        )
        for title, rows in (("outputs", comparison.pairs), ("layers", [row for row in comparison.layers if row.differing]))
    )
    skipped = "".join(f'<p class="note">{escape(f"{runtime} was skipped: {why}")}</p>' for runtime, why in comparison.skipped)
    state = marked(comparison.verdict.line if comparison.verdict.reasons else f"PASS: {comparison.summary}", _word(comparison))
    lead = f'<p class="lead">{escape(comparison.path.name)}, {comparison.inputs:,} inputs. {state}</p>'
    details = f"<details open><summary>layer by layer</summary>{layers}</details>" if layers else ""
    return f'{lead}{skipped}<div class="legend">{legend}</div>{pairs}{details}'


def _word(comparison: Comparison) -> str:
    return "good" if comparison.verdict.good else "bad"


def _difference_row(row: Difference, styles: Mapping[str, str], most: int) -> list[str]:
    """``most`` differing values fill the bar."""
    at = 0.0
    parts = []
    for cause, count in row.causes.items():
        width = 200 * count / max(1, most)
        title = escape(f"{cause}: {count:,}")
        parts.append(f'<rect class="{styles[cause]}" x="{at:.1f}" width="{width:.1f}" height="12"><title>{title}</title></rect>')
        at += width
    words = escape(", ".join(f"{cause} {count:,}" for cause, count in row.causes.items()))
    bar = Html(f'<svg class="bar" viewBox="0 0 200 12" role="img" aria-label="{words}">{"".join(parts)}</svg>')
    return [f"{row.a} and {row.b}", row.where, f"{row.differing:,}", f"{row.values:,}", f"{row.max_lsb}", bar]


def _episodes(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for each in run.recording.episodes for name in episode_metrics(each)))
    rows = []
    for index, run in enumerate(runs):
        for each in run.recording.episodes[:MAX_EPISODE_ROWS]:
            failed = bool(each.get("failed", True))
            numbers = [f"{episode_metrics(each)[name]:.4g}" if name in episode_metrics(each) else "" for name in names]
            outcome = marked("failed" if failed else "good", "bad" if failed else "good")
            rows.append([_key(run, index, len(runs)), f"{each.get('seed', '')}", outcome, f"{each.get('steps', '')}", *numbers])
    return table_of(["", "seed", "outcome", "steps", *names], rows, left=3)


def _commands(runs: Sequence[Run]) -> str:
    lines = dict.fromkeys((what, command) for run in runs for what, command in commands(run))
    line = '<p class="command"><span>{}</span><code>{}</code><button type="button" data-copy>copy</button></p>'
    return "".join(line.format(escape(what), escape(text)) for what, text in lines)
