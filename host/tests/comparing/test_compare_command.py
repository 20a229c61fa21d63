"""``hil compare`` from its arguments to its exit status, on the shipped bundle and a board in plain Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from balance_hil import boards
from balance_hil.boards import Board
from balance_hil.bundle import MANIFEST, Bundle
from balance_hil.cli import compare as cli
from balance_hil.comparing import model_under_test as module
from balance_hil.errors import HarnessError, MissingExtraError, UsageError
from balance_hil.quantize import Normalization, QuantParams
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import Runtime
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_bundle import synthetic_bundle

Int8 = NDArray[np.int8]


class Plug:
    """Puts a fake board where ``connect`` would open one."""

    def __init__(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = TflmRuntime(bundle.model())
        self.opened: list[tuple[str, dict[str, Any]]] = []
        self._bundle, self._patch = bundle, monkeypatch

    def plug(self, policy: Callable[[Int8], Int8] | None = None, input_quant: QuantParams | None = None) -> None:
        model = self.model
        operators = len(model.graph.operators)
        layers = [lambda values, op=op: model.layers(values)[op] for op in range(operators)]
        firmware = FakeFirmware(replace(fake_info(self._bundle), n_ops=operators), policy or model.infer_raw, layers=layers)
        board = fake_board(firmware, self._bundle)
        if input_quant is not None:  # after the handshake: a board that says one thing and does another
            firmware.info = replace(firmware.info, input_zero_point=input_quant.zero_point)

        def connect(name: str, bundle: Bundle, **options: object) -> Board:
            self.opened.append((name, options))
            return board

        self._patch.setattr(boards, "connect", connect)


@pytest.fixture
def plug(ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Plug:
    return Plug(ppo_bundle, monkeypatch)


def run(bundle: Bundle, *options: str) -> Result:
    command = [str(bundle.path), "--samples", "40", "--layer-samples", "8", "--observations", "golden", *options]
    return CliRunner().invoke(cli.command, command, standalone_mode=False)


def test_a_board_that_equals_tflm_exits_with_0(ppo_bundle: Bundle, plug: Plug) -> None:
    plug.plug()
    result = run(ppo_bundle, "--board", "bench", "--port", "COM7", "--wait", "5", "--runtimes", "float32,int8-builtin", "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["board_equals_tflm"] is True
    assert document["board"] == "fake"
    assert document["model"] == ppo_bundle.id
    assert document["inputs"] == 80
    assert document["runtimes"] == ["float32", "int8-builtin", "tflm", "board"], "the reference joins in when the board"
    assert document["board_io"]["observations"] > 1000, "probes are sent besides the recorded observations"
    assert (document["board_io"]["input_differing"], document["board_io"]["action_differing"]) == (0, 0)
    assert [(found["stage"], found["fault"]) for found in document["findings"]] == [("input", ""), ("model", ""), ("output", "")]
    assert (document["unexplained"], document["verdict"]) == (0, {"good": True, "reasons": []})
    assert {(p["a"], p["b"]) for p in document["pairs"]} == {
        ("int8-builtin", "tflm"),
        ("int8-builtin", "board"),
        ("tflm", "board"),
    }
    assert len(document["layers"]) == 3 * len(plug.model.graph.operators)
    ((name, options),) = plug.opened
    assert name == "bench"
    assert {key: value for key, value in options.items() if value and key != "progress"} == {"port": "COM7", "wait_s": 5.0}


def test_a_board_that_differs_unexplained_says_where(ppo_bundle: Bundle, plug: Plug) -> None:
    model = plug.model

    def wrong(values: Int8) -> Int8:
        output = model.infer_raw(values)
        output[1] ^= values[0] & 1
        return output

    plug.plug(wrong)
    result = run(ppo_bundle, "--board", "bench", "--runtimes", "tflm")
    assert result.exit_code == 1
    assert "the board differs from tflm: " in result.stdout
    assert "by up to 1 LSB" in result.stdout
    assert "are unexplained" in result.stdout
    assert "the board differs in a way that is not known (model: " in result.stdout


@pytest.mark.parametrize(("off", "known"), [(1, True), (-1, True), (7, False)])
def test_a_board_that_quantizes_wrongly_is_told_how_if_the_way_is_known(
    off: int, known: bool, ppo_bundle: Bundle, plug: Plug
) -> None:
    quant = ppo_bundle.input_quant
    plug.plug(input_quant=replace(quant, zero_point=quant.zero_point + off))
    result = run(ppo_bundle, "--board", "bench", "--runtimes", "tflm")
    assert result.exit_code == 1
    assert "converts otherwise than the host" in result.stdout
    assert ("the board takes a zero point that is 1 too" in result.stdout) == known
    assert ("are unexplained" in result.stdout) != known


def test_without_a_board_it_reports_and_exits_with_0(ppo_bundle: Bundle) -> None:
    result = run(ppo_bundle, "--runtimes", "torch,onnx,float32,int8-xnnpack,int8-reference,tflm", "--layers")
    assert result.exit_code == 0
    for text in (
        "torch",
        "onnx",
        "int8-xnnpack",
        "From float to int8",
        "Differing int8 outputs",
        "is explained; no board took part",
    ):
        assert text in result.stdout


def test_what_is_not_installed_is_left_out_and_named(ppo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, bundle: Bundle) -> Runtime:
        if name in ("torch", "onnx", "float32"):
            raise MissingExtraError(f"this needs {name}", "install it: pip install something")
        return load_runtime(name, bundle)

    monkeypatch.setattr(module, "load_runtime", load)
    result = run(ppo_bundle)
    assert result.exit_code == 0
    assert "skipped torch: this needs torch; install it: pip install something" in result.stderr
    assert "From float to int8" not in result.stdout
    asked = run(ppo_bundle, "--runtimes", "torch,tflm")
    assert isinstance(asked.exception, MissingExtraError), "what was asked for by name is not left out"


def test_a_board_is_never_judged_without_its_reference(ppo_bundle: Bundle, plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, bundle: Bundle) -> Runtime:
        if name == "tflm":
            raise MissingExtraError("no tflm on this computer", "install it")
        return load_runtime(name, bundle)

    plug.plug()
    monkeypatch.setattr(module, "load_runtime", load)
    assert isinstance(run(ppo_bundle, "--board", "bench").exception, MissingExtraError)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (["--runtimes", "tflm,int9"], UsageError, "no such runtime: int9"),
        (["--recording", "nowhere.mcap"], HarnessError, "no such recording: nowhere.mcap"),
        (["--port", "COM7"], UsageError, "belong to a board"),
    ],
)
def test_bad_arguments(ppo_bundle: Bundle, options: list[str], kind: type[Exception], text: str) -> None:
    result = run(ppo_bundle, *options)
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


def test_a_recording_gives_the_observations(ppo_bundle: Bundle, tmp_path: Path) -> None:
    from balance_hil.recording import RecordingWriter, Step

    path = tmp_path / "run.mcap"
    with RecordingWriter(path, {"clock": "lockstep"}, ppo_bundle.spec) as writer:
        for i in range(25):
            writer.step(i * 0.005, Step(i * 0.005, 0, i, [i / 100] * 6, [0.0, 0.0], False, [], 0.0, [0] * 6, [0, 0]))
    result = run(ppo_bundle, "--runtimes", "tflm,int8-reference", "--recording", str(path), "--json")
    document = json.loads(result.stdout)
    assert (document["random"], document["recorded"], document["recorded_from"]) == (40, 25, "recording run.mcap")


# --- A policy with a normalization --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    rng = np.random.default_rng(0)
    deviation = 10.0 ** rng.uniform(-3, 3, 9)
    by = Normalization(rng.normal(0, 3, 9) * deviation, 1 / deviation, 1.5)
    return synthetic_bundle(tmp_path_factory.mktemp("bundles") / "normalized", 9, 2, normalization=by)


def test_a_normalizing_board_is_compared_behind_the_normalization(normalized: Bundle) -> None:
    result = run(normalized, "--board", "native", "--engine", "int8", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["verdict"]["good"], document["unexplained"]) == (0, True, 0)
    assert document["model"] == normalized.id
    assert [found["stage"] for found in document["findings"]] == ["normalization", "input", "model", "output"]
    assert all(found["fault"] == "" for found in document["findings"])
    assert document["board_io"]["input_differing"] == 0
    assert {skip["runtime"] for skip in document["skipped"]} >= {"torch", "onnx", "float32"}, "this bundle has no float model"


def test_a_board_that_normalizes_otherwise_is_told_how(normalized: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    by, model = normalized.normalization, TflmRuntime(normalized.model())
    assert by is not None
    layers = [lambda values, op=op: model.layers(values)[op] for op in range(len(model.graph.operators))]
    info = replace(fake_info(normalized), n_ops=len(layers))
    firmware = FakeFirmware(info, model.infer_raw, Normalization(by.mean, by.inverse_std, 1e30), layers)
    monkeypatch.setattr(boards, "connect", lambda *_, **__: fake_board(firmware, normalized))
    result = run(normalized, "--board", "bench", "--runtimes", "tflm")
    assert result.exit_code == 1
    assert "the board does not clip (normalization: " in result.stdout
    assert "remedy: normalize with firmware/lib/quantize" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("FAIL: the board converts otherwise than the host: ")


def test_observations_of_an_environment_that_is_not_here_are_the_golden_ones(normalized: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(normalized.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["spec"]["environment"] = "somebody:Robot-v0"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    result = CliRunner().invoke(
        cli.command, [str(folder), "--samples", "30", "--runtimes", "tflm,int8-builtin", "--json"], standalone_mode=False
    )
    document = json.loads(result.stdout)
    assert (result.exit_code, document["recorded"]) == (0, 30)
    assert document["recorded_from"].startswith(
        "the bundle's golden vectors, for the module of 'somebody:Robot-v0' cannot be imported"
    )
