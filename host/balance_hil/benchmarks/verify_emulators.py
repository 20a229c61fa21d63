"""Verifies every emulator against its runtime, layer by layer: ``python -m balance_hil.benchmarks.verify_emulators``.

Then every output in which two of the runtimes differ is attributed to a cause. Exit status 1 when one value differs from its
emulator's or is left without a cause. A nightly job: a few minutes with the defaults. ``hil bench emulators`` measures speed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from itertools import combinations

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from balance_hil.comparing.attribution import Observed, attribute
from balance_hil.runtimes.base import Int8Array
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.testing.converted_models import converted_models
from balance_hil.testing.converted_models import converted_networks as from_converter
from balance_hil.testing.verify_emulators import (
    LITERT_RUNTIMES,
    TENSORFLOW_RUNTIMES,
    Agreement,
    RuntimeUnderTest,
    agreement,
    random_inputs,
    random_networks,
    synthetic_models,
)
from balance_hil.tflite.graph import read_graph

DIFFERING, UNEXPLAINED = "differing outputs", "unexplained"


@click.command()
@click.option("--converted", default=32, show_default=True, help="Dense models from the TensorFlow converter.")
@click.option("--synthetic", default=8, show_default=True, help="Dense models written without a converter.")
@click.option("--inputs", default=20_000, show_default=True, help="Random inputs for each of these.")
@click.option("--networks", default=36, show_default=True, help="Random convolutional networks written without a converter.")
@click.option("--converted-networks", default=6, show_default=True, help="Convolutional networks from the TensorFlow converter.")
@click.option("--network-inputs", default=2000, show_default=True, help="Random inputs for each of these.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout instead of a table.")
def main(
    converted: int, synthetic: int, inputs: int, networks: int, converted_networks: int, network_inputs: int, as_json: bool
) -> None:
    """Compares every emulator with its runtime: final outputs, and every operator's output given equal inputs."""
    references = LITERT_RUNTIMES + (TENSORFLOW_RUNTIMES if converted or converted_networks else ())
    totals = {reference.name: Agreement(0, 0, 0, 0) for reference in references}
    attributed: Counter[str] = Counter()
    dense = [*converted_models(converted), *synthetic_models(synthetic)]
    images = [*random_networks(networks), *from_converter(converted_networks)]
    models = [(*each, inputs) for each in dense] + [(*each, network_inputs) for each in images]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("models", total=len(models) * len(references))
        for seed, (name, model, count) in enumerate(models):
            rows = random_inputs(count, read_graph(model).n_obs, seed)
            for reference in references:
                progress.update(task, description=f"{reference.name}: {name}")
                totals[reference.name] += agreement(reference.make(model), EmulatedRuntime(model, reference.variant), rows)
                progress.advance(task)
            attributed.update(_attributed(references, model, rows))
    if as_json:
        runtimes = {name: asdict(total) for name, total in totals.items()}
        document = {"models": len(models), "runtimes": runtimes, "pairs": dict(attributed)}
        click.echo(json.dumps(document, indent=2))
    else:
        Console().print(_table(references, totals, len(models)))
        Console().print("all pairs of runtimes: " + ", ".join(f"{count:,} {what}" for what, count in attributed.items()))
    sys.exit(any(total.differing_outputs or total.differing_values for total in totals.values()) or attributed[UNEXPLAINED] > 0)


def _attributed(references: tuple[RuntimeUnderTest, ...], model: bytes, rows: Int8Array) -> Counter[str]:
    """Differing outputs over all pairs of runtimes, those of each cause, and those without one."""
    graph = read_graph(model)
    seen = [
        Observed(name=reference.name, variant=reference.variant, outputs=reference.make(model).infer_int8_batch(rows))
        for reference in references
    ]
    counts = Counter({DIFFERING: 0, UNEXPLAINED: 0})
    for a, b in combinations(seen, 2):
        found = attribute(graph, rows, a, b)
        counts.update({DIFFERING: found.differing, UNEXPLAINED: found.unexplained, **found.causes})
    return counts


def _table(references: tuple[RuntimeUnderTest, ...], totals: dict[str, Agreement], models: int) -> Table:
    table = Table("runtime", "emulator", title=f"{models} models; layer values with equal layer inputs")
    for heading in ("outputs", "differing", "layer values", "differing"):
        table.add_column(heading, justify="right")
    for reference in references:
        total = totals[reference.name]
        numbers = (total.outputs, total.differing_outputs, total.values, total.differing_values)
        table.add_row(reference.name, reference.variant.name, *(f"{number:,}" for number in numbers))
    return table


if __name__ == "__main__":
    main()
