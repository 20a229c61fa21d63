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
from balance_hil.boards.engines import MAX_ACT, MAX_OBS, OPERATORS, arena_bytes, check_fits, choose_engine
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
from balance_hil.model_image import KERNELS, ModelImage
from balance_hil.runtimes.tflm import TflmRuntime
from balance_hil.testing.synthetic_models import ModelBuilder, actor, random_policy
from balance_hil.tflite.graph import read_graph

NATIVE, M4, TEENSY = (find_definition(name) for name in ("native", "qemu-m4", "teensy41"))
FIRMWARE = Path(__file__).parents[3] / "firmware"


def dense(n_obs: int, n_act: int, hidden: int = 4) -> bytes:
    return actor((n_obs, hidden, n_act), "RELU", per_channel=True, seed=0)


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


def test_what_is_asked_for_is_taken_and_what_does_not_exist_refused() -> None:
    assert choose_engine(M4, "tflm") == "tflm"
    assert choose_engine(replace(M4, engine="tflm"), None) == "tflm"
    assert choose_engine(replace(M4, engine="tflm"), "int8") == "int8"
    with pytest.raises(UsageError, match="no engine 'abacus'"):
        choose_engine(M4, "abacus")


@pytest.mark.parametrize(("board", "engine"), [(NATIVE, "int8"), (NATIVE, "tflm"), (M4, "int8"), (TEENSY, "tflm")])
def test_a_model_that_is_too_wide_is_refused_with_need_and_limit(board, engine: str) -> None:
    check_fits(board, dense(MAX_OBS, MAX_ACT), engine)
    with pytest.raises(ModelTooWideError, match="its 1200 inputs take 4802 bytes, a message holds 1024"):
        check_fits(board, dense(1200, 2), engine)
    with pytest.raises(ModelTooWideError, match="its 65 outputs take 260 bytes, a message holds 256"):
        check_fits(board, dense(6, 65), engine)


@pytest.mark.parametrize(("board", "engine"), [(NATIVE, "int8"), (M4, "int8"), (TEENSY, "int8"), (M4, "tflm")])
def test_an_operator_that_is_missing_is_named(board, engine: str) -> None:
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    model = builder.build(source, builder.elementwise("HARD_SWISH", source, (0.1, 0)))
    with pytest.raises(
        UnsupportedOperatorError, match=rf"{engine} on {board.name} cannot run .* HARD_SWISH \(number 0\)"
    ) as caught:
        check_fits(board, model, engine)
    assert "--board native --engine tflm" in caught.value.hint
    check_fits(NATIVE, model, "tflm")


def test_the_hint_names_an_engine_of_this_board_that_has_every_operator() -> None:
    builder = ModelBuilder()
    source = builder.tensor((1, 4), scale=0.1)
    model = builder.build(source, builder.elementwise("LOGISTIC", source, (1 / 256, -128)))
    with pytest.raises(UnsupportedOperatorError, match="LOGISTIC") as caught:
        check_fits(M4, model, "tflm")
    assert "--engine int8" in caught.value.hint
    check_fits(M4, model, "int8")


def test_a_model_that_is_larger_than_the_flash_is_refused_with_need_and_limit() -> None:
    model = dense(200, 8, hidden=2600)
    with pytest.raises(FirmwareBuildError, match=f"it has {len(model)} bytes, the flash 524288"):
        check_fits(find_definition("qemu-m55"), model, "tflm")
    check_fits(M4, model, "tflm")
    check_fits(TEENSY, model, "tflm")  # whose linker knows


def test_a_model_that_needs_more_memory_is_refused_with_need_and_limit() -> None:
    model = dense(200, 8, hidden=4000)
    needed = arena_bytes(read_graph(model))
    with pytest.raises(ArenaTooSmallError, match=f"needs {needed} bytes .* qemu-m4 has 16384") as caught:
        check_fits(M4, model, "int8")
    assert caught.value.needed_bytes == needed > 16_384
    check_fits(NATIVE, model, "int8")


@pytest.mark.parametrize("board", ["native", "qemu-m4"])
def test_nothing_is_built_or_started_for_a_model_that_does_not_fit(board: str, tmp_path, monkeypatch) -> None:
    path = tmp_path / "wide.tflite"
    path.write_bytes(dense(1200, 2))
    for kind in (native, qemu):
        monkeypatch.setattr(kind, "machine", lambda *arguments: pytest.fail("a board was built"))
    with pytest.raises(ModelTooWideError):
        connect(board, model=path)


def test_the_limits_are_those_of_the_firmware() -> None:
    policy = (FIRMWARE / "lib/policy/include/policy/policy.h").read_text()
    image = (FIRMWARE / "src/board_engine/board_engine.h").read_text()
    assert f"kMaxObs = {MAX_OBS};" in policy
    assert f"kMaxAct = {MAX_ACT};" in policy
    assert f"HIL_ARENA_BYTES ({find_definition('qemu-m4').arena_bytes // 1024} * 1024)" in image
    engine = (FIRMWARE / "lib/engine_int8/include/engine_int8/int8_engine.h").read_text()
    own, added = re.findall(r": ([A-Z][A-Z0-9_, ]+)\.$", engine, re.MULTILINE)
    assert set(own.split(", ") + added.split(", ")) == set(OPERATORS["int8"])
    assert set(added.split(", ")) == set(KERNELS)


@pytest.fixture(scope="module")
def m4(ppo_bundle):
    try:
        qemu.check_installation()
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    with connect("qemu-m4", ppo_bundle, engine="int8") as board:
        yield board


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_the_arena_is_counted_as_the_board_counts_it(m4, seed: int) -> None:
    """By way of uploads: the board says how much the model that it took needs, or how much it would have needed."""

    model = random_policy(seed)
    runtime = TflmRuntime(model)
    assume(runtime.n_act <= MAX_ACT)
    rows = np.random.default_rng(seed).integers(-128, 128, (2, runtime.n_obs)).astype(np.int8)
    m4.bundle = None
    transfer(m4, ModelImage(model=model, inputs=rows, outputs=runtime.infer_int8_batch(rows)))
    assert m4.identify().arena_used == arena_bytes(read_graph(model))
