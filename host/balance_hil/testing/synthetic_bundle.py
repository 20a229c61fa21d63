"""Builds a bundle with random weights in a second, to test boards and tools with a policy of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from balance_hil.bundle import FLOAT_MODEL, GOLDEN, HEADER, MODEL_FILES, ONNX_MODEL, Bundle, model_id, write_bundle
from balance_hil.files import staging_folder
from balance_hil.model_image import ModelImage
from balance_hil.quantize import Normalization, dequantize, quantize
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.spec import PolicySpec, Signal
from balance_hil.testing.synthetic_models import actor

_ROWS = 256


def synthetic_bundle(
    folder: Path,
    n_obs: int,
    n_act: int,
    *,
    spec: PolicySpec | None = None,
    normalization: Normalization | None = None,
    hidden: int = 16,
    seed: int = 0,
) -> Bundle:
    """Writes a bundle of one hidden layer with random weights to ``folder``. Without a ``spec`` it is made for no environment.

    Raises:
        MissingExtraError: TensorFlow Lite Micro or the model builder is not installed.
    """
    model = actor((n_obs, hidden, n_act), "RELU", per_channel=True, seed=seed)
    return bundle_of_model(folder, model, spec, normalization=normalization, seed=seed)


def bundle_of_model(
    folder: Path, model: bytes, spec: PolicySpec | None = None, *, normalization: Normalization | None = None, seed: int = 0
) -> Bundle:
    """Writes a bundle of an int8 ``.tflite`` to ``folder``; its float models are empty, so it is for int8 runtimes and boards.

    Without a ``spec`` it is made for no environment.

    Raises:
        MissingExtraError: TensorFlow Lite Micro is not installed.
    """
    tflm = TflmRuntime(model)
    spec = spec or _numbered(tflm.n_obs, tflm.n_act)
    observations = _observations(np.random.default_rng(seed), tflm, normalization)
    inputs = quantize(observations, tflm.input_quant, normalization)
    outputs = tflm.infer_raw_batch(inputs)
    layers = {f"op_{op}": values for op, values in enumerate(tflm.layers_batch(inputs))}
    with staging_folder(folder) as staging:
        np.savez_compressed(
            staging / GOLDEN,
            observations=observations,
            actions=dequantize(outputs, tflm.output_quant),
            operators=np.array([operator.name for operator in tflm.graph.operators]),
            **{f"input_{tflm.dtype}": inputs, f"output_{tflm.dtype}": outputs},
            **layers,
        )
        (staging / MODEL_FILES[tflm.graph.kind.name]).write_bytes(model)
        for empty in (ONNX_MODEL, FLOAT_MODEL):
            (staging / empty).touch()  # a float32 model is there already
        ModelImage(model=model, normalization=normalization, inputs=inputs, outputs=outputs).write_header(staging / HEADER)
        bundle = Bundle(
            path=folder,
            id=model_id(model, normalization),
            algorithm="",
            spec=spec,
            input_quant=tflm.input_quant,
            output_quant=tflm.output_quant,
            normalization=normalization,
        )
        return write_bundle(staging, bundle)


def _numbered(n_obs: int, n_act: int) -> PolicySpec:
    return PolicySpec(
        environment="",
        observation=tuple(Signal(index=i, name=f"obs_{i}", unit="", min=None, max=None) for i in range(n_obs)),
        action=tuple(Signal(index=i, name=f"act_{i}", unit="", min=-1.0, max=1.0) for i in range(n_act)),
        control_period_s=0.02,
    )


def _observations(rng: np.random.Generator, model: TflmRuntime, by: Normalization | None) -> NDArray[np.float32]:
    """Over the whole range of the input and a little beyond, float32 [256, n_obs]."""
    reach = 1.1 * max(1, model.input_quant.kind.high)
    codes = rng.uniform(-reach, reach, (_ROWS, model.n_obs)) - model.input_quant.zero_point
    values = codes * model.input_quant.scale
    if by is not None:
        values = values / by.inverse_std + by.mean
    return values.astype(np.float32)
