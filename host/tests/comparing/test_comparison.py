"""Counting: every difference that the fakes were given comes out, where it was put, and no other."""

import json
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.comparing.board_io import BoardIo
from balance_hil.comparing.comparison import Comparison
from balance_hil.comparing.inputs import InputSet, make_inputs, spread_rows
from balance_hil.comparing.samples import CHUNK_ROWS, collect
from balance_hil.comparing.summarize import summarize
from balance_hil.errors import NonFiniteInputError, UsageError
from balance_hil.runtimes.base import Runtime

from .fakes import INPUT_QUANT, OUTPUT_QUANT, FakeFloat, FakeInt8, fake_bundle


def inputs(random: int = 300, recorded: int = 100) -> InputSet:
    observations = np.linspace(-1, 1, recorded * 6, dtype=np.float32).reshape(recorded, 6)
    return make_inputs(fake_bundle(), observations, random=random, seed=5, source="a ramp")


def compare(*runtimes: Runtime, layer_samples: int = 50, data: InputSet | None = None) -> Comparison:
    samples = collect(runtimes, data or inputs(), layer_samples=layer_samples)
    board = "fake" if any(r.name == "board" for r in runtimes) else None
    return summarize(samples, model_id="0123456789ab", board=board)


def test_equal_runtimes_do_not_differ() -> None:
    result = compare(FakeInt8("tflm"), FakeInt8("int8-reference"), FakeInt8("board"))
    assert [(p.a, p.b) for p in result.pairs] == [("tflm", "int8-reference"), ("tflm", "board"), ("int8-reference", "board")]
    assert all(p.outputs == 800 and p.differing == p.max_lsb == 0 and p.first_layer is None for p in result.pairs)
    assert result.board_equals_tflm is True
    assert result.verdict.good
    assert "bit for bit on 400 equal inputs" in result.summary


def test_one_wrong_output_in_every_row_is_counted_by_source() -> None:
    result = compare(FakeInt8("tflm"), FakeInt8("board", wrong={2: 3}))
    (pair,) = result.pairs
    assert (pair.differing, pair.max_lsb) == (400, 3)
    assert (pair.differing_random, pair.differing_recorded) == (300, 100)
    assert (pair.first_layer, pair.first_operator) == (2, "FULLY_CONNECTED")
    assert result.board_equals_tflm is False
    assert "400 of 800 outputs, by up to 3 LSB, from layer 2 (FULLY_CONNECTED) on" in result.verdict.line


def test_the_first_layer_is_the_one_that_went_wrong_not_the_ones_it_spoils() -> None:
    result = compare(FakeInt8("tflm"), FakeInt8("board", wrong={1: 20}))
    assert result.pairs[0].first_layer == 1
    assert result.pairs[0].first_operator == "RELU"
    by_op = {layer.op: layer for layer in result.layers}
    assert by_op[0].differing == 0
    assert (by_op[1].differing, by_op[1].max_lsb, by_op[1].values) == (50, 20, 50 * 8)
    assert by_op[2].differing > 0


def test_a_rare_difference_outside_the_sampled_rows_still_finds_its_layer() -> None:
    data = inputs(random=400, recorded=0)
    above = int(np.sort(data.raw[:, 0])[-2])  # only rows with the single largest first input differ
    rare = np.flatnonzero(data.raw[:, 0] > above)
    assert set(rare.tolist()).isdisjoint(spread_rows(len(data), 7).tolist())
    result = compare(FakeInt8("tflm"), FakeInt8("board", wrong={2: 1}, above=above), layer_samples=7, data=data)
    assert result.pairs[0].differing == len(rare)
    assert result.pairs[0].first_layer == 2
    assert result.layer_inputs == 7
    assert all(layer.differing == 0 for layer in result.layers), "rows picked because they differ must not enter the counts"


def test_layers_can_be_left_out() -> None:
    board = FakeInt8("board", wrong={2: 1})
    result = compare(FakeInt8("tflm"), board, layer_samples=0)
    assert board.layer_rows == 0
    assert result.layers == ()
    assert result.pairs[0].differing == 400
    assert result.pairs[0].first_layer is None


def test_an_operator_that_one_runtime_hides_is_not_compared() -> None:
    result = compare(FakeInt8("tflm"), FakeInt8("int8-xnnpack", wrong={1: 20}, hidden_ops=(1,)))
    assert [layer.op for layer in result.layers] == [0, 2]
    assert result.pairs[0].first_layer == 2


