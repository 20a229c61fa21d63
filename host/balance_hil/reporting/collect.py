"""What a page is about: recordings and comparisons, read as far as they can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from balance_hil.errors import HarnessError, RecordingError, UsageError
from balance_hil.files import parse_json
from balance_hil.metrics import Verdict
from balance_hil.recording import Recording, read_recording
from balance_hil.recording.folder import recordings_in
from balance_hil.recording.reader import recording_errors
from balance_hil.recording.writer import PARTIAL
from balance_hil.reporting.runs import Run, facts, run_of
from balance_hil.reporting.tables import engine_rows, identity_rows, result_rows

MAX_RUNS = 12  # side by side; of a folder with more, the newest
COMPARISON = "balance_hil/compare@2"
PROPAGATED, UNEXPLAINED = "propagated from the layers before", "unexplained or not attributed"
PARSE_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What differs between two runtimes: in their outputs, or in those of one layer."""

    a: str
    b: str
    where: str  # the layer; "" for the outputs
    values: int  # compared
    differing: int
    max_lsb: int
    causes: dict[str, int]  # of the differing values; they add up

    @classmethod
    def of(cls, row: Mapping[str, Any], values: str, causes: Mapping[str, Any], where: str) -> Difference:
        """From a row of the document. Raises KeyError, TypeError or ValueError."""
        counts = {str(name): int(count) for name, count in causes.items() if count}
        differing = int(row["differing"])
        if rest := differing - sum(counts.values()):
            counts[UNEXPLAINED] = rest
        return cls(
            a=str(row["a"]),
            b=str(row["b"]),
            where=where,
            values=int(row[values]),
            differing=differing,
            max_lsb=int(row["max_lsb"]),
            causes=counts,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A document of ``hil compare --json``."""

    path: Path
    verdict: Verdict
    summary: str
    inputs: int
    pairs: list[Difference]
    layers: list[Difference]
    skipped: list[tuple[str, str]]  # runtime, why


@dataclass(kw_only=True)
class Sources:
    """What was given to a report."""

    runs: list[Run] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    unreadable: list[tuple[Path, HarnessError]] = field(default_factory=list)
    left_out: int = 0  # recordings of a folder beyond MAX_RUNS

    @property
    def verdict(self) -> Verdict:
        """Good when every run and every comparison is, and everything could be read."""
        judged = [(run.label, run.verdict) for run in self.runs] + [(each.path.name, each.verdict) for each in self.comparisons]
        named = len(judged) + len(self.unreadable) > 1
        reasons = [f"{name}: {why}" if named else why for name, verdict in judged for why in verdict.reasons]
        reasons += [f"{path.name} could not be read" for path, _ in self.unreadable]
        return Verdict(tuple(reasons))


def read_sources(paths: Sequence[Path]) -> Sources:
    """Reads recordings, comparisons (``hil compare --json``) and folders of them; what cannot be read is listed with the reason.

    Raises:
        RecordingError: nothing of it can be read.
        UsageError: a folder holds none, or more recordings are named than fit side by side.
    """
    sources = Sources()
    found: list[Run] = []
    for path in _expanded(paths, sources):
        try:
            if path.suffix == ".json":
                sources.comparisons.append(_read_comparison(path))
            else:
                recording = read_recording(path)
                with recording_errors(path):
                    run = run_of(path, recording)
                    for table in (result_rows, engine_rows, identity_rows):
                        table([run])  # nonsense in the metadata is found here, not while the page is made
                    found.append(run)
        except HarnessError as exc:
            sources.unreadable.append((path, exc))
    if not found and not sources.comparisons:
        raise sources.unreadable[0][1]
    if len(found) > MAX_RUNS:
        raise UsageError(f"{len(found)} recordings are too many for one page", f"name at most {MAX_RUNS}")
    labels = _labels(found)
    sources.runs = [Run(**{**vars(run), "label": label}) for run, label in zip(found, labels, strict=True)]
    return sources


def _expanded(paths: Sequence[Path], sources: Sources) -> Iterable[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        recordings = recordings_in(path)
        recordings.sort(key=lambda each: (each.stat().st_mtime, each.name))
        documents = [each for each in sorted(path.glob("*.json")) if COMPARISON in each.read_text(errors="replace")[:200]]
        if not recordings and not documents:
            raise UsageError(f"{path} holds no recording and no comparison", "record a run: hil run ppo --board native")
        sources.left_out += max(0, len(recordings) - MAX_RUNS)
        yield from recordings[-MAX_RUNS:]
        yield from documents


def _read_comparison(path: Path) -> Comparison:
    """Raises RecordingError."""
    hint = "write one: hil compare ppo --board native --json > comparison.json"
    try:
        document = parse_json(path.read_bytes())
        if document["schema"] != COMPARISON:
            raise RecordingError(f"{path} is a {document['schema']} document, not {COMPARISON}", hint)
        verdict = document["verdict"]
        reasons = tuple(map(str, verdict["reasons"])) or (() if verdict["good"] is True else ("the comparison failed",))
        return Comparison(
            path=path,
            verdict=Verdict(reasons),
            summary=str(document.get("summary", "")),
            inputs=int(document["inputs"]),
            pairs=[Difference.of(pair, "outputs", pair["causes"] or {}, "") for pair in document["pairs"]],
            layers=[
                Difference.of(
                    layer,
                    "values",
                    (layer.get("new") or {}) | {PROPAGATED: layer.get("propagated") or 0},
                    f"{int(layer['op'])} {layer['operator']}",
                )
                for layer in document["layers"]
            ],
            skipped=[(str(each["runtime"]), str(each["why"])) for each in document["skipped"]],
        )
    except OSError as exc:
        raise RecordingError(f"cannot read {path}: {exc.strerror}", hint) from exc
    except RecordingError:
        raise
    except PARSE_ERRORS as exc:
        raise RecordingError(f"{path} is not a comparison ({type(exc).__name__}: {exc})", hint) from exc


def _labels(runs: Sequence[Run]) -> list[str]:
    """Short names: policy and board, as far as they differ, and one thing more if need be; else the files' names."""
    if len(runs) == 1:
        return [f"{runs[0].policy} on {runs[0].board}"]
    base = [part for part in ([run.policy for run in runs], [run.board for run in runs]) if len(set(part)) > 1]
    more = [
        [f"engine {facts(run.recording).get('engine', '')}" for run in runs],
        [str(run.recording.meta.get("clock", "")) for run in runs],
        [f"firmware {facts(run.recording).get('firmware_commit', '')}" for run in runs],
        [_seeds(run.recording) for run in runs],
        [run.path.name.removesuffix(PARTIAL).removesuffix(".mcap") for run in runs],
        [str(run.path) for run in runs],
    ]
    tried = [
        [", ".join(words) for words in zip(*base, *part, strict=True)]
        for part in ([], *([each] for each in more))
        if base or part
    ]
    return next((labels for labels in tried if len(set(labels)) == len(runs)), [f"{i + 1}" for i in range(len(runs))])


def _seeds(recording: Recording) -> str:
    seeds = recording.meta.get("seeds")
    if not isinstance(seeds, list) or not seeds:
        return "no seed"
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
