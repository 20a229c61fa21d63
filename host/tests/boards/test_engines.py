"""Which engine a board gets, and whether it can take a model: told from the model, before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from balance_hil.boards import connect, engines, find_definition
from balance_hil.boards.arena import compact_need, tflm_need
from balance_hil.boards.engines import DEFAULT_ARENA_BYTES, MAX_ACT, MAX_OBS, MAX_VALUES, OPERATORS, check_fits, choose_engine
from balance_hil.boards.kinds import native, qemu
from balance_hil.boards.upload import transfer
from balance_hil.errors import (
    ArenaTooSmallError,
    FirmwareBuildError,
    HarnessError,
    ModelTooWideError,
    UnsupportedOperatorError,
    UsageError,
)
from balance_hil.model_image import KERNELS, SHAPE_ARITHMETIC, ModelImage
from balance_hil.quantize import FLOAT32, INT16X8
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.convolutional_models import OPERATORS as CONVOLUTIONAL
from balance_hil.testing.convolutional_models import random_network
from balance_hil.testing.synthetic_models import ModelBuilder, actor, linear, random_policy
from balance_hil.tflite.graph import read_graph

NATIVE, M4, TEENSY = (find_definition(name) for name in ("native", "qemu-m4", "teensy41"))
FIRMWARE = Path(__file__).parents[3] / "firmware"


def dense(n_obs: int, n_act: int, hidden: int = 4) -> bytes:
    return actor((n_obs, hidden, n_act), "RELU", per_channel=True, seed=0)


def wide(n_obs: int, n_act: int) -> bytes:
    """One layer, not calibrated: that would take seconds for a quarter of a million values."""
    return linear(np.ones((n_act, n_obs)), 1.0)


@pytest.mark.parametrize("board", [M4, TEENSY], ids=["qemu", "serial"])
def test_tflm_where_its_library_is_else_the_compact_engine(board, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.delenv("HIL_TFLM_LIB", raising=False)
    assert choose_engine(board, None, said.append) == "int8"
    assert said == [f"{board.name} uses the compact engine, int8: HIL_TFLM_LIB does not name a TensorFlow Lite Micro library"]
    monkeypatch.setenv("HIL_TFLM_LIB", "/somewhere")
    assert choose_engine(board, None, said.append) == "tflm"
    assert len(said) == 1


def test_the_native_board_follows_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert choose_engine(NATIVE, None, said.append) == "int8"
    assert "tflite-micro wheel" in said[0]
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    assert choose_engine(NATIVE, None, said.append) == "tflm"


@pytest.mark.parametrize("kind", [INT16X8, FLOAT32], ids=lambda kind: kind.name)
@pytest.mark.parametrize("board", [NATIVE, M4, TEENSY], ids=lambda board: board.name)
def test_an_element_type_that_the_compact_engine_does_not_run_is_refused_before_anything_else(board, kind) -> None:
    build = ModelBuilder(kind)
    source = build.tensor((1, 3000), 0.01)  # too wide, and an operator that no engine has
    model = build.build(source, build.operator("EXP", (source,), build.tensor((1, 3000), 1 / 32768)))
    with pytest.raises(
        UsageError, match=f"compact engine, int8, on {board.name} runs int8 models, this one is {kind.name}"
    ) as refused:
        check_fits(board, model, "int8")
    assert "--engine tflm" in refused.value.hint


def test_what_is_asked_for_is_taken_and_what_does_not_exist_refused() -> None:
    assert choose_engine(M4, "tflm") == "tflm"
    assert choose_engine(replace(M4, engine="tflm"), None) == "tflm"
    assert choose_engine(replace(M4, engine="tflm"), "int8") == "int8"
    with pytest.raises(UsageError, match="no engine 'abacus'"):
        choose_engine(M4, "abacus")


@pytest.mark.parametrize(("board", "engine"), [(NATIVE, "int8"), (NATIVE, "tflm"), (M4, "int8"), (TEENSY, "tflm")])
def test_a_model_that_is_too_wide_is_refused_with_need_and_limit(board, engine: str) -> None:
    check_fits(board, wide(MAX_VALUES // 2, 2), engine)
    with pytest.raises(ModelTooWideError, match=f"its inputs take {MAX_VALUES + 1} bytes, a board has room for {MAX_VALUES}"):
        check_fits(board, wide(MAX_VALUES + 1, 2), engine)
    with pytest.raises(ModelTooWideError, match=f"its outputs take {MAX_VALUES + 1} bytes, a board has room for {MAX_VALUES}"):
        check_fits(board, wide(1, MAX_VALUES + 1), engine)


def test_a_wide_model_that_leaves_no_memory_is_refused_with_need_and_limit() -> None:
    """The board keeps its input twice, besides what the engine needs."""
    f405 = find_definition("f405")
    check_fits(f405, dense(640, 640), "int8")
    with pytest.raises(ArenaTooSmallError, match=r"needs \d+ bytes of memory besides the model, f405 has \d+ for it"):
        check_fits(f405, wide(12_000, 2), "int8")


@pytest.mark.parametrize(
    ("board", "engine", "operator"),
    [(NATIVE, "int8", "HARD_SWISH"), (M4, "int8", "HARD_SWISH"), (TEENSY, "int8", "HARD_SWISH"), (M4, "tflm", "ROUND")],
)
def test_an_operator_that_is_missing_is_named(board, engine: str, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIL_TFLM_LIB", raising=False)
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    model = builder.build(source, builder.elementwise(operator, source, (0.1, 0)))
    with pytest.raises(
        UnsupportedOperatorError, match=rf"{engine} on {board.name} cannot run .* {operator} \(number 0\)"
    ) as caught:
        check_fits(board, model, engine)
    here = "--engine tflm" if board is NATIVE else "--board native --engine tflm"
    assert f"use what runs this model: {here};" in caught.value.hint
    check_fits(NATIVE, model, "tflm")


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [("STRIDED_SLICE", "INT8", 4), ("ADD", "INT32", 4), ("SHAPE", "INT64", 0)],
    ids=lambda value: str(value),
)
def test_the_compact_engine_computes_shapes_and_nothing_else_of_them(name: str, kind: str, number: int) -> None:
    builder = ModelBuilder()
    source = builder.tensor((1, 2, 2, 1), scale=0.1)
    flat = builder.flatten(source)
    check_fits(M4, builder.build(source, flat), "int8")
    if name == "STRIDED_SLICE":
        numbers = [builder.numbers(values) for values in ([0, 0], [1, 4], [1, 1])]
        flat = builder.operator(name, (flat, *numbers), builder.tensor((1, 4), 0.1))
    elif name == "ADD":
        sizes = builder.operators[0].outputs[0]
        builder.operator(name, (sizes, sizes), builder.tensor((4,), kind="INT32"))
    else:
        builder.tensors[builder.operators[0].outputs[0]].type = builder.schema.TensorType.INT64
    for board in (M4, NATIVE):
        with pytest.raises(UnsupportedOperatorError, match=rf"model: {name} of {kind} \(number {number}\); .*PACK \(INT32\)"):
            check_fits(board, builder.build(source, flat), "int8")


def test_a_board_that_nothing_helps_is_told_what_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow Lite Micro is not there, or does not have the operator either."""
    monkeypatch.delenv("HIL_TFLM_LIB", raising=False)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    for operator, hint in (("HARD_SWISH", "HIL_TFLM_LIB names"), ("COS", "hil compare MODEL without --board")):
        builder = ModelBuilder()
        source = builder.tensor((1, 4), scale=0.1)
        model = builder.build(source, builder.elementwise(operator, source, (0.1, 0)))
        with pytest.raises(UnsupportedOperatorError) as caught:
            check_fits(M4, model, "int8")
        assert hint in caught.value.hint


