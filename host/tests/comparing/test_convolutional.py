"""hil compare with convolutional models, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from balance_hil.cli.compare import command
from balance_hil.comparing import samples
from balance_hil.comparing.inputs import random_inputs
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import BUILTIN, TFLM
from balance_hil.testing.convolutional_models import random_network
from balance_hil.testing.synthetic_models import ModelBuilder


def compared(path: Path, model: bytes, *options: str):
    path.write_bytes(model)
    result = CliRunner().invoke(command, [str(path), "--json", "--samples", "200", *options], catch_exceptions=False)
    return result.exit_code, json.loads(result.stdout)


def test_a_network_is_explained_and_counted_by_channels(tmp_path: Path) -> None:
    status, found = compared(tmp_path / "network.tflite", random_network(1))
    assert (status, found["unexplained"], found["skipped"]) == (0, 0, [])
    assert sum(pair["differing"] for pair in found["pairs"]) > 100
    for row in found["layers"]:
        assert sum(row["new"].values()) + row["propagated"] == row["differing"] == sum(row["channels"])
    assert any(len(row["channels"]) < row["values"] / found["layer_inputs"] for row in found["layers"])


@pytest.mark.parametrize("kind", ["INT8", "FLOAT32"])
def test_elu_is_explained_though_a_runtime_refuses_it(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(2)
    build = ModelBuilder()
    x = build.tensor((1, 8), 0.05, 3)
    weights = rng.integers(-127, 128, (40, 8), dtype=np.int8)
    dense = build.dense(x, weights, 0.01, (0.02, -5))
    if kind == "INT8":
        end = build.elementwise("ELU", dense, (0.015, -40))
    else:  # as TensorFlow's converter leaves it
        floats = build.elementwise("ELU", build.elementwise("DEQUANTIZE", dense, kind=kind), kind=kind)
        end = build.elementwise("QUANTIZE", floats, (0.015, -40))
    status, found = compared(tmp_path / "elu.tflite", build.build(x, end))
    assert (status, found["unexplained"]) == (0, 0)
    assert [skip["runtime"] for skip in found["skipped"]] == ["int8-reference"]
    assert "ELU" in found["skipped"][0]["why"]
    assert sum(pair["differing"] for pair in found["pairs"]) > 0


def test_large_layers_are_fetched_for_fewer_inputs(monkeypatch) -> None:
    model = random_network(1)
    runtimes = [EmulatedRuntime(model, variant) for variant in (TFLM, BUILTIN)]
    rows = random_inputs(runtimes[0].n_obs, runtimes[0].input_quant, 100, 1)
    monkeypatch.setattr(samples, "_TRACE_BYTES", 2 * 7 * 1000)
    for wanted, even in ((3, 3), (50, 7)):
        trace = samples.collect(runtimes, rows, layer_samples=wanted, layer_values=1000).trace
        assert (trace.even, len(trace.inputs) <= 7) == (even, True)
