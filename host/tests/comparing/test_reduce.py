"""A difference, or a crash, is reduced to one operator and one row, and written as a folder whose test fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from balance_hil.boards import connect
from balance_hil.cli import compare
from balance_hil.comparing import reduced_case
from balance_hil.comparing.attribution import DROPPED_INPUT, IGNORED_CHANNEL_SCALES, LSTM_GATES, REDUCED_MULTIPLIER
from balance_hil.comparing.reduce import reduce
from balance_hil.comparing.reduced_case import BoardSide
from balance_hil.errors import BundleError, HarnessError, UnsupportedOperatorError, UsageError
from balance_hil.quantize import INT16X8, RawArray
from balance_hil.runtimes.emulated import EmulatedRuntime, Variant
from balance_hil.runtimes.emulated.rules import BUILTIN, TFLM, XNNPACK
from balance_hil.runtimes.isolated import IsolatedRuntime, RuntimeCrashError
from balance_hil.testing.convolutional_models import OPERATORS, random_network, random_operator
from balance_hil.testing.synthetic_models import ModelBuilder, actor, random_policy
from balance_hil.tflite.cut import crop, keep_inputs, keep_outputs
from balance_hil.tflite.graph import read_graph

from .. import contract


class Emulated:
    """An emulator as a side; it counts what it is asked."""

    def __init__(self, name: str, variant: Variant, change: Callable[[bytes, RawArray], RawArray] | None = None) -> None:
        self.name, self._variant, self._change = name, variant, change

    def infer_raw_batch(self, model: bytes, rows: RawArray) -> RawArray:
        outputs = EmulatedRuntime(model, self._variant, threads=1).infer_raw_batch(rows)
        return outputs if self._change is None else self._change(model, outputs)


def rows_of(model: bytes, count: int = 100) -> RawArray:
    return np.random.default_rng(0).integers(-128, 128, (count, read_graph(model).n_obs), dtype=np.int8)


def stride_above_the_filter() -> bytes:
    """Two operators; the convolution has 2 × 2 taps and stride 3 on 6 × 6, where SAME padding would be negative."""
    build, rng = ModelBuilder(), np.random.default_rng(3)
    source = build.tensor((1, 6, 6, 3), 0.05, 3)
    first = build.elementwise("RELU", source, (0.05, 3))
    weights = build.tensor((4, 2, 2, 3), 0.01, data=rng.integers(-127, 128, (4, 2, 2, 3), dtype=np.int8))
    bias = build.bias(first, 0.01, rng.normal(0, 100, 4))
    target = build.tensor((1, 2, 2, 4), 0.1, 0)
    return build.build(source, build.operator("CONV_2D", (first, weights, bias), target, padding=0, strideH=3, strideW=3))


def test_a_dropped_input_is_reduced_to_one_pixel_of_one_channel():
    model = stride_above_the_filter()
    found = reduce(model, rows_of(model), Emulated("int8-xnnpack", XNNPACK), Emulated("tflm", TFLM))
    assert found is not None
    assert found.cause == DROPPED_INPUT
    assert [operator.name for operator in found.graph.operators] == ["CONV_2D"]
    assert found.graph.input.shape == (1, 1, 3, 1)  # with less there would be no negative padding
    assert found.graph.output.shape == (1, 1, 1, 1)
    assert len(found.rows) == 1
    assert len(found.model) < len(model)
    assert found.complete
    with IsolatedRuntime("int8-xnnpack") as runtime:  # the real one drops it, too
        np.testing.assert_array_equal(runtime.infer_raw_batch(found.model, found.rows), found.answers.a)


def test_a_dense_difference_is_reduced_to_one_product():
    model = actor((6, 32, 32, 2), "TANH", per_channel=True, seed=4, squash="TANH")
    found = reduce(model, rows_of(model, 400), Emulated("int8-xnnpack", XNNPACK), Emulated("tflm", TFLM))
    assert found is not None
    assert len(found.graph.operators) == 1
    assert (found.graph.n_obs, found.graph.n_act, len(found.rows)) == (1, 1, 1)
    assert found.answers.a is not None
    assert found.answers.a != found.answers.b


def test_a_difference_of_an_lstm_is_reduced_to_it():
    model = random_operator("UNIDIRECTIONAL_SEQUENCE_LSTM", 1)  # between two RESHAPE
    found = reduce(model, rows_of(model), Emulated("int8-builtin", BUILTIN), Emulated("tflm", TFLM))
    assert found is not None
    assert [operator.name for operator in found.graph.operators] == ["UNIDIRECTIONAL_SEQUENCE_LSTM"]
    assert found.cause == LSTM_GATES
    with IsolatedRuntime("int8-builtin") as runtime:
        np.testing.assert_array_equal(runtime.infer_raw_batch(found.model, found.rows), found.answers.a)


def test_nothing_differs():
    model = random_policy(3)
    side = Emulated("tflm", TFLM)
    assert reduce(model, rows_of(model), side, side) is None


def test_a_difference_that_needs_several_rows_keeps_them():
    """An output that is stale by one request."""
    model = actor((3, 4, 2), "TANH", per_channel=False, seed=1)
    stale = Emulated("board", TFLM, lambda _, outputs: np.concatenate([outputs[:1], outputs[:-1]]))
    found = reduce(model, rows_of(model), stale, Emulated("tflm", TFLM))
    assert found is not None
    assert len(found.rows) == 2


def test_a_crash_is_reduced_to_the_operator_that_crashes():
    def crash(model: bytes, outputs: RawArray) -> RawArray:
        if any(operator.name == "TANH" for operator in read_graph(model).operators):
            raise RuntimeCrashError("it ends its process (status -11)", "")
        return outputs

    model = actor((6, 16, 16, 2), "TANH", per_channel=True, seed=4)
    found = reduce(model, rows_of(model), Emulated("int8-builtin", TFLM, crash), Emulated("tflm", TFLM))
    assert found is not None
    assert [operator.name for operator in found.graph.operators] == ["TANH"]
    assert found.graph.n_obs == 1
    assert found.cause == "int8-builtin: it ends its process (status -11)"
    assert found.answers.a is None


@pytest.mark.slow
def test_a_real_crash_of_a_runtime_is_written_and_its_test_fails(tmp_path: Path):
    """TensorFlow Lite Micro believes the size of an output, and reads weights for it that are not there."""
    build = ModelBuilder()
    source = build.tensor((1, 1000), 0.05, 3)
    weights = build.tensor((2, 1000), 0.01, data=np.ones((2, 1000), np.int8))
    target = build.tensor((1, 1_000_000), 0.1, 0)
    model = build.build(source, build.operator("FULLY_CONNECTED", (source, weights, -1), target))
    with IsolatedRuntime("int8-reference") as a, IsolatedRuntime("tflm") as b:
        found = reduce(model, rows_of(model, 1), a, b, limit_s=0)
    assert found is not None
    assert found.cause.startswith("tflm: tflm ends its process")
    with pytest.raises(AssertionError, match="tflm ends its process"):
        reduced_case.check_runtimes(reduced_case.write(found, tmp_path, "net", None, None))


@pytest.mark.slow
def test_a_crash_that_does_not_come_again_is_kept_and_said():
    left = 3

    def crash(model: bytes, outputs: RawArray) -> RawArray:
        nonlocal left
        left -= 1
        if left >= 0:
            raise RuntimeCrashError("it ends its process", "")
        return outputs

    model = random_policy(3)
    found = reduce(model, rows_of(model), Emulated("int8-builtin", TFLM, crash), Emulated("tflm", TFLM))
    assert found is not None
    assert found.answers.crashed
    assert found.cause == "int8-builtin: it ends its process; not each time"


def test_a_refusal_is_no_crash():
    def refuse(model: bytes, outputs: RawArray) -> RawArray:
        raise UnsupportedOperatorError("no TANH", "")

    model = random_policy(3)
    with pytest.raises(UnsupportedOperatorError, match="int8-builtin: no TANH"):
        reduce(model, rows_of(model), Emulated("int8-builtin", TFLM, refuse), Emulated("tflm", TFLM))


def test_when_the_time_is_over_the_smallest_so_far_is_taken():
    model = stride_above_the_filter()
    found = reduce(model, rows_of(model), Emulated("int8-xnnpack", XNNPACK), Emulated("tflm", TFLM), limit_s=0)
    assert found is not None
    assert not found.complete
    assert len(found.answers.differing)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("seed", [1, 2])
def test_channels_compute_alone_what_they_computed_together(name: str, seed: int):
    model = random_operator(name, seed)
    graph, rows = read_graph(model), rows_of(model, 1)
    channel = graph.output.shape[-1] // 2
    cut = keep_outputs(model, rows, [channel])
    if cut is None:
        return
    whole = EmulatedRuntime(model, TFLM, threads=1).infer_raw_batch(rows).reshape(graph.output.shape)
    alone = EmulatedRuntime(cut[0], TFLM, threads=1).infer_raw_batch(cut[1])
    np.testing.assert_array_equal(alone.ravel(), whole[..., channel].ravel())


def test_every_operator_with_channels_of_its_own_can_be_cut():
    cut = {name for name in OPERATORS if keep_outputs(random_operator(name, 1), rows_of(random_operator(name, 1), 1), [0])}
    assert cut >= {
        "CONV_2D",
        "grouped CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "MEAN",
        "AVERAGE_POOL_2D",
        "MAX_POOL_2D",
        "ADD",
        "MUL",
        "TANH",
        "QUANTIZE",
        "PRELU",
    }


def test_what_is_left_out_of_a_sum_goes_into_the_bias():
    model = actor((9, 5), "TANH", per_channel=True, seed=2, squash=None)
    rows = rows_of(model, 1)
    cut = keep_inputs(model, rows, [4], fold=True)
    assert cut is not None
    assert read_graph(cut[0]).n_obs == 1
    outputs = [EmulatedRuntime(m, TFLM, threads=1).infer_raw_batch(r) for m, r in ((model, rows), cut)]
    np.testing.assert_array_equal(*outputs)
    plain = keep_inputs(model, rows, [4], fold=False)
    assert plain is not None
    assert not np.array_equal(EmulatedRuntime(plain[0], TFLM, threads=1).infer_raw_batch(plain[1]), outputs[0])


def test_a_crop_takes_its_pixels():
    build = ModelBuilder()
    source = build.tensor((1, 3, 4, 2), 0.1)
    model = build.build(source, build.elementwise("RELU", source, (0.1, 0)))
    rows = np.arange(24, dtype=np.int8)[np.newaxis]
    cut = crop(model, rows, 2, 1, 3)
    assert cut is not None
    np.testing.assert_array_equal(cut[1].reshape(3, 2, 2), np.arange(24).reshape(3, 4, 2)[:, 1:3])
    assert read_graph(cut[0]).output.shape == (1, 3, 2, 2)


def test_a_runtime_in_a_process_of_its_own_comes_back_after_a_crash():
    model = random_policy(3)
    rows = rows_of(model, 3)
    with IsolatedRuntime("int8-reference") as runtime:
        first = runtime.infer_raw_batch(model, rows)
        assert runtime._process is not None
        runtime._process.kill()
        runtime._process.wait()
        np.testing.assert_array_equal(runtime.infer_raw_batch(model, rows), first)
    with IsolatedRuntime("int8-reference", timeout_s=0) as slow, pytest.raises(RuntimeCrashError, match="does not answer"):
        slow.infer_raw_batch(model, rows)


def test_a_process_that_ends_is_a_crash(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with IsolatedRuntime("tflm") as runtime, pytest.raises(RuntimeCrashError, match="ends its process"):
        runtime.infer_raw_batch(random_policy(3), rows_of(random_policy(3), 1))


# --- the folder -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The case of a board that requantizes with the first channel's scale."""
    model = actor((4, 6, 2), "RELU", per_channel=True, seed=4, squash=None)

    def board(path: Path | None):
        return connect("native", model=path, engine="int8", firmware_fault="model-first-scale")

    side = BoardSide(board, is_started=True, predict=lambda *_: iter(()))
    found = reduce(model, rows_of(model), side, Emulated("tflm", TFLM))
    assert found is not None
    assert found.cause.startswith(IGNORED_CHANNEL_SCALES)
    folder = tmp_path_factory.mktemp("cases")
    return reduced_case.write(found, folder, "actor", found.answers.b, "native")


