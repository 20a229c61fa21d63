"""The compact engine stays within its goals on a Cortex-M4; instruction counts repeat exactly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from balance_hil.benchmarks import engine
from balance_hil.boards import find_definition
from balance_hil.boards.kinds.instruction_count import code_bytes
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.cli import bench
from balance_hil.errors import HarnessError, UsageError
from balance_hil.paths import PROJECT
from balance_hil.quantize import FLOAT32, INT8
from balance_hil.testing.convolutional_models import image_network
from balance_hil.testing.synthetic_models import ModelBuilder
from balance_hil.tflite.graph import read_graph

GOALS = {"TANH": (9_200, 197_000), "RELU": (8_500, 80_000)}  # instructions of one inference and of loading, 6-64-64-2

MAP = """
Discarded input sections

 .text.gone     0x00000000       0x10 lib/libengine.a(a.o)

Linker script and memory map

 .text.one      0x00000100       0x20 .pio/lib1/libengine.a(a.o)
 .text._ZN3hil11LongNameHereE
                0x00000120       0x08 .pio/lib1/libengine.a(b.o)
 .rodata.str1.1
                0x00000200       0x04 .pio/lib1/libengine.a(b.o)
                                 0x10 (size before relaxing)
 .text.gone     0x00000000       0x40 .pio/lib1/libengine.a(c.o)
 .bss.memory    0x20000000      0x100 .pio/lib1/libengine.a(a.o)
 .text.other    0x00000300      0x200 .pio/lib2/libserver.a(s.o)
"""


def test_code_is_what_the_linker_kept_of_the_library():
    assert code_bytes(MAP, ("engine",)) == 0x20 + 0x08 + 0x04
    assert code_bytes(MAP, ("engine", "server")) == 0x22C


def test_what_is_recorded_of_tflm_is_what_the_page_shows():
    page = (PROJECT / "docs/engines.md").read_text()
    rows = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in page.splitlines() if "|" in row}
    dense = {policy: boards for policy, boards in engine.RECORDED.items() if policy != "conv"}
    recorded = {policy: {board: cost["inference_instructions"] for board, cost in boards.items()}
                for policy, boards in dense.items()}  # fmt: skip
    m3, m7, m55 = (int(cell.replace(",", "")) for cell in rows["TFLM with CMSIS-NN, tanh"])
    m3_relu, _, m55_relu = (int(cell.replace(",", "") or 0) for cell in rows["TFLM with CMSIS-NN, relu"])
    m4 = {name: int(rows[row][1].replace(",", "")) for name, row in
          (("TANH", "6-64-64-2, tanh"), ("RELU", "6-64-64-2, relu"), ("ppo", "`models/ppo`"))}  # fmt: skip
    assert recorded == {
        "TANH": {"qemu-m3": m3, "qemu-m4": m4["TANH"], "qemu-m7": m7, "qemu-m55": m55},
        "RELU": {"qemu-m3": m3_relu, "qemu-m4": m4["RELU"], "qemu-m55": m55_relu},
        "ppo": {"qemu-m4": m4["ppo"]},
    }
    code = {cost["code_bytes"] for boards in dense.values() for cost in boards.values() if "code_bytes" in cost}
    assert rows["engine, code and constants"][1] == f"{code.pop():,} B"
    assert not code
    conv = engine.RECORDED["conv"]["qemu-m4"]
    layers = read_graph(image_network()).operators
    shown = {int(name[0]): rows[name][1] for name in rows if re.match(r"\d [A-Z0-9_]+", name) and len(rows[name]) == 3}
    assert shown == {layer.index: f"{conv['operator_instructions'][layer.index]:,}" for layer in layers}
    assert rows["the whole network"][1] == f"{conv['inference_instructions']:,}"


@pytest.mark.parametrize("policy", GOALS)
def test_goals_on_a_cortex_m4(policy: str):
    try:
        check_installation(find_definition("qemu-m4"))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    cost = engine.measure(find_definition("qemu-m4"), "int8", engine.typical(policy)).cost
    inference, load = GOALS[policy]
    assert cost.inference_instructions <= inference
    assert cost.load_instructions <= load
    assert cost.code_bytes <= 6_000
    assert cost.stack_bytes <= 832
    assert cost.arena_bytes + cost.object_bytes <= 2_400
    assert 0 < sum(cost.operator_instructions) <= cost.inference_instructions


@pytest.mark.slow
@pytest.mark.parametrize(("board", "unit"), [("pico", "cycles"), ("qemu-m4", "instructions")])
def test_a_whole_inference_is_measured_layer_by_layer_in_one_unit(board: str, unit: str):
    try:
        check_installation(find_definition(board))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    rows = engine.run([board], models=[engine.SHIPPED])
    rows = [row for row in rows if row["what"] == f"{board} int8 ppo" and row["unit"] != "B"]
    times = [row["value"] for row in rows if row["unit"] == "us"]
    rows = [row for row in rows if row["unit"] != "us"]
    assert {row["unit"] for row in rows} == {unit}
    cost = {row["metric"].strip(): row["value"] for row in rows}
    assert times == ([pytest.approx(cost["frame to frame"] / 125, abs=0.1)] if unit == "cycles" else [])  # MHz
    operators = [f"{index} FULLY_CONNECTED" for index in range(3)]
    assert sum(cost[name] for name in operators) == pytest.approx(cost["inference"], rel=0.03)
    parts = [cost[name] for name in ("decode", "quantize", "engine", "dequantize", "encode")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(cost["frame to frame"], rel=0.02)


@pytest.mark.parametrize(
    ("board", "library", "of_int8", "of_float32"),
    [
        ("native", "", ("int8",), ("tflm",)),
        ("native", "/lib", ("int8",), ("tflm",)),
        ("qemu-m4", "", ("int8",), None),
        ("qemu-m4", "/lib", ("int8", "tflm"), ("tflm",)),
    ],
)
def test_the_engines_that_run_a_model_are_measured(board: str, library: str, of_int8, of_float32, monkeypatch):
    monkeypatch.setenv("HIL_TFLM_LIB", library)
    for kind, engines in ((INT8, of_int8), (FLOAT32, of_float32)):
        build = ModelBuilder(kind)
        source = build.tensor((1, 6), 0.01)
        model = build.build(source, build.operator("RELU", (source,), build.tensor((1, 6), 0.01)))
        policy = engine.Policy("relu", model, Path("model.h"))
        if engines is not None:
            assert engine._engines(find_definition(board), policy) == engines
            continue
        with pytest.raises(UsageError, match="runs int8 models, this one is float32"):
            engine._engines(find_definition(board), policy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loop", "--board", "pico"], "hil bench loop chooses its boards itself"),
        (["loop", "--model", "ppo"], "hil bench loop chooses its models itself"),
        (["engine", "--port", "/dev/null"], "--port belongs to one board"),
        (["engine", "--board", "pica"], "unknown board"),
    ],
)
def test_a_board_that_makes_no_sense_is_wrong_usage(words: list[str], message: str):
    with pytest.raises(HarnessError, match=message):
        bench.command(words, standalone_mode=False)
