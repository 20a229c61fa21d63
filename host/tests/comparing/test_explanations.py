"""``hil compare`` says why: causes of every pair, the arithmetic of an unknown board, faults at its ends, any model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from balance_hil import boards
from balance_hil.bundle import Bundle
from balance_hil.cli import compare as cli
from balance_hil.comparing import board_io
from balance_hil.comparing.attribution import IGNORED_CHANNEL_SCALES, REQUANTIZATION_ROUNDING
from balance_hil.comparing.compare import CompareConfig, compare
from balance_hil.comparing.comparison import IoDifference
from balance_hil.comparing.conversion_variants import probe_observations
from balance_hil.comparing.model_under_test import load_model
from balance_hil.errors import BundleError, ModelMismatchError, UsageError
from balance_hil.runtimes import INT8_RUNTIME_NAMES
from balance_hil.runtimes.emulated import EmulatedRuntime, Variant
from balance_hil.runtimes.emulated.rules import KNOWN_VARIANTS, REFERENCE, TFLM, TFLM_FIRST_SCALE, TFLM_SINGLE_ROUNDING
from balance_hil.testing.fake_board import FakeFirmware, fake_board, fake_info
from balance_hil.testing.synthetic_models import ModelBuilder, actor
from balance_hil.tflite.codec import edit

DOCS = Path(__file__).resolve().parents[3] / "docs" / "json.md"


def run(path: Path, *options: str, samples: int = 300) -> Result:
    command = [str(path), "--samples", str(samples), "--layer-samples", "20", "--observations", "golden", *options]
    return CliRunner().invoke(cli.command, command, standalone_mode=False)


def document(result: Result) -> dict:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return json.loads(result.stdout)


@pytest.fixture
def plug(ppo_bundle, monkeypatch):
    """Puts a board with the arithmetic of a variant, and a fault of its own, where ``connect`` would open one."""

    def plug(variant: Variant, spoil: Callable[[np.ndarray], np.ndarray] = lambda output: output) -> EmulatedRuntime:
        model = EmulatedRuntime(ppo_bundle.model(), variant)
        operators = range(len(model.graph.operators))

        @cache
        def computed(row: bytes) -> list[np.ndarray]:
            return [layer.values[0].copy() for layer in model.layers_raw_batch(np.frombuffer(row, np.int8)[np.newaxis])]

        layers = [lambda values, op=op: computed(values.tobytes())[op] for op in operators]
        info = replace(fake_info(ppo_bundle), n_ops=len(operators))
        board = fake_board(FakeFirmware(info, lambda values: spoil(computed(values.tobytes())[-1]), layers=layers), ppo_bundle)
        monkeypatch.setattr(boards, "connect", lambda *_, **__: board)
        # All probes are sent in test_compare_command and in test_diagnosis; a board in Python takes a millisecond for each.
        few = lambda *args, **options: probe_observations(*args, **options)[:40]  # noqa: E731
        monkeypatch.setattr(board_io, "probe_observations", few)
        return model

    return plug


@pytest.fixture(scope="module")
def lone_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "some.tflite"
    path.write_bytes(actor((5, 24, 16, 3), "TANH", per_channel=True, seed=2))
    return path


def test_every_difference_of_the_shipped_policy_is_explained(ppo_bundle: Bundle) -> None:
    found = document(run(ppo_bundle.path, "--runtimes", ",".join(INT8_RUNTIME_NAMES), "--json", samples=4000))
    assert len(found["pairs"]) == 6
    assert [pair["unexplained"] for pair in found["pairs"]] == [0] * 6
    assert sum(pair["differing"] for pair in found["pairs"]) > 100
    assert {name for pair in found["pairs"] for name in pair["causes"]} == {REQUANTIZATION_ROUNDING}
    assert all(sum(pair["causes"].values()) == pair["differing"] for pair in found["pairs"])
    assert {a["runtime"]: a["variant"] for a in found["arithmetics"]} == {
        "tflm": "tflm",
        "int8-xnnpack": "xnnpack",
        "int8-builtin": "builtin",
        "int8-reference": "reference",
    }
    assert (found["verdict"]["good"], found["unexplained"]) == (True, 0)


@pytest.mark.parametrize("variant", KNOWN_VARIANTS, ids=lambda variant: variant.name)
def test_a_board_of_each_arithmetic_is_named(variant: Variant, ppo_bundle: Bundle, plug) -> None:
    model = plug(variant)
    result = run(ppo_bundle.path, "--board", "bench", "--runtimes", "tflm", "--json")
    found = document(result)
    like_tflm = model.arithmetic() == EmulatedRuntime(ppo_bundle.model(), TFLM).arithmetic()
    assert result.exit_code == (0 if like_tflm else 1)
    assert found["unexplained"] == 0
    named = next(a for a in found["arithmetics"] if a["runtime"] == "board")
    assert named["mismatches"] == 0
    assert named["samples"] >= 20
    best, *left = (v for name in (named["variant"], *named["unseparated"]) for v in KNOWN_VARIANTS if v.name == name)
    alike = [EmulatedRuntime(ppo_bundle.model(), v).arithmetic() == model.arithmetic() for v in (best, *left)]
    assert any(alike)
    # These two differ at exact negative ties alone, which multipliers of 31 bits practically never reach.
    assert {v.name for v in left} <= {TFLM_SINGLE_ROUNDING.name, REFERENCE.name}
    assert alike[0] or left
    assert all(finding["fault"] == "" for finding in found["findings"])


def test_ignored_channel_scales_come_with_a_remedy(ppo_bundle: Bundle, plug) -> None:
    plug(TFLM_FIRST_SCALE)
    result = run(ppo_bundle.path, "--board", "bench", "--runtimes", "tflm")
    assert result.exit_code == 1
    assert "it applies the first channel's weight scale to every channel (tflm-first-scale): 0 of" in result.stdout
    assert "remedy: update the library (September 2024 or later), or export without channel scales" in result.stdout
    cause = re.search(rf"tflm +board +(\d+) +{IGNORED_CHANNEL_SCALES} +0 FULLY_CONNECTED", result.stdout)
    differing = re.search(r"the board differs from tflm: (\d+) of 1108 outputs", result.stdout)
    assert cause is not None
    assert differing is not None
    assert cause[1] == differing[1]  # that one cause explains every differing output
    assert int(cause[1]) > 0.8 * 1112


def test_a_named_fault_explains_the_board_and_exits_with_1(ppo_bundle: Bundle, plug) -> None:
    plug(TFLM, lambda output: output[::-1])
    result = run(ppo_bundle.path, "--board", "bench", "--runtimes", "tflm", "--json")
    found = document(result)
    assert (result.exit_code, found["unexplained"], found["board_equals_tflm"]) == (1, 0, False)
    (pair,) = found["pairs"]
    assert pair["causes"] == {"the board permutes the outputs: it takes 1, 0 for 0, 1": pair["differing"]}


def test_one_wrong_value_is_unexplained(ppo_bundle: Bundle, plug) -> None:
    count = 0

    def once(output: np.ndarray) -> np.ndarray:
        nonlocal count
        count += 1
        return output ^ np.int8(count == 7)

    plug(TFLM, once)
    result = run(ppo_bundle.path, "--board", "bench", "--runtimes", "tflm", "--json")
    found = document(result)
    assert (result.exit_code, found["unexplained"]) == (1, 2)
    assert "2 differences are unexplained" in found["verdict"]["reasons"]


def test_layers_tell_new_differences_from_propagated_ones(lone_model: Path) -> None:
    config = CompareConfig(samples=3000, layer_samples=3000)
    found = compare(load_model(lone_model), config)
    rows = [row for row in found.layers if {row.a, row.b} == {"int8-xnnpack", "tflm"}]
    assert [row.operator for row in rows] == ["FULLY_CONNECTED", "TANH"] * 3
    for row in rows:
        assert sum(row.new.values()) + row.propagated + row.unexplained == row.differing == sum(row.channels)
        assert sum(row.new_channels) == sum(row.new.values())
        assert row.unexplained == 0
    assert (rows[0].propagated, rows[0].max_new_lsb) == (0, 1)
    assert rows[0].differing > 0
    assert (rows[1].new, rows[1].propagated) == ({}, rows[1].differing)


def test_a_model_without_a_bundle(lone_model: Path) -> None:
    result = run(lone_model, "--json")
    found = document(result)
    assert (result.exit_code, found["unexplained"], found["recorded"], found["ladder"]) == (0, 0, 0, [])
    assert found["runtimes"] == list(INT8_RUNTIME_NAMES)
    assert len(found["pairs"]) == 6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--runtimes", "torch"], "a .tflite alone cannot run on torch"),
        (["--recording", "run.mcap"], "a recording belongs to a bundle"),
        (["--output", "action"], "has no output 'action'"),
    ],
)
def test_what_a_model_without_a_bundle_cannot_do(lone_model: Path, options: list[str], text: str) -> None:
    result = run(lone_model, *options)
    assert isinstance(result.exception, UsageError)
    assert text in str(result.exception)


def test_a_board_that_runs_another_model_is_not_compared(lone_model: Path, plug) -> None:
    plug(TFLM)
    assert isinstance(run(lone_model, "--board", "bench").exception, ModelMismatchError)


def two_outputs() -> bytes:
    def change(parsed) -> None:
        graph = parsed.subgraphs[0]
        graph.outputs = [graph.operators[1].outputs[0], *graph.outputs]  # the hidden layer, too
        for index, name in zip(graph.outputs, (b"features", b"action"), strict=True):
            graph.tensors[index].name = name

    return edit(actor((4, 16, 2), "TANH", per_channel=True, seed=1), change)


@pytest.mark.parametrize(("output", "size"), [("features", 16), ("1", 2)])
def test_one_of_several_outputs(tmp_path: Path, output: str, size: int) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(two_outputs())
    result = run(path, "--output", output, "--json")
    found = document(result)
    assert (result.exit_code, found["unexplained"]) == (0, 0)
    assert found["pairs"][0]["outputs"] == 300 * size


def test_several_outputs_want_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(two_outputs())
    with pytest.raises(UsageError, match="has 2 outputs") as caught:
        load_model(path)
    assert "--output: 0 (features), 1 (action)" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"no model at all", actor((2, 2), "RELU", per_channel=True, seed=1)[:200]])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.tflite"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        load_model(path)


def test_an_operator_without_emulator_is_named_and_the_layers_before_it_are_explained(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    build = ModelBuilder()
    x = build.tensor((1, 8), 0.05, 3)
    weights = build.tensor((64, 8), 0.01, data=rng.integers(-127, 128, (64, 8)).astype(np.int8))
    dense = build.operator("FULLY_CONNECTED", (x, weights), build.tensor((1, 64), 0.07, -5))
    path = tmp_path / "absolute.tflite"
    path.write_bytes(build.build(x, build.operator("ABS", (dense,), build.tensor((1, 64), 0.07, -5))))
    result = run(path, samples=2000)
    assert result.exit_code == 2
    assert "differences could not be attributed: the emulator does not support the operator ABS (number 1)" in result.stdout
    assert "0 FULLY_CONNECTED" in result.stdout  # among the layers, which are printed though nobody asked for them
    result = run(path, "--json", samples=2000)
    assert result.exit_code == 2
    layers = [row for row in document(result)["layers"] if row["op"] == 0 and row["differing"]]
    assert layers
    assert all(row["unexplained"] == 0 and sum(row["new"].values()) == row["differing"] for row in layers)


@pytest.mark.parametrize("name", ["layers.svg", "layers.png"])
def test_the_picture(lone_model: Path, tmp_path: Path, name: str) -> None:
    result = run(lone_model, "--picture", str(tmp_path / name))
    assert result.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    head = (tmp_path / name).read_bytes()[:200]
    assert head.startswith(b"\x89PNG") or b"<?xml" in head


@pytest.mark.parametrize(
    ("picture", "more"), [("layers.docx", []), ("nowhere/layers.svg", []), ("layers.svg", ["--layer-samples", "0"])]
)
def test_a_picture_that_cannot_be_drawn_is_refused_first(lone_model: Path, tmp_path: Path, picture: str, more: list[str]) -> None:
    result = run(lone_model, "--picture", str(tmp_path / picture), *more)
    assert isinstance(result.exception, UsageError)


def test_every_key_of_the_document_is_documented(ppo_bundle: Bundle, plug) -> None:
    plug(TFLM)
    found = document(run(ppo_bundle.path, "--board", "bench", "--runtimes", "float32,tflm", "--json", samples=20))
    section = DOCS.read_text().partition("## `hil compare`")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    documented = {key for cell in cells for key in re.findall(r"\w+", cell)}
    keys = set(found) | {field.name for field in fields(IoDifference)}
    assert found["skipped"] == []
    for table in ("pairs", "layers", "ladder", "arithmetics", "findings"):
        keys |= set(found[table][0])
    assert keys | set(found["board_io"]) == documented
    assert found["float_io"] == []
