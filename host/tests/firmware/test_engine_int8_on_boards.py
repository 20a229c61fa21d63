"""The compact engine on every emulated processor, each with its own inner loop, against TensorFlow Lite Micro."""

from __future__ import annotations

import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import load_definitions
from balance_hil.boards.arena import compact_need
from balance_hil.boards.kinds.qemu import QEMU, check_installation
from balance_hil.errors import HarnessError
from balance_hil.firmware_build import build
from balance_hil.model_image import KERNELS
from balance_hil.testing.convolutional_models import OPERATORS, random_network, random_operator
from balance_hil.testing.synthetic_models import ModelBuilder, actor, random_policy
from balance_hil.tflite.graph import read_graph

from .engine_check import tflm_layers
from .kernel_models import EXTREME, extreme_operator, flattened_image

ROWS = 60
# Where firmware/test/engine_int8/on_board.cpp looks for its cases.
CASES_ADDRESS = {"mps3-an547": 0x6000_0000}
CASES_ADDRESS_MPS2 = 0x2020_0000
DEADLINE_S = 120.0
LOOK_INTERVAL_S = 0.02
AT_ONCE = 200  # models that fit a board's memory
BOARDS = {name: board for name, board in load_definitions().items() if board.kind == "qemu" and "bench" not in board.settings}


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def case_and_answer(model: bytes, seed: int, rows: int = ROWS) -> tuple[bytes, bytes]:
    """What goes into the board's memory for one model, and what must come out of its UART behind status and arena size.

    The address of every other model is a multiple of 16.
    """
    skipped = 0 if seed % 2 == 0 else seed % 4
    inputs = np.random.default_rng(seed).integers(-128, 128, (rows, read_graph(model).n_obs), dtype=np.int8)
    inputs[:2] = [[-128], [127]]
    layers, outputs = tflm_layers(model, inputs)
    case = padded(struct.pack("<III", len(model), rows, skipped)) + padded(bytes(skipped) + model) + padded(inputs.tobytes())
    return case, np.hstack([*layers, outputs]).tobytes()


def extreme_dense(rows: int, columns: int) -> bytes:
    """One dense layer whose weights and zero points lie at the ends of int8 more often than not."""
    rng = np.random.default_rng(1000 * columns + rows)
    ends = np.asarray([-128, 127], np.int8)
    weights = np.where(
        rng.random((rows, columns)) < 0.6, rng.choice(ends, (rows, columns)), rng.integers(-128, 128, (rows, columns))
    )
    builder = ModelBuilder()
    source = builder.tensor((1, columns), 0.02, int(rng.choice([-128, 127, 0, 5])))
    scales = np.float32(0.01 * rng.uniform(0.2, 1.0, rows)).tolist()
    output = (0.02 * 0.01 * 2**14 * columns**0.5 / 50, int(rng.choice([-128, 127, 0])))
    bias = rng.normal(0, 2**14, rows) if rows % 3 else None
    return builder.build(source, builder.dense(source, weights.astype(np.int8), scales, output, bias))


def run_on(machine: str, image: Path, cases: Path, wanted: int) -> bytes:
    """The first ``wanted`` bytes that the board sends, into a file: a socket would cost a packet for each byte."""
    address, sent = CASES_ADDRESS.get(machine, CASES_ADDRESS_MPS2), cases.with_suffix(".sent")
    command = [QEMU, "-M", machine, "-kernel", str(image), "-nodefaults", "-display", "none", "-serial", f"file:{sent}"]
    command += ["-device", f"loader,file={cases},addr={address:#x},force-raw=on"]
    sent.unlink(missing_ok=True)  # of the models before
    deadline_s = time.monotonic() + DEADLINE_S
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as qemu:
        try:
            while qemu.poll() is None and time.monotonic() < deadline_s:
                if sent.exists() and sent.stat().st_size >= wanted:
                    break
                time.sleep(LOOK_INTERVAL_S)
        finally:
            qemu.kill()
    return sent.read_bytes()[:wanted]


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_tensor_equals_tflm(name: str, tmp_path: Path):
    typical = [actor((6, 64, 64, 2), kind, per_channel=True, seed=7, squash=None) for kind in ("TANH", "RELU")]
    # Every remainder of rows and of columns, by the fours and sixteens in which they are processed.
    shapes = [(1 + (columns + more) % 9, columns) for columns in (*range(1, 21), 35, 64) for more in (0, 5)]
    shapes.append((5000, 3))  # an output of more bytes than a stack frame of the test program
    models = [*typical, *(random_policy(seed) for seed in range(100, 108)), *(extreme_dense(*shape) for shape in shapes)]
    kernels = [name for name in OPERATORS if name.split()[-1] in KERNELS]
    models += [random_network(seed, kernels) for seed in range(4)] + [random_operator(name, 1) for name in kernels]
    models += [flattened_image(convolves) for convolves in (True, False)]
    assert_board_equals_tflm(name, models, tmp_path)


def assert_board_equals_tflm(name: str, models: list[bytes], folder: Path, rows: int = ROWS) -> None:
    """Every tensor and every output of every model, bit for bit."""
    pairs = [case_and_answer(model, seed, rows) for seed, model in enumerate(models)]
    cases = folder / "cases.bin"
    cases.write_bytes(padded(struct.pack("<I", len(models))) + b"".join(case for case, _ in pairs))
    image = build(f"engine_test_{name.removeprefix('qemu-')}", product="program.elf")
    received = run_on(BOARDS[name].settings["machine"], image, cases, sum(8 + len(answer) for _, answer in pairs))
    at = 0
    for number, (_, answer) in enumerate(pairs):
        status, arena_bytes = struct.unpack_from("<II", received, at)
        assert status == 0, f"model {number} was refused"
        need = compact_need(read_graph(models[number]), name.replace("qemu-m", "cortex-m")).all_kept
        assert arena_bytes <= need <= 1.25 * arena_bytes + 600, f"model {number}"
        assert received[at + 8 : at + 8 + len(answer)] == answer, f"model {number} differs"
        at += 8 + len(answer)


def slices(fast: range, long: range) -> list[object]:
    """Both kernels in assembly and intrinsics, quickly; all processors at length in nightly."""
    quick = [pytest.param(name, fast, id=f"{name}-quick") for name in ("qemu-m4", "qemu-m55")]
    return quick + [pytest.param(name, long, id=name, marks=pytest.mark.nightly) for name in sorted(BOARDS)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seeds"), slices(range(8), range(8, 100)))
def test_kernels_equal_tflm_over_random_shapes(name: str, seeds: range, tmp_path: Path):
    kernels = [name for name in OPERATORS if name.split()[-1] in KERNELS]
    models = [random_operator(name, seed) for name in kernels for seed in seeds]
    models += [extreme_operator(name, seed) for name in EXTREME for seed in seeds]
    for first in range(0, len(models), AT_ONCE):
        assert_board_equals_tflm(name, models[first : first + AT_ONCE], tmp_path, rows=5)
