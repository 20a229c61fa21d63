"""Verifies the emulators against every real runtime, and times them: ``python host/benchmarks/emulators.py``.

Exit status 1 when one value differs. A nightly job: about ten minutes with the defaults.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from balance_hil.runtimes.base import Int8Array, Int8Runtime
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.synthetic import actor
from balance_hil.runtimes.emulated.verification import (
    LITERT_SUBJECTS,
    TENSORFLOW_SUBJECTS,
    Agreement,
    Subject,
    agreement,
    converted_models,
    random_inputs,
    synthetic_models,
)
from balance_hil.runtimes.tflite_graph import read_graph

_REPEATS = 5  # the fastest counts: other programs only ever make a run slower
_ROWS_ONE_BY_ONE = 300
_ROWS_TOGETHER = 20_000


@click.command()
@click.option("--converted", default=32, show_default=True, help="Models from the TensorFlow converter.")
@click.option("--synthetic", default=8, show_default=True, help="Models written without a converter.")
@click.option("--inputs", default=20_000, show_default=True, help="Random inputs for each model.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of tables.")
def main(converted: int, synthetic: int, inputs: int, as_json: bool) -> None:
    """Compares every emulator with its runtime on every model, layer by layer, and measures throughput."""
    subjects = LITERT_SUBJECTS + (TENSORFLOW_SUBJECTS if converted else ())
    totals = {subject.name: Agreement(0, 0, 0, 0) for subject in subjects}
    models = [*converted_models(converted), *synthetic_models(synthetic)]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("models", total=len(models) * len(subjects))
        for seed, (name, model) in enumerate(models):
            rows = random_inputs(inputs, read_graph(model).n_obs, seed)
            for subject in subjects:
                progress.update(task, description=f"{subject.name}: {name}")
                totals[subject.name] += agreement(subject.make(model), EmulatedRuntime(model, subject.variant), rows)
                progress.advance(task)
    speeds = [_speed(subject) for subject in LITERT_SUBJECTS]
    if as_json:
        document = {"models": len(models), "runtimes": {k: asdict(v) for k, v in totals.items()}, "throughput": speeds}
        click.echo(json.dumps(document, indent=2))
    else:
        Console().print(_agreement_table(subjects, totals, len(models)), _speed_table(speeds))
    sys.exit(any(total.differing_outputs or total.differing_values for total in totals.values()))


def _agreement_table(subjects: tuple[Subject, ...], totals: dict[str, Agreement], models: int) -> Table:
    table = Table(
        "runtime", "emulator", title=f"emulators against runtimes, {models} models; layer values with equal layer inputs"
    )
    for heading in ("outputs", "differing", "layer values", "differing"):
        table.add_column(heading, justify="right")
    for subject in subjects:
        total = totals[subject.name]
        numbers = (total.outputs, total.differing_outputs, total.values, total.differing_values)
        table.add_row(subject.name, subject.variant.name, *(f"{number:,}" for number in numbers))
    return table


def _speed(subject: Subject) -> dict[str, str | float]:
    model = actor((6, 32, 32, 2), "RELU", per_channel=True, seed=1)
    runtime, emulator = subject.make(model), EmulatedRuntime(model, subject.variant)
    rows = random_inputs(_ROWS_TOGETHER, 6, 0)
    few = rows[:_ROWS_ONE_BY_ONE]
    infer_s = _fastest_s(lambda: _infer_one_by_one(runtime, few)) / len(few)
    layers_s = _fastest_s(lambda: _layers_one_by_one(runtime, few)) / len(few)
    emulated_infer_s = _fastest_s(lambda: emulator.infer_int8_batch(rows)) / len(rows)
    emulated_layers_s = _fastest_s(lambda: emulator.layers_int8_batch(rows)) / len(rows)
    return {
        "runtime": subject.name,
        "infer_us": infer_s * 1e6,
        "emulated_infer_us": emulated_infer_s * 1e6,
        "infer_ratio": infer_s / emulated_infer_s,
        "layers_us": layers_s * 1e6,
        "emulated_layers_us": emulated_layers_s * 1e6,
        "layers_ratio": layers_s / emulated_layers_s,
    }


def _speed_table(speeds: list[dict[str, str | float]]) -> Table:
    table = Table("runtime", title="µs per input, 6-32-32-2 relu: the runtime row by row, the emulator in one batch")
    for heading in ("output", "emulated", "ratio", "every layer", "emulated", "ratio"):
        table.add_column(heading, justify="right")
    for speed in speeds:
        name, *numbers = speed.values()
        table.add_row(str(name), *(f"{number:.2f}" for number in numbers))
    return table


def _infer_one_by_one(runtime: Int8Runtime, rows: Int8Array) -> None:
    for row in rows:
        runtime.infer_int8(row)


def _layers_one_by_one(runtime: Int8Runtime, rows: Int8Array) -> None:
    for row in rows:
        runtime.layers_int8_batch(row[None])


def _fastest_s(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