def test_the_ladder_steps_from_float_to_every_int8_runtime() -> None:
    result = compare(FakeFloat("torch"), FakeFloat("float32", shift=0.5), FakeInt8("tflm"), FakeInt8("board"))
    assert [(s.a, s.b) for s in result.ladder] == [("torch", "float32"), ("float32", "tflm"), ("float32", "board")]
    first = result.ladder[0]
    assert first.max_abs == pytest.approx(0.5, rel=1e-6)
    assert first.max_lsb == pytest.approx(0.5 / OUTPUT_QUANT.scale, rel=1e-6)
    assert first.differing == first.outputs == 800


def test_without_a_board_there_is_nothing_to_fail() -> None:
    result = compare(FakeInt8("tflm"), FakeInt8("int8-builtin", wrong={2: 1}))
    assert result.board_equals_tflm is None
    assert result.verdict.good
    assert "no board" in result.summary


@pytest.mark.parametrize(("io", "passed"), [(BoardIo(observations=9, input_differing=0, action_differing=0), True),
                                            (BoardIo(observations=9, input_differing=2, action_differing=0), False),
                                            (BoardIo(observations=9, input_differing=0, action_differing=1), False)])  # fmt: skip
def test_a_board_that_converts_otherwise_fails_though_its_model_is_right(io: BoardIo, passed: bool) -> None:
    result = replace(compare(FakeInt8("tflm"), FakeInt8("board")), board_io=io)
    assert result.verdict.good is passed
    assert ("converts otherwise" in result.verdict.line) is not passed


def test_the_document_is_json_with_the_agreed_keys() -> None:
    document = json.loads(json.dumps(compare(FakeFloat("torch"), FakeInt8("tflm"), FakeInt8("board")).to_dict(), allow_nan=False))
    assert next(iter(document.items())) == ("schema", "balance_hil/compare@2")
    assert {"inputs", "pairs", "layers", "board_equals_tflm", "skipped"} <= set(document)
    assert {"a", "b", "outputs", "differing", "max_lsb", "causes", "unexplained"} <= set(document["pairs"][0])
    assert document["inputs"] == 400
    assert document["pairs"][0]["causes"] is None
    assert document["board_equals_tflm"] is True
    assert document["verdict"] == {"good": True, "reasons": []}


def test_a_float_runtime_that_answers_nan_is_named() -> None:
    with pytest.raises(NonFiniteInputError, match="torch"):
        compare(FakeFloat("torch", shift=float("nan")), FakeInt8("tflm"))


def test_random_inputs_cover_the_int8_range_and_repeat_with_the_seed() -> None:
    a, b = inputs(random=4000), inputs(random=4000)
    assert np.array_equal(a.raw, b.raw)
    assert set(np.unique(a.raw[: a.random])) == set(range(-128, 128))
    assert a.recorded == 100
    assert np.array_equal(a.observations[0], (a.raw[0] * np.float32(INPUT_QUANT.scale)).astype(np.float32))


def test_inputs_that_make_no_comparison_are_refused() -> None:
    with pytest.raises(UsageError, match="nothing to compare"):
        inputs(random=0, recorded=0)
    with pytest.raises(UsageError, match="reads 6 numbers"):
        make_inputs(fake_bundle(), np.zeros((3, 5), np.float32), random=1, seed=0, source="")


def test_more_inputs_than_one_chunk_stay_in_order() -> None:
    data = inputs(random=2 * CHUNK_ROWS + 3, recorded=0)
    runtime = FakeInt8("tflm")
    assert np.array_equal(collect([runtime], data, layer_samples=0).outputs["tflm"], runtime.infer_raw_batch(data.raw))


def test_progress_reaches_the_total_for_every_runtime() -> None:
    seen: dict[str, tuple[int, int]] = {}

    def note(what: str, done: int, total: int) -> None:
        seen[what] = (done, total)

    collect([FakeFloat("torch"), FakeInt8("tflm")], inputs(), layer_samples=10, on_progress=note)
    assert seen == {"torch": (400, 400), "tflm": (400, 400), "tflm, every layer": (10, 10)}


def test_inputs_that_separate_arithmetics_are_none_of_the_inputs_that_are_counted() -> None:
    data = inputs(random=50, recorded=0)
    data = replace(data, raw=np.minimum(data.raw, 100).astype(np.int8))
    board = FakeInt8("board", wrong={0: 1}, above=120)
    separating = np.full((3, 6), 127, np.int8)
    samples = collect([FakeInt8("tflm"), board], data, layer_samples=10, separating=separating)
    first, second = (tensors[0].values for tensors in samples.trace.tensors.values())
    assert np.count_nonzero(first != second) == 3
    result = summarize(samples, model_id="", board="fake")
    assert (result.pairs[0].differing, result.pairs[0].first_layer, result.layer_inputs) == (0, None, 10)
    assert all(layer.differing == 0 for layer in result.layers)
