"""``hil verify --emulators``: every emulator against its runtime, layer by layer, on many models; each is a task of a campaign.

Then every output in which two of the runtimes differ is attributed to a cause. ``hil bench emulators`` measures speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from importlib.util import find_spec
from itertools import combinations
from operator import add
from typing import Any

from balance_hil.comparing.attribution import Observed, attribute
from balance_hil.farm.campaign import HERE, Campaign, Task
from balance_hil.metrics import Verdict
from balance_hil.quantize import INT16X8
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.native_stderr import captured_stderr
from balance_hil.testing.converted_models import converted_model, converted_network
from balance_hil.testing.verify_emulators import (
    INT16_RUNTIMES,
    LITERT_RUNTIMES,
    TENSORFLOW_RUNTIMES,
    Agreement,
    RuntimeUnderTest,
    agreement,
    int16_model,
    int16_network,
    network,
    random_inputs,
    synthetic_model,
)
from balance_hil.tflite.graph import read_graph

DIFFERING, UNEXPLAINED = "differing outputs", "unexplained"
MODELS, INPUTS = 36, 20_000


def runtimes() -> tuple[RuntimeUnderTest, ...]:
    """Those that are installed here: TensorFlow's own are the second version of its kernels."""
    return LITERT_RUNTIMES + (TENSORFLOW_RUNTIMES if find_spec("tensorflow") else ())


@dataclass(frozen=True)
class Kind:
    """Models that are made from seeds."""

    make: Callable[[int], bytes]
    models: int  # at most
    inputs: int
    converted: bool = False  # by TensorFlow
    runtimes: Callable[[], tuple[RuntimeUnderTest, ...]] = runtimes  # that run them


KINDS = {
    "converted": Kind(converted_model, 32, INPUTS, converted=True),
    "synthetic": Kind(synthetic_model, 8, INPUTS),
    "int16x8": Kind(int16_model, 16, INPUTS, runtimes=lambda: INT16_RUNTIMES),
    "network": Kind(network, MODELS, INPUTS // 10),
    "int16x8 network": Kind(int16_network, MODELS, INPUTS // 10, runtimes=lambda: INT16_RUNTIMES),
    "converted network": Kind(converted_network, 6, INPUTS // 10, converted=True),
    "converted int16x8 network": Kind(
        partial(converted_network, element=INT16X8), 3, INPUTS // 10, converted=True, runtimes=lambda: INT16_RUNTIMES
    ),
}


@dataclass(frozen=True)
class Verified:
    """How far the emulators agree with their runtimes."""

    models: int
    runtimes: dict[str, Agreement]
    pairs: Counter[str]  # differing outputs over all pairs of runtimes, those of each cause, and those without one

    @property
    def verdict(self) -> Verdict:
        """Good: no value differs from its emulator's, and no difference of two runtimes is without a cause."""
        differ = [name for name, total in self.runtimes.items() if total.differing_outputs or total.differing_values]
        unexplained = self.pairs[UNEXPLAINED]
        return Verdict(
            tuple(f"{name} differs from its emulator" for name in differ)
            + ((f"{unexplained} differences are without a cause",) if unexplained else ())
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        runtimes = {name: asdict(total) for name, total in self.runtimes.items()}
        return {"models": self.models, "runtimes": runtimes, "pairs": dict(self.pairs), "verdict": self.verdict.to_dict()}


def verify_emulators(
    models: int = MODELS,
    inputs: int = INPUTS,
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> Verified:
    """At most so many models of each kind, and inputs of each model; ``on_progress`` gets the completed share, 0..1.

    Raises:
        MissingExtraError: a runtime is not installed.
        ClusterError: see ``Campaign.run``.
    """
    tasks: list[Task] = []
    every: dict[str, None] = {}
    for name, kind in KINDS.items():
        rows, names = min(inputs, kind.inputs), [each.name for each in kind.runtimes()]
        every |= dict.fromkeys(names)
        for seed in range(min(models, kind.models) if find_spec("tensorflow") or not kind.converted else 0):
            tasks.append(Task(f"{name} {seed}", (name, seed, rows, names), {"inputs": rows, "runtimes": names}))
    totals = {name: Agreement(0, 0, 0, 0) for name in every}
    pairs: Counter[str] = Counter()
    for done, (task, result) in enumerate(campaign.run(_verify, tasks), start=1):
        found = {name: Agreement(**values) for name, values in result["runtimes"].items()}
        totals |= {name: totals[name] + agreed for name, agreed in found.items()}
        pairs.update(result["pairs"])
        total = reduce(add, totals.values())
        on_progress(done / len(tasks), f"{task.name}; {total.differing_values:,} of {total.values:,} values differ so far")
    return Verified(len(tasks), totals, Counter(dict(sorted(pairs.items()))))


def _verify(kind: str, seed: int, inputs: int, references: Sequence[str]) -> dict[str, Any]:
    """Runs in a worker process."""
    with captured_stderr():  # the converter logs its progress
        model = KINDS[kind].make(seed)
    graph = read_graph(model)
    rows = random_inputs(inputs, graph.n_obs, seed, graph.kind)
    seen, agreements = [], {}
    for reference in (each for each in KINDS[kind].runtimes() if each.name in references):
        runtime = reference.make(model)
        agreements[reference.name] = asdict(agreement(runtime, EmulatedRuntime(model, reference.variant), rows))
        seen.append(Observed(name=reference.name, variant=reference.variant, outputs=runtime.infer_raw_batch(rows)))
    counts = Counter({DIFFERING: 0, UNEXPLAINED: 0})
    for a, b in combinations(seen, 2):
        found = attribute(graph, rows, a, b)
        counts.update({DIFFERING: found.differing, UNEXPLAINED: found.unexplained, **found.causes})
    return {"runtimes": agreements, "pairs": dict(counts)}