def test_tflm_runs_on_a_board_what_the_compact_engine_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIL_TFLM_LIB", "/somewhere")
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    model = builder.build(source, builder.elementwise("HARD_SWISH", source, (0.1, 0)))
    with pytest.raises(UnsupportedOperatorError, match="HARD_SWISH") as caught:
        check_fits(M4, model, "int8")
    assert caught.value.hint.startswith("use what runs this model: --engine tflm;")
    assert check_fits(M4, model, "tflm") == 0


def image(size: int, channels: int) -> bytes:
    """A convolution whose input has few values, and its output size * size * channels; a mean makes two of them."""
    builder = ModelBuilder()
    source = builder.tensor((1, 4, 4, 1), 0.1)
    target = builder.tensor((1, size, size, 1), 0.1)
    edge = (size - 4) // 2
    padded = builder.operator("PAD", (source, builder.numbers([[0, 0], [edge, edge], [edge, edge], [0, 0]])), target)
    weights = builder.tensor((channels, 3, 3, 1), 0.1, data=np.ones((channels, 3, 3, 1), np.int8))
    wide = builder.operator("CONV_2D", (padded, weights), builder.tensor((1, size, size, channels), 0.5), strideH=1, strideW=1)
    mean = builder.operator("MEAN", (wide, builder.numbers([1, 2])), builder.tensor((1, channels), 0.5))
    ones = np.ones((2, channels), np.int8)
    return builder.build(source, builder.dense(mean, ones, 0.1, (0.5, 0)))


