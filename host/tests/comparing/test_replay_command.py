"""``hil replay`` from its arguments to its exit status, on the shipped bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from balance_hil import boards
from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.cli import replay as cli
from balance_hil.errors import BundleError, RecordingError, RecordingMismatchError, UsageError
from balance_hil.quantize import RawArray
from balance_hil.runtimes import load_runtime
from balance_hil.runtimes.base import ModelRuntime
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info

from .recordings import write_recording


@pytest.fixture
def tflm(ppo_bundle: Bundle) -> ModelRuntime:
    runtime = load_runtime("tflm", ppo_bundle)
    assert isinstance(runtime, ModelRuntime)
    return runtime


@pytest.fixture
def run_file(tmp_path: Path, ppo_bundle: Bundle, tflm: ModelRuntime, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recording in a folder where policies/ holds the bundle under another name."""
    shutil.copytree(ppo_bundle.path, tmp_path / "policies" / "renamed")
    monkeypatch.chdir(tmp_path)
    return write_recording(tmp_path / "run.mcap", ppo_bundle, tflm, steps=400)


def hil_replay(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.command, [str(argument) for argument in arguments], standalone_mode=False)


def test_equal_exits_with_0_and_the_document_has_its_keys(run_file: Path, ppo_bundle: Bundle) -> None:
    result = hil_replay(run_file, "--runtime", "tflm", "--json")
    assert result.exit_code == 0, result.exception
    document = json.loads(result.stdout)
    assert next(iter(document)) == "schema"
    assert document["verdict"] == {"good": True, "reasons": []}
    assert set(document) >= {"recording", "bundle", "recorded_by", "replayed_by", "episodes", "steps", "held", "late", "equal"}
    assert (document["bundle"], document["steps"], document["equal"]) == (ppo_bundle.id, 400, True)
    assert [row["what"] for row in document["rows"]] == ["input_int8", "output_int8", "action"]
    assert set(document["rows"][0]) == {"what", "a", "b", "steps", "values", "differing", "max_lsb", "first"}


def test_another_arithmetic_exits_with_1_and_says_where(run_file: Path) -> None:
    result = hil_replay(run_file, "--runtime", "int8-reference", "--json")
    assert result.exit_code == 1
    rows = {row["what"]: row for row in json.loads(result.stdout)["rows"]}
    assert rows["input_int8"]["differing"] == 0
    assert rows["output_int8"]["differing"] > 0
    assert set(rows["output_int8"]["first"]) == {"episode", "step", "t_s", "index", "signal", "recorded", "replayed"}
    printed = hil_replay(run_file, "--runtime", "int8-reference")
    assert "first differing output_int8: episode " in printed.stdout
    assert printed.stdout.splitlines()[-1].startswith("FAIL: int8-reference differs from what bench computed")


@pytest.mark.parametrize("flip", [0, 1])
def test_a_board(run_file: Path, ppo_bundle: Bundle, tflm: ModelRuntime, monkeypatch: pytest.MonkeyPatch, flip: int) -> None:
    opened: list[tuple[str, dict[str, Any]]] = []

    def policy(values: RawArray) -> RawArray:
        output = tflm.infer_raw(values).copy()
        output[1] ^= values[0] & flip
        return output

    def connect(name: str, bundle: Bundle, **options: Any) -> Board:
        opened.append((name, options))
        return fake_board(FakeFirmware(fake_info(bundle), policy), bundle)

    monkeypatch.setattr(boards, "connect", connect)
    result = hil_replay(run_file, "--board", "bench", "--port", "COM7")
    assert result.exit_code == flip, result.exception
    assert (opened[0][0], opened[0][1]["port"]) == ("bench", "COM7")
    assert ("bit for bit" in result.stdout) == (flip == 0)


def test_the_bundle_can_be_named(run_file: Path, ppo_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tmp_path / "policies")
    monkeypatch.setattr(cli, "MODELS", tmp_path / "nothing")
    without = hil_replay(run_file, "-r", "tflm")
    assert isinstance(without.exception, BundleError)
    assert "--bundle" in without.exception.hint
    assert hil_replay(run_file, "-r", "tflm", "--bundle", ppo_bundle.path).exit_code == 0


def test_a_recording_of_another_model(tmp_path: Path, ppo_bundle: Bundle, tflm: ModelRuntime) -> None:
    path = write_recording(tmp_path / "run.mcap", ppo_bundle, tflm, steps=2, recorded_with="f" * 12)
    result = hil_replay(path, "-r", "tflm", "--bundle", ppo_bundle.path)
    assert isinstance(result.exception, RecordingMismatchError)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ([], UsageError, "name one of"),
        (["-r", "tflm", "-b", "native"], UsageError, "name one of"),
        (["-r", "tflm", "--port", "COM7"], UsageError, "belong to a board"),
        (["-r", "int9"], UsageError, "no runtime 'int9'"),
    ],
)
def test_bad_arguments(run_file: Path, options: list[str], kind: type[Exception], text: str) -> None:
    result = hil_replay(run_file, *options)
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


def test_no_such_recording(tmp_path: Path) -> None:
    assert isinstance(hil_replay(tmp_path / "nowhere.mcap", "-r", "tflm").exception, RecordingError)
