"""Observations are normalized on the board as on the host, bit for bit."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from balance_hil.boards import Board, connect, find_definition
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.bundle import Bundle
from balance_hil.errors import BoardStatusError, HarnessError, ModelMismatchError, NonFiniteInputError
from balance_hil.paths import SHIPPED
from balance_hil.quantize import Normalization
from balance_hil.runtimes import load_runtime
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_bundle import synthetic_bundle

N_OBS = 12
ON_NATIVE, ON_EMULATED = 20_000, 1_000  # a quarter beside ties: several of each of the quantizer's 256
LIBRARY = SHIPPED / "firmware" / "lib"


def normalization(seed: int) -> Normalization:
    """Features of very different sizes, among them one that never changed: its deviation is epsilon's."""
    rng = np.random.default_rng(seed)
    deviation = 10.0 ** rng.uniform(-3, 4, N_OBS)
    deviation[-1] = 1e-4
    return Normalization(rng.normal(0, 3, N_OBS) * deviation, 1 / deviation, 10.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return synthetic_bundle(tmp_path_factory.mktemp("bundle") / "normalized", N_OBS, 3, normalization=normalization(1))


def observations(bundle: Bundle, count: int) -> NDArray[np.float32]:
    """Random ones, and beside them what brings a normalized value next to a tie of the quantizer."""
    by, params = bundle.normalization, bundle.input_quant
    assert by is not None
    rng = np.random.default_rng(count)
    rows = (rng.normal(0, 3, (count, N_OBS)) / by.inverse_std + by.mean).astype(np.float32)
    ties = (rng.integers(-130, 130, (count // 4, N_OBS)) + 0.5) * params.scale
    rows[: len(ties)] = (ties / by.inverse_std + by.mean).astype(np.float32)
    extremes = [0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3.4028235e38, -3.4028235e38, 1e30, -1e-30]
    rows[-len(extremes) :] = np.array(extremes, np.float32)[:, np.newaxis]
    return rows


def check(board: Board, bundle: Bundle, rows: NDArray[np.float32]) -> None:
    got = np.stack([action.input for action in board.infer_batch(rows)])
    wrong = np.argwhere(got != bundle.quantized(rows))
    assert not len(wrong), f"{len(wrong)} of {got.size} differ, first {rows[tuple(wrong[0])]!r} at {wrong[0]}"


@pytest.mark.parametrize("engine", ["int8", "tflm"])
def test_native(bundle: Bundle, engine: str) -> None:
    with connect("native", bundle, engine=engine) as board:
        check(board, bundle, observations(bundle, ON_NATIVE if engine == "int8" else ON_EMULATED))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["qemu-m7", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qemu-m3", "qemu-m4", "qemu-m55"))]
)
def test_emulated_cortex_m(bundle: Bundle, name: str) -> None:
    try:
        check_installation(find_definition(name))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    with connect(name, bundle, engine="int8") as board:
        check(board, bundle, observations(bundle, ON_EMULATED))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_though_the_clip_would_hide_it(bundle: Bundle, native_board: Board, value: float) -> None:
    row = np.zeros((1, N_OBS), np.float32)
    row[0, 3] = value
    with load_runtime("tflm", bundle) as runtime, pytest.raises(NonFiniteInputError):
        runtime.act_batch(row)
    with pytest.raises(BoardStatusError, match="non_finite, detail 3"):
        native_board.infer(row[0])


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(finite, min_size=N_OBS, max_size=N_OBS))
def test_any_observation(native_board: Board, bundle: Bundle, values: list[float]) -> None:
    check(native_board, bundle, np.array([values], np.float32))


@pytest.fixture(scope="module")
def native_board(bundle: Bundle):
    with connect("native", bundle, engine="int8") as board:
        yield board


def test_an_upload_brings_its_normalization(bundle: Bundle, tmp_path: Path) -> None:
    plain = synthetic_bundle(tmp_path / "plain", N_OBS, 3)
    other = synthetic_bundle(tmp_path / "other", N_OBS, 3, normalization=normalization(2))
    with connect("native", plain, engine="int8") as board:
        for wanted in (bundle, other, plain, bundle):
            assert board.load(wanted).uploaded
            check(board, wanted, observations(bundle, 100))


def test_another_normalization_is_named(bundle: Bundle, tmp_path: Path) -> None:
    plain = synthetic_bundle(tmp_path / "plain", N_OBS, 3)
    other = synthetic_bundle(tmp_path / "other", N_OBS, 3, normalization=normalization(2))
    for runs, wanted, words in (
        (plain, bundle, "takes observations without normalization; this run needs"),
        (bundle, plain, "takes observations without normalization$"),
        (other, bundle, "normalizes its observations by [0-9a-f]{8}; .* normalizes its observations by [0-9a-f]{8}"),
    ):
        firmware = FakeFirmware(fake_info(runs), lambda values: values[:3])
        with pytest.raises(ModelMismatchError, match=words):
            fake_board(firmware, wanted)


FUSED = ("vfma", "vfms", "vfnm", "vmla", "vmls")  # multiply-add of x86 and of the Cortex-M's floating-point unit


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("g++", ["-mfma", "-ffp-contract=fast"]),
        ("arm-none-eabi-g++", ["-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-ffp-contract=fast"]),
        ("arm-none-eabi-g++", ["-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard", "-ffp-contract=fast"]),
    ],
    ids=["x86", "m4", "m7"],
)
def test_no_compiler_makes_it_a_multiply_add(tmp_path: Path, compiler: str, flags: list[str]) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: make setup")
    if compiler == "g++" and "x86" not in subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout:
        pytest.skip("the flag for multiply-adds is x86's")
    includes = [f"-I{LIBRARY / name / 'include'}" for name in ("quantize", "status")]
    command = [compiler, "-std=gnu++17", "-O3", *flags, *includes, "-S", "-o", str(tmp_path / "out.s")]
    source = str(LIBRARY / "quantize/src/normalize.cpp")
    subprocess.run([*command, source], check=True)
    code = (tmp_path / "out.s").read_text()
    assert "mul" in code
    assert not [line for line in code.splitlines() if line.strip().startswith(FUSED)]
    done = subprocess.run([*command, "-ffast-math", source], capture_output=True, text=True)
    assert done.returncode != 0
    assert "-ffast-math changes the bits" in done.stderr
