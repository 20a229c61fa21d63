"""Every fault of the gallery, in a native board that is run like any other, is called by its name; a healthy board by none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import connect
from balance_hil.boards.native import firmware_faults
from balance_hil.comparing.diagnosis import UNKNOWN, Exchange, diagnose
from balance_hil.comparing.identification import identify
from balance_hil.comparing.probes import probe_observations
from balance_hil.runtimes.emulated import EmulatedRuntime
from balance_hil.runtimes.emulated.rules import TFLM
from balance_hil.runtimes.emulated.synthetic import actor

PAGE = Path(__file__).parents[3] / "docs" / "faulty-firmware.md"
MODEL = actor((6, 16, 16, 3), "RELU", per_channel=True, seed=5, squash=None, fused="RELU_N1_TO_1")
LAYER_SAMPLES = 600
HEALTHY_ARITHMETIC = "tflm"

# fault -> stage and cause that diagnosis names
DIAGNOSED = {
    "input-truncate": ("input", "truncates instead of rounding"),
    "input-truncate-sum": ("input", "adds the zero point and truncates instead of rounding"),
    "input-floor": ("input", "rounds down"),
    "input-cast-half-up": ("input", "adds 0.5 and truncates"),
    "input-half-up": ("input", "rounds ties up"),
    "input-half-even": ("input", "rounds ties to even"),
    "input-reciprocal": ("input", "multiplies by the reciprocal"),
    "input-float64": ("input", "divides in float64"),
    "input-wrap": ("input", "wraps around instead of saturating"),
    "input-no-zero-point": ("input", "forgets the zero point"),
    "input-scale-digits": ("input", "has its scale rounded to 4 decimals"),
    "input-output-scale": ("input", "takes the parameters of the other end of the model"),
    "input-swapped-bytes": ("input", "swaps the bytes of the observation"),
    "input-permuted": ("input", "permutes the inputs: it takes 1, 0, 2, 3, 4, 5 for 0, 1, 2, 3, 4, 5"),
    "input-stale": ("input", "gives a stale input: that of 1 request before"),
    "model-other": ("model", "runs another model"),
    "model-constant": ("model", "always gives the same output"),
    "model-wrong-tensor": ("model", "reads the output of operator 0 (FULLY_CONNECTED) instead of the model's output"),
    "model-permuted": ("model", "permutes the outputs: it takes 2, 1, 0 for 0, 1, 2"),
    "model-stale": ("model", "gives a stale output: that of 1 request before"),
    "model-wrap": ("model", "wraps the output around instead of saturating"),
    "output-no-zero-point": ("output", "forgets the zero point"),
    "output-scale-digits": ("output", "has its scale rounded to 4 decimals"),
    "output-unsigned": ("output", "reads the output as unsigned"),
    "output-raw-127": ("output", "divides the raw output by 127"),
    "output-swapped-bytes": ("output", "swaps the bytes of the action"),
}
# fault -> arithmetic that identification names, from the layers
IDENTIFIED = {"model-first-scale": "tflm-first-scale", "model-single-rounding": "tflm-single-rounding"}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.tflite"
    path.write_bytes(MODEL)
    return path


@pytest.fixture(scope="module")
def tflm():
    return EmulatedRuntime(MODEL, TFLM)


@pytest.fixture
def findings(model_file, tflm):
    """What the tools say of a board: ``findings(fault)`` gives {stage: cause} and the arithmetic of its layers."""

    def find(fault):
        probes = probe_observations(tflm.input_quant, tflm.n_obs)
        codes = np.random.default_rng(0).integers(-128, 128, (LAYER_SAMPLES, tflm.n_obs)).astype(np.int8)
        with connect("native", model=model_file, firmware_fault=fault) as board:
            replies = board.infer_batch(probes)
            layers = board.layers_int8_batch(codes)
        exchange = Exchange(
            observations=probes,
            inputs=np.stack([reply.input for reply in replies]),
            outputs=np.stack([reply.output for reply in replies]),
            actions=np.stack([reply.action for reply in replies]),
        )
        found = identify("board", tflm.graph, codes, layers)
        arithmetic = found.variant.name if found.variant else None
        return {f.stage: f.fault for f in diagnose(exchange, tflm) if not f.healthy}, arithmetic

    return find


def test_a_healthy_board_has_no_fault(findings):
    assert findings(None) == ({}, HEALTHY_ARITHMETIC)


@pytest.mark.parametrize("fault", DIAGNOSED)
def test_a_fault_is_called_by_its_name(fault, findings):
    stage, cause = DIAGNOSED[fault]
    found, arithmetic = findings(fault)
    assert found == {stage: cause}
    # The layers of a board whose ends are faulty are healthy.
    assert stage == "model" or arithmetic == HEALTHY_ARITHMETIC


@pytest.mark.parametrize("fault", IDENTIFIED)
def test_a_wrong_arithmetic_is_called_by_its_name(fault, findings):
    found, arithmetic = findings(fault)
    assert arithmetic == IDENTIFIED[fault]
    assert found == {"model": UNKNOWN}  # of the healthy arithmetic: nothing that diagnosis knows, and so left to identification


def test_every_fault_of_the_gallery_is_expected_to_have_a_cause():
    assert set(DIAGNOSED) | set(IDENTIFIED) == set(firmware_faults())


def test_the_page_shows_the_gallery_as_it_is():
    rows = [tuple(cells) for cells in re.findall(r"^\| `([\w-]+)` \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)]
    causes = {fault: f"{cause}" for fault, (_, cause) in DIAGNOSED.items()}
    causes |= {fault: f"computes like `{variant}`" for fault, variant in IDENTIFIED.items()}
    assert rows == [(name, text, causes[name]) for name, text in firmware_faults().items()]
