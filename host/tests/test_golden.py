import re
import shutil
import subprocess

import numpy as np
import pytest

from balance_hil.bundle import GOLDEN, HEADER
from balance_hil.golden import GOLDEN_ROWS, SELF_TEST_ROWS, golden_observations
from balance_hil.quantize import dequantize, quantize


@pytest.fixture(scope="module", params=["ppo_bundle", "tiny_bundle"])
def bundle(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def golden(bundle):
    with np.load(bundle.file(GOLDEN), allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def header(bundle):
    return bundle.file(HEADER).read_text()


def int8_table(header, name):
    body = re.search(rf"{name}\[.*?\]\[\d+\] = \{{\n(.*?)\n\}};", header, re.DOTALL)[1]
    return np.array([[int(v) for v in row.split(",")] for row in re.findall(r"\{(.*?)\}", body)], np.int8)


def test_golden_arrays_fit_one_another(bundle, golden):
    assert golden["observations"].shape == (GOLDEN_ROWS, 6)
    assert golden["observations"].dtype == np.float32
    assert np.array_equal(golden["input_int8"], quantize(golden["observations"], bundle.input_quant))
    assert np.array_equal(golden["actions"], dequantize(golden["output_int8"], bundle.output_quant))
    operators = golden["operators"].tolist()
    assert operators == [name for name, count in bundle.metrics["operators"].items() for _ in range(count)]
    layers = [golden[f"op_{k}"] for k in range(len(operators))]
    assert f"op_{len(operators)}" not in golden
    assert all(layer.dtype == np.int8 and len(layer) == GOLDEN_ROWS for layer in layers)
    assert np.array_equal(layers[-1], golden["output_int8"])


def test_golden_inputs_reach_every_edge(golden):
    inputs = golden["input_int8"]
    assert np.all(inputs.min(axis=0) == -128)
    assert np.all(inputs.max(axis=0) == 127)
    assert np.max(np.abs(golden["observations"])) > 1e38  # a value whose quotient is infinite
    assert not golden["observations"][0].any()
    assert len(np.unique(inputs, axis=0)) > 200
    assert all(len(np.unique(inputs[:, i])) > 80 for i in range(6))


def test_golden_rows_hold_rounding_ties(bundle):
    observations = golden_observations(bundle.input_quant, np.zeros((300, 6), np.float32), 0)
    observations = observations[np.abs(observations).max(axis=1) < 1e3]
    ratio = observations / np.float32(bundle.input_quant.scale)
    ties = np.abs(np.abs(ratio - np.trunc(ratio)) - 0.5) < 1e-6
    assert ties.all(axis=1).sum() >= 6


def test_golden_observations_depend_on_the_seed_only(bundle):
    recorded = np.random.default_rng(0).uniform(-1, 1, (300, 6)).astype(np.float32)
    first, again, other = (golden_observations(bundle.input_quant, recorded, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_header_holds_the_model_and_its_id(bundle, header):
    array = re.search(r"kModel\[kModelSize\] = \{(.*?)\};", header, re.DOTALL)[1]
    assert bytes(int(b, 16) for b in re.findall(r"0x[0-9a-f]{2}", array)) == bundle.model()
    assert f"kModelSize = {len(bundle.model())};" in header
    assert f'kModelId[] = "{bundle.id}"' in header


def test_the_self_test_of_the_header_is_the_start_of_the_golden_vectors(header, golden):
    assert np.array_equal(int8_table(header, "kSelfTestInput"), golden["input_int8"][:SELF_TEST_ROWS])
    assert np.array_equal(int8_table(header, "kSelfTestOutput"), golden["output_int8"][:SELF_TEST_ROWS])


def test_the_header_compiles_as_cpp17(bundle, tmp_path):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: sudo apt-get install g++")
    source = tmp_path / "use.cpp"
    source.write_text(f"""#include "{bundle.file(HEADER)}"
static_assert(alignof(decltype(hil_model::kModel)) >= 1 && sizeof(hil_model::kModel) == {len(bundle.model())}, "");
static_assert(sizeof(hil_model::kSelfTestInput) == 8 * 6 && sizeof(hil_model::kSelfTestOutput) == 8 * 2, "");
static_assert(sizeof(hil_model::kModelId) == 13, "");
int main() {{ return reinterpret_cast<std::uintptr_t>(hil_model::kModel) % 16; }}
""")
    program = tmp_path / "use"
    subprocess.run([compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", str(source), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], check=False).returncode == 0