def pytest_status(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--hil-history", "off", str(folder), *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_the_test_fails_on_the_faulty_board_and_passes_on_a_correct_one(faulty: Path):
    assert {path.name for path in faulty.iterdir()} == {"model.tflite", "case.json", "test_reduced.py"}
    native = ("--hil-board", "native", "--hil-engine", "int8")
    status, text = pytest_status(faulty, *native, "--hil-broken", "model-first-scale")
    assert status == 1, text
    assert "ignored channel scales" in text
    reduced_case.check_board(faulty, "native", engine="int8")


def test_a_board_of_somebody_else_is_sent_the_model(faulty: Path):
    from balance_hil.boards.definition import find_definition
    from balance_hil.boards.kinds.machines import emulate
    from balance_hil.bundle import Bundle
    from balance_hil.paths import MODELS

    for fault in (None, "model-first-scale"):
        machine = emulate(find_definition("native"), Bundle.load(MODELS / "ppo"), engine="int8", fault=fault)
        try:
            port = machine.start_unopened()
            if fault is None:
                reduced_case.check_board(faulty, "native", port=port)
                continue
            with pytest.raises(AssertionError, match="does not give"):
                reduced_case.check_board(faulty, "native", port=port)
        finally:
            machine.close()


def test_folders_do_not_replace_each_other(faulty: Path, tmp_path: Path):
    model = stride_above_the_filter()
    found = reduce(model, rows_of(model), Emulated("int8-xnnpack", XNNPACK), Emulated("tflm", TFLM), limit_s=0)
    assert found is not None
    names = [reduced_case.write(found, tmp_path, "net", None, None).name for _ in range(2)]
    assert names == ["net-1", "net-2"]
    assert not [path for path in tmp_path.iterdir() if path.name not in names]
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot"):
        reduced_case.write(found, tmp_path / "file", "net", None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "other"},
        {"inputs": [[1, 2]]},
        {"inputs": [[128]]},
        {"inputs": "x"},
        {"expected": []},
        {"cause": 3},
        {"inputs": [[1], [2]]},
    ],
)
def test_a_damaged_case_is_refused(faulty: Path, tmp_path: Path, change: dict[str, object]):
    for path in faulty.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    document = json.loads((tmp_path / "case.json").read_text()) | change
    (tmp_path / "case.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match="holds no reduced case"):
        reduced_case.read(tmp_path)


def test_what_a_board_says_cannot_end_the_docstring(tmp_path: Path):
    assert reduced_case._harmless('""" \n\\x') == "??? ??x"


# --- the command ------------------------------------------------------------------------------------------------------------


def _run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        compare.command(words, standalone_mode=False, prog_name="compare")
    return int(str(ended.value.code))


@pytest.mark.slow
def test_the_command_writes_a_case_of_two_desktop_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("net.tflite").write_bytes(random_network(1))
    words = ["net.tflite", "--reduce", "--runtimes", "int8-xnnpack,tflm", "--samples", "64", "--json"]
    assert _run(words) == 1
    document = json.loads(capsys.readouterr().out)
    contract.check("reduce", document)
    case = document["reduced"]
    assert (case["operators"], case["cause"]) == (["CONV_2D"], DROPPED_INPUT)
    with pytest.raises(AssertionError, match="XNNPACK drops"):
        reduced_case.check_runtimes(Path(case["folder"]))
    build = ModelBuilder()
    source = build.tensor((1, 8), 0.1)
    Path("relu.tflite").write_bytes(build.build(source, build.elementwise("RELU", source, (0.1, 0))))
    assert _run(["relu.tflite", "--reduce", "--runtimes", "int8-reference,tflm", "--samples", "9"]) == 0
    assert "nothing differs" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_with_int16_activations_is_cut_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("wide.tflite").write_bytes(random_network(3, element=INT16X8))
    assert _run(["wide.tflite", "--reduce", "--runtimes", "int16x8-builtin,tflm", "--samples", "64"]) == 1
    (folder,) = Path("reduced").iterdir()
    case = reduced_case.read(folder)
    graph = read_graph(case.model)
    assert ([operator.name for operator in graph.operators], graph.n_obs, graph.n_act) == (["FULLY_CONNECTED"], 1, 1)
    assert case.rows.dtype == np.int16
    assert np.abs(case.rows).max() > 128
    with pytest.raises(AssertionError, match=REDUCED_MULTIPLIER):
        reduced_case.check_runtimes(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reduce", "--runtimes", "tflm"], "nothing to compare"),
        (["--reduce", "--runtimes", "torch,tflm"], "torch is not a runtime of int8 models"),
        (["--reduce", "--layers"], "--layers does not go with --reduce"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(words: list[str], message: str):
    with pytest.raises(HarnessError, match=message):
        compare.command(["ppo", *words], standalone_mode=False)
