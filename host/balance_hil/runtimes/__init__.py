"""Desktop runtimes: every way of executing a policy, behind ``Runtime``. Each is imported on first use."""

from __future__ import annotations

import importlib

from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError
from balance_hil.files import did_you_mean
from balance_hil.quantize import FLOAT32, INT8, INT16X8, ElementType
from balance_hil.runtimes.base import ModelRuntime, Runtime
from balance_hil.tflite.graph import read_graph

_MODULES = {"torch": "torch", "onnx": "onnx", "float32": "tflite"}  # of the float policy, whatever a board runs
# Of the board's model, by its element type. XNNPACK has no kernels for int16: there the desktop default is "builtin".
_OF_MODEL = {
    INT8: ("int8-xnnpack", "int8-builtin", "int8-reference", "tflm"),
    INT16X8: ("int16x8-builtin", "int16x8-reference", "tflm"),
    FLOAT32: ("float32-builtin", "float32-reference", "tflm"),
}
_MODULES |= {name: "tflm" if name == "tflm" else "tflite" for names in _OF_MODEL.values() for name in names}
RUNTIME_NAMES = (*(name for name in _MODULES if name != "tflm"), "tflm")
INT8_RUNTIME_NAMES = _OF_MODEL[INT8]


def model_runtime_names(kind: ElementType) -> tuple[str, ...]:
    """Runtimes of models of one element type."""
    return _OF_MODEL[kind]


def bundle_runtime_names(kind: ElementType) -> tuple[str, ...]:
    """Runtimes of bundles whose boards run that element type: those of the float policy, too."""
    return ("torch", "onnx", "float32", *_OF_MODEL[kind])


def load_runtime(name: str, bundle: Bundle) -> Runtime:
    """The runtime ``name`` with the bundle's policy in it; a ``ModelRuntime`` for one of ``model_runtime_names``.

    Raises:
        UsageError: no such runtime, or one of another element type than the bundle's.
        MissingExtraError: its package is not installed, or does not exist for this platform.
    """
    if name not in _MODULES:
        raise UsageError(
            f"there is no runtime {name!r}" + did_you_mean(name, RUNTIME_NAMES), f"choose one of {', '.join(RUNTIME_NAMES)}"
        )
    _check_kind(name, bundle.kind, bundle_runtime_names(bundle.kind))
    module = importlib.import_module(f"balance_hil.runtimes.{_MODULES[name]}")
    runtime: Runtime = module.load(name, bundle)
    # policy.zip takes observations as they are where the export has added the normalization, to suit int8.
    runtime.normalization = bundle.source_normalization if name == "torch" else bundle.normalization
    return runtime


def load_model_runtime(name: str, model: bytes) -> ModelRuntime:
    """The runtime ``name``, one of ``model_runtime_names``, with any ``.tflite`` of its element type in it.

    Raises:
        UsageError: no such runtime, or one of another element type than the model's.
        ElementTypeError: the model is of no supported element type.
        UnsupportedOperatorError: the runtime lacks an operator; the message names it.
        MissingExtraError: its package is not installed, or does not exist for this platform.
    """
    kind = read_graph(model).kind
    _check_kind(name, kind, model_runtime_names(kind))
    module = importlib.import_module(f"balance_hil.runtimes.{_MODULES[name]}")
    runtime: ModelRuntime = module.TflmRuntime(model) if name == "tflm" else module.TfliteModelRuntime(name, model)
    return runtime


def _check_kind(name: str, kind: ElementType, names: tuple[str, ...]) -> None:
    if name not in names:
        raise UsageError(f"the runtime {name} does not run {kind.name} models", f"choose one of {', '.join(names)}")
