"""What is compared: the model of a bundle that boards run, or any ``.tflite`` of a supported element type."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from balance_hil.bundle import Bundle, model_id
from balance_hil.errors import BundleError, UsageError
from balance_hil.quantize import Normalization
from balance_hil.runtimes import bundle_runtime_names, load_model_runtime, load_runtime, model_runtime_names
from balance_hil.runtimes.base import Runtime
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.tflite.edit import WholeModel, quantized_core, select_output
from balance_hil.tflite.graph import TfliteGraph, read_graph

_DENSE = {
    "FULLY_CONNECTED",
    "TANH",
    "LOGISTIC",
    "RELU",
    "RELU6",
    "HARD_SWISH",
    "QUANTIZE",
    "DEQUANTIZE",
    "RESHAPE",
    "CONCATENATION",
}


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """One model; make it with ``load_model``."""

    path: Path  # of the bundle or of the ``.tflite``
    id: str  # of the model, as a board reports it
    model: bytes  # the ``.tflite`` that boards run
    graph: TfliteGraph
    whole: WholeModel | None  # with its float input or output, where it has one: ``model`` and ``graph`` are its core
    bundle: Bundle | None  # None: a model alone, without observations and float versions

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The model of a bundle. Raises ElementTypeError."""
        model = bundle.model()
        return cls(path=bundle.path, id=bundle.id, model=model, graph=_checked_graph(model), whole=None, bundle=bundle)

    @property
    def normalization(self) -> Normalization | None:
        """Of observations, before quantization; None: none."""
        return self.bundle.normalization if self.bundle else None

    @property
    def runtime_names(self) -> tuple[str, ...]:
        """Desktop runtimes that can execute it."""
        return bundle_runtime_names(self.graph.kind) if self.bundle else model_runtime_names(self.graph.kind)

    @property
    def is_sound(self) -> bool:
        """Whether no runtime crashes on it: it comes from a bundle, or has dense layers only. Raises BundleError."""
        EmulatedRuntime(self.graph, TFLM, partial=True)
        return self.bundle is not None or _DENSE.issuperset(operator.name for operator in self.graph.operators)

    def load(self, name: str) -> Runtime:
        """The runtime ``name`` with this model in it. Raises what ``load_runtime`` raises."""
        return load_runtime(name, self.bundle) if self.bundle else load_model_runtime(name, self.model)

    def neighbors(self) -> dict[str, bytes]:
        """Models of the bundles beside this one, by name: models that a board may run by mistake."""
        if self.bundle is None:
            return {}
        found = {}
        for file in sorted(self.path.resolve().parent.glob(f"*/{self.bundle.model_file.name}")):
            model = file.read_bytes()
            if model != self.model:
                found[file.parent.name] = model
        return found


def load_model(path: Path, output: str | None = None) -> ModelUnderTest:
    """Reads a bundle folder, or a ``.tflite`` file of which ``output`` is compared.

    Raises:
        BundleError: neither of the two, or damaged.
        ElementTypeError: input or output is of no supported element type, or a float that is not quantized at once.
        UsageError: ``output`` names none, or is not given though there are several.
    """
    if not path.is_file():
        if not path.is_dir() and path.suffix == ".tflite":
            raise BundleError(f"no such model: {path}", "point at a .tflite or at a bundle (ppo)")
        bundle = Bundle.load(path)
        if output is not None:
            raise UsageError("--output chooses an output of a .tflite; a bundle has one", "leave it out")
        return ModelUnderTest.of(bundle)
    try:
        model = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}", "check its permissions") from exc
    try:
        return _file(path, select_output(model, output))
    except BundleError as exc:
        raise BundleError(f"{path}: {exc.message}", exc.hint) from exc


def _file(path: Path, model: bytes) -> ModelUnderTest:
    model, whole = quantized_core(model)
    return ModelUnderTest(path=path, id=model_id(model), model=model, graph=_checked_graph(model), whole=whole, bundle=None)


def _checked_graph(model: bytes) -> TfliteGraph:
    graph = read_graph(model)
    _ = graph.input_quant, graph.output_quant  # raise ElementTypeError here, before anything is loaded
    return graph
