"""The comparison and the replay on boards with emulated Cortex-M processors, tensors of every layer included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from balance_hil.boards.kinds import qemu
from balance_hil.bundle import Bundle
from balance_hil.cli import compare, replay
from balance_hil.errors import HarnessError
from balance_hil.runtimes import load_runtime

from .recordings import write_recording


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")


@pytest.mark.parametrize("board", ["qemu-m4", "qemu-m7"])
def test_every_layer_equals_tflm(board: str, ppo_bundle: Bundle) -> None:
    options = ["--samples", "60", "--layer-samples", "20", "--observations", "golden", "--runtimes", "tflm,int8-xnnpack"]
    result = CliRunner().invoke(
        compare.command, [str(ppo_bundle.path), "--board", board, "--layers", "--json", *options], catch_exceptions=False
    )
    found = json.loads(result.stdout)
    assert (result.exit_code, found["board_equals_tflm"], found["unexplained"]) == (0, True, 0)
    like_tflm = [layer for layer in found["layers"] if {layer["a"], layer["b"]} == {"tflm", "board"}]
    assert [(layer["operator"], layer["values"], layer["differing"]) for layer in like_tflm] == [
        ("FULLY_CONNECTED", 20 * 32, 0),
        ("FULLY_CONNECTED", 20 * 32, 0),
        ("FULLY_CONNECTED", 20 * 2, 0),
    ]
    named = next(a for a in found["arithmetics"] if a["runtime"] == "board")
    assert (named["variant"], named["mismatches"]) == ("tflm", 0)


def test_a_recording_replays_bit_for_bit(ppo_bundle: Bundle, tmp_path: Path) -> None:
    with load_runtime("tflm", ppo_bundle) as tflm:
        recording = write_recording(tmp_path / "run.mcap", ppo_bundle, tflm, steps=120)
    options = ["--bundle", str(ppo_bundle.path), "--board", "qemu-m7", "--json"]
    result = CliRunner().invoke(replay.command, [str(recording), *options], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["equal"], found["steps"]) == (0, True, 120)
    assert [row["differing"] for row in found["rows"]] == [0, 0, 0]