@pytest.mark.parametrize("engine", ["int8", "tflm"])
def test_a_convolution_that_needs_more_memory_than_a_board_has_is_refused_with_need_and_limit(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIL_TFLM_LIB", "/somewhere")
    f405, pico = find_definition("f405"), find_definition("pico")
    model = image(64, 16)  # one tensor of 65,536 bytes and one of 4,096
    with pytest.raises(ArenaTooSmallError, match=rf"{engine} needs \d+ bytes .*, f405 has 28000 for it") as caught:
        check_fits(f405, model, engine)
    assert 65_536 + 4_096 < caught.value.needed_bytes < 80_000
    assert caught.value.hint.startswith("use what runs this model: --board qemu-m4 --engine int8; or make the largest tensor, ")
    assert "the output of CONV_2D (number 1) of 65536 bytes" in caught.value.hint
    assert check_fits(pico, model, engine) >= caught.value.needed_bytes
    assert 65_536 + 4_096 < check_fits(M4, model, engine) < 100_000
    assert check_fits(M4, image(8, 4), engine) == 0  # the default is enough
    check_fits(NATIVE, model, engine)


@pytest.mark.parametrize(("engine", "firmware"), [("int8", 24_000), ("tflm", 50_000)])
def test_a_model_that_is_larger_than_the_flash_is_refused_with_need_and_limit(engine: str, firmware: int) -> None:
    model = dense(200, 8, hidden=2140)
    assert len(model) < 524_288  # it is the whole image that must fit
    need = len(model) + firmware
    with pytest.raises(FirmwareBuildError, match=f"{len(model)} bytes make an image of at least {need} .* has 524288") as caught:
        check_fits(find_definition("qemu-m55"), model, engine)
    assert "--board qemu-m4" in caught.value.hint
    assert f"export a model of at most {524_288 - firmware} bytes" in caught.value.hint
    check_fits(M4, model, engine)
    check_fits(TEENSY, model, engine)  # whose linker knows


def test_the_arena_of_a_board_of_ones_own_is_that_of_its_file() -> None:
    own = replace(M4, hal="hal", environment="custom", arena_bytes=16_384)
    model = dense(200, 8, hidden=4000)
    needed = compact_need(read_graph(model)).least
    with pytest.raises(ArenaTooSmallError, match=f"needs {needed} bytes .* has 16384") as caught:
        check_fits(own, model, "int8")
    assert f"set arena_bytes to {-(-needed // 16) * 16} in " in caught.value.hint
    assert check_fits(replace(own, arena_bytes=needed), model, "int8") == 0
    assert check_fits(M4, model, "int8") == -(-needed // 16) * 16


@pytest.mark.parametrize("seed", range(3))
def test_what_tflm_takes_on_the_desktop_is_within_the_bound(seed: int) -> None:
    """Its pointers are twice as wide there, so a board needs less; the kernels of CMSIS-NN need memory that these do not."""
    model = random_network(seed, [name for name in CONVOLUTIONAL if name.split()[-1] in KERNELS])
    needed = TflmRuntime(model).needed_arena_bytes()
    assert needed <= tflm_need(read_graph(model), model).least <= 2 * needed


@pytest.mark.parametrize("board", ["native", "qemu-m4"])
def test_nothing_is_built_or_started_for_a_model_that_does_not_fit(board: str, tmp_path, monkeypatch) -> None:
    path = tmp_path / "wide.tflite"
    path.write_bytes(wide(MAX_VALUES + 1, 2))
    for kind in (native, qemu):
        monkeypatch.setattr(kind, "machine", lambda *arguments: pytest.fail("a board was built"))
    with pytest.raises(ModelTooWideError):
        connect(board, model=path)


def test_the_limits_are_those_of_the_firmware() -> None:
    policy = (FIRMWARE / "lib/policy/include/policy/policy.h").read_text()
    image = (FIRMWARE / "src/board_engine/board_engine.h").read_text()
    assert f"HIL_ARENA_BYTES ({DEFAULT_ARENA_BYTES // 1024} * 1024)" in image
    assert f"#define HIL_MAX_OBS {MAX_OBS}\n" in policy
    assert f"#define HIL_MAX_ACT {MAX_ACT}\n" in policy
    assert f"-DHIL_MAX_OBS={MAX_VALUES} -DHIL_MAX_ACT={MAX_VALUES} " in (FIRMWARE.parent / "platformio.ini").read_text()
    engine = (FIRMWARE / "lib/engine_int8/include/engine_int8/int8_engine.h").read_text()
    own, added, of_shapes = (set(names.split(", ")) for names in re.findall(r": ([A-Z][A-Z0-9_, ]+)\.$", engine, re.MULTILINE))
    assert own | added | of_shapes == set(OPERATORS["int8"])
    assert (added, of_shapes) == (set(KERNELS), set(SHAPE_ARITHMETIC))
    assert set(OPERATORS["tflm"]) >= set(OPERATORS["int8"]) - {"RELU_N1_TO_1"}, "TFLM lacks this one"


@pytest.fixture(scope="module")
def m4(ppo_bundle):
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    with connect("qemu-m4", ppo_bundle, engine="int8") as board:
        yield board


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_the_arena_is_counted_as_the_board_counts_it(m4, seed: int) -> None:
    """By way of uploads: the board says how much the model that it took needs, or how much it would have needed."""

    model = random_policy(seed)
    runtime = TflmRuntime(model)
    assume(runtime.n_act <= MAX_ACT)
    rows = np.random.default_rng(seed).integers(-128, 128, (2, runtime.n_obs)).astype(np.int8)
    m4.bundle = None
    transfer(m4, ModelImage(model=model, inputs=rows, outputs=runtime.infer_raw_batch(rows)))
    assert m4.identify().arena_used == compact_need(read_graph(model)).all_kept


def test_the_arena_that_a_board_can_have_is_what_its_image_leaves(m4) -> None:
    from elftools.elf.elffile import ELFFile

    assert m4.image is not None
    with m4.image.open("rb") as file:
        elf = ELFFile(file)
        variables = [each for each in elf.iter_sections() if each["sh_flags"] & 3 == 3 and each.name != ".stack"]
        (limit,) = elf.get_section_by_name(".symtab").get_symbol_by_name("hil_stack_limit")
        free = limit["st_value"] - max(each["sh_addr"] + each["sh_size"] for each in variables) + DEFAULT_ARENA_BYTES
    assert free - 8192 <= engines._chip(M4)["build"]["arena_bytes"] <= free - 1024
