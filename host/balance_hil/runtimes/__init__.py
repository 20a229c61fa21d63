"""Desktop runtimes: every way of executing a policy, behind ``Runtime``. Each is imported on first use."""

from __future__ import annotations

import importlib

from balance_hil.bundle import Bundle
from balance_hil.errors import UsageError
from balance_hil.files import did_you_mean
from balance_hil.runtimes.base import Int8Runtime, Runtime

_MODULES = {
    "torch": "torch",
    "onnx": "onnx",
    "float32": "tflite",
    "int8-xnnpack": "tflite",
    "int8-builtin": "tflite",
    "int8-reference": "tflite",
    "tflm": "tflm",
}
RUNTIME_NAMES = tuple(_MODULES)
INT8_RUNTIME_NAMES = ("int8-xnnpack", "int8-builtin", "int8-reference", "tflm")


def load_runtime(name: str, bundle: Bundle) -> Runtime:
    """The runtime ``name`` with the bundle's policy in it; an ``Int8Runtime`` for a name of INT8_RUNTIME_NAMES.

    Raises:
        UsageError: no such runtime.
        MissingExtraError: its package is not installed, or does not exist for this platform.
    """
    if name not in _MODULES:
        raise UsageError(
            f"there is no runtime {name!r}" + did_you_mean(name, RUNTIME_NAMES), f"choose one of {', '.join(RUNTIME_NAMES)}"
        )
    module = importlib.import_module(f"balance_hil.runtimes.{_MODULES[name]}")
    runtime: Runtime = module.load(name, bundle)
    # policy.zip takes observations as they are where the export has added the normalization, to suit int8.
    runtime.normalization = bundle.source_normalization if name == "torch" else bundle.normalization
    return runtime


def load_int8_runtime(name: str, model: bytes) -> Int8Runtime:
    """The int8 runtime ``name``, one of INT8_RUNTIME_NAMES, with any int8 ``.tflite`` in it.

    Raises:
        UsageError: no such int8 runtime.
        ModelNotInt8Error: the model's input or output is not int8.
        UnsupportedOperatorError: the runtime lacks an operator; the message names it.
        MissingExtraError: its package is not installed, or does not exist for this platform.
    """
    if name not in INT8_RUNTIME_NAMES:
        raise UsageError(f"{name} is not an int8 runtime", f"choose one of {', '.join(INT8_RUNTIME_NAMES)}")
    module = importlib.import_module(f"balance_hil.runtimes.{_MODULES[name]}")
    runtime: Int8Runtime = module.TflmRuntime(model) if name == "tflm" else module.TfliteInt8Runtime(name, model)
    return runtime
