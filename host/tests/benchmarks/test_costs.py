"""Costs that are kept in a file: what grows is named, what cannot be compared is said, and a bad file is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from balance_hil.benchmarks import engine
from balance_hil.benchmarks.costs import Cost, Saved, compare_costs, read, read_all, save
from balance_hil.benchmarks.image_sizes import UNNAMED, ImageSizes, image_sizes
from balance_hil.boards import BoardDefinition
from balance_hil.boards.kinds.instruction_count import EngineCost
from balance_hil.boards.profile import Profile
from balance_hil.bundle import Bundle
from balance_hil.cli import bench
from balance_hil.documents import SCHEMAS
from balance_hil.errors import ConfigError, FirmwareBuildError, HarnessError, UsageError
from balance_hil.tflite.graph import read_graph

COST = Cost(
    board="qemu-m4", engine="int8", policy="ppo", engine_version="1", model="21ff", compiler="GCC 12.2.1", firmware="4fff",
    unit="instructions", cost={"inference": 4000, "0 FULLY_CONNECTED": 1000}, memory={"arena": 600, "flash": 30_000},
    flash={"main": 2000, UNNAMED: 300}, ram={"board": 8000},
)  # fmt: skip


def saved(*costs: Cost) -> Saved:
    return Saved(path="main.json", time_s=1.0, commit="aaaa", costs=costs)


def test_what_is_read_is_what_was_saved(tmp_path: Path):
    path = tmp_path / "costs.json"
    save(path, [COST])
    assert read(path).costs == (COST,)
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(path.read_text()), json.loads((SCHEMAS / "costs.json").read_text()))


@pytest.mark.parametrize(
    ("table", "name", "before", "now", "reason"),
    [
        ("cost", "0 FULLY_CONNECTED", 1000, 1021, "qemu-m4 int8 ppo: 0 FULLY_CONNECTED 1,000 to 1,021 instructions (+2.1%)"),
        ("cost", "0 FULLY_CONNECTED", 1000, 1020, None),  # no more than the threshold
        ("memory", "arena", 600, 616, "qemu-m4 int8 ppo: arena 600 to 616 B (+2.7%)"),
        ("memory", "arena", 100, 115, None),  # too few bytes
        ("flash", "main", 2000, 2100, "qemu-m4 int8 ppo: flash, symbol main 2,000 to 2,100 B (+5.0%)"),
        ("flash", UNNAMED, 300, 400, None),
        ("flash", "main", 2000, 100, None),
        ("ram", "board", 8000, 9000, "qemu-m4 int8 ppo: RAM, symbol board 8,000 to 9,000 B (+12.5%)"),
    ],
)
def test_what_has_grown_is_named(table: str, name: str, before: float, now: float, reason: str | None):
    was, cost = (replace(COST, **{table: {**getattr(COST, table), name: value}}) for value in (before, now))
    found = compare_costs([cost], saved(was))
    assert [(change.before, change.now) for change in found.changes] == [(before, now)]
    assert found.verdict.reasons == ((reason,) if reason else ())


def test_a_new_symbol_counts_in_its_sum():
    found = compare_costs([replace(COST, flash={"g": 2000, UNNAMED: 300})], saved(COST))
    assert {change.text for change in found.changes} == {"flash, symbol main is gone, 2,000 B", "flash, symbol g is new, 2,000 B"}
    assert found.verdict.good


def test_other_models_and_units_are_not_compared():
    other = replace(COST, model="9999", cost={"inference": 1})
    found = compare_costs([other], saved(COST))
    assert found.verdict.reasons == ("qemu-m4 int8 ppo: not compared, its model was 21ff and is 9999",)
    assert not found.changes
    assert (
        "its unit was instructions and is cycles" in compare_costs([replace(COST, unit="cycles")], saved(COST)).verdict.reasons[0]
    )


def test_a_board_of_one_side_alone_is_a_reason():
    pico = replace(COST, board="pico")
    assert "main.json does not have it" in compare_costs([COST, pico], saved(COST)).verdict.reasons[0]
    assert "not measured now" in compare_costs([COST], saved(COST, pico)).verdict.reasons[0]
    assert compare_costs([COST], saved(COST, pico), boards=["qemu-m4"]).verdict.good


def test_another_compiler_is_named():
    found = compare_costs([replace(COST, compiler="GCC 14", engine_version="2")], saved(COST))
    assert found.otherwise == ("qemu-m4 int8 ppo: compiler GCC 12.2.1 to GCC 14", "qemu-m4 int8 ppo: engine version 1 to 2")


def test_microseconds_are_not_judged():
    was, now = (replace(COST, unit="us", cost={"inference": value}) for value in (100.0, 200.0))
    found = compare_costs([now], saved(was))
    assert found.verdict.good
    assert "its us are not judged" in found.not_judged[0]


def test_every_board_engine_and_model_has_its_layers_and_symbols(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "tflm").mkdir()
    (tmp_path / "tflm/library.json").write_text('{"version": "1.2.3"}')
    monkeypatch.setenv("HIL_TFLM_LIB", str(tmp_path))
    profile = partial(Profile, repeats=1, total=9, total_us=9, decode=1, quantize=1, engine=5, dequantize=1, encode=1)

    class Session:
        """A board that is never started."""

        def __init__(self, name: str, bundle: Bundle, engine: str | None, count_instructions: bool, port: str | None) -> None:
            names = [str(name) for name in bundle.golden("operators")]
            unit = "instructions" if count_instructions else "cycles"
            self._profile = profile(unit=unit, operators=tuple((name, 1.0) for name in names))
            self.image = tmp_path / "image.elf"
            facts = {"board": name, "engine": engine, "engine_version": "1", "firmware_commit": "4fff"}
            self.query_info = lambda: SimpleNamespace(**facts, arena_used=1, stack=2, flash=3, ram=4)

        def profile(self) -> Profile:
            return self._profile

        def __enter__(self) -> Session:
            return self

        def __exit__(self, *error: object) -> None:
            pass

    def measured(board: BoardDefinition, name: str, policy: engine.Policy) -> engine.Measurement:
        counts = [1] * len(read_graph(policy.model).operators)
        return engine.Measurement(board.name, name, policy, EngineCost(9, counts, 8, 7, 6, 5, 4, tmp_path / "image.elf"))

    sizes = ImageSizes(compiler="GCC", flash={"main": 10}, ram={"board": 20})
    monkeypatch.setattr(engine, "connect", Session)
    monkeypatch.setattr(engine, "measure", measured)
    monkeypatch.setattr(engine, "image_sizes", lambda path: sizes)
    _, costs = engine.measure_all(["qemu-m4", "pico"])
    by_name = {cost.name: cost for cost in costs}
    whole = [f"{board} {name} {model}" for board in ("qemu-m4", "pico") for name in ("int8", "tflm") for model in ("ppo", "conv")]
    alone = [f"qemu-m4 {name} {model}" for name in ("int8", "tflm") for model in ("tanh", "relu")]
    assert sorted(by_name) == sorted(whole + alone)
    for name in whole:
        layers = ["0 CONV_2D", "2 DEPTHWISE_CONV_2D", "8 SOFTMAX"] if name.endswith("conv") else ["2 FULLY_CONNECTED"]
        assert set(layers) < set(by_name[name].cost), name
        assert (by_name[name].flash, by_name[name].memory["flash"], by_name[name].memory["RAM"]) == ({"main": 10}, 10, 20)
    assert by_name["qemu-m4 tflm conv"].memory["code and constants"] == 7
    assert "code and constants" not in by_name["pico tflm conv"].memory  # only QEMU runs the engine by itself


def _document(**changes: object) -> str:
    cost = asdict(COST) | changes
    return json.dumps({"schema": "balance_hil/costs@2", "time_s": 1, "commit": "", "host_version": "", "costs": [cost]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 5000,
        '{"schema": "balance_hil/run@2"}',
        '{"schema": "balance_hil/costs@2", "time_s": 1, "commit": "", "costs": 3}',
        _document(cost={"inference": -1}),
        _document(cost={"inference": "fast"}),
        _document(cost={"inference": True}),
        _document(cost={"inference": 0}).replace(" 0", " NaN"),
        _document(cost={"inference": 10**400}),
        _document(cost={str(i): i for i in range(20_001)}),
        _document(board="a" * 1001),
        _document(board="\x1b[2J"),
        _document(ram=None),
        '{"schema": "balance_hil/costs@2", "time_s": 1, "commit": "", "costs": [7]}',
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no file of costs"):
        read(path)


def test_a_cost_that_is_there_twice_is_refused(tmp_path: Path):
    save(tmp_path / "costs.json", [COST, COST])
    with pytest.raises(ConfigError, match="qemu-m4 int8 ppo twice"):
        read_all([tmp_path])


def test_the_newest_file_of_a_folder_is_the_last(tmp_path: Path):
    for name, time_s in (("a", 3), ("b", 1), ("c", 2)):
        (tmp_path / f"{name}.json").write_text(_document().replace('"time_s": 1', f'"time_s": {time_s}'))
    assert [each.path for each in read_all([tmp_path])] == ["b.json", "c.json", "a.json"]


def test_sizes_are_what_the_linker_placed(tmp_path: Path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    source, image = tmp_path / "a.cpp", tmp_path / "a.elf"
    source.write_text("int table[100] = {1}; int zeros[50]; extern const char text[30] = {1}; int main() { return table[1]; }")
    subprocess.run([compiler, "-O1", source, "-o", image], check=True)
    found = image_sizes(image)
    assert "GCC" in found.compiler
    assert (found.ram["table"], found.ram["zeros"]) == (400, 200)
    assert (found.flash["table"], found.flash["text"]) == (400, 30)
    assert "zeros" not in found.flash
    assert "text" not in found.ram
    size = subprocess.run(["size", image], capture_output=True, text=True, check=True).stdout.splitlines()[1].split()
    text, data, bss = (int(word) for word in size[:3])
    assert (sum(found.flash.values()), sum(found.ram.values())) == (text + data, data + bss)
    assert min(found.flash.values()) >= 0


def test_a_file_that_no_linker_wrote_is_no_image(tmp_path: Path):
    (tmp_path / "a.elf").write_bytes(b"\x7fELF")
    with pytest.raises(FirmwareBuildError, match="no image of a linker"):
        image_sizes(tmp_path / "a.elf")


def _measured(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> None:
    row = {"what": "qemu-m4 int8 ppo", "metric": "inference", "value": 4000, "unit": "instructions"}
    monkeypatch.setattr(engine, "measure_all", lambda *_: ([row], [cost]))


def _run(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        bench.command(words, standalone_mode=False, prog_name="bench")
    return int(str(ended.value.code))


def test_the_command_fails_where_something_has_grown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("matplotlib")
    _measured(monkeypatch, COST)
    bench.command(["--save", str(tmp_path / "a.json")], standalone_mode=False)
    assert _run(["--against", str(tmp_path), "--picture", str(tmp_path / "costs.svg")]) == 0
    assert "nothing has grown by more than 2 %" in capsys.readouterr().out
    assert "qemu-m4 int8 ppo" in (tmp_path / "costs.svg").read_text()
    save(tmp_path / "a.json", [replace(COST, flash={"_ZN3hil4int811ReadProgramEv": 1000}, cost=COST.cost | {"inference": 3900})])
    _measured(monkeypatch, replace(COST, flash={"_ZN3hil4int811ReadProgramEv": 1100}))
    assert _run(["--against", str(tmp_path / "a.json"), "--threshold", "9"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "+10.0%" in out
    assert _run(["--against", str(tmp_path / "a.json"), "--threshold", "11", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["comparison"]["verdict"] == {"good": True, "reasons": []}
    assert len(document["comparison"]["changes"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loop", "--save", "a.json"], "measures times, which do not repeat"),
        (["--picture", "a.svg"], "--picture draws files"),
        (["--save", f"{__file__}/a.json"], "cannot make the folder"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(words: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        bench.command(words, standalone_mode=False)


def test_a_bad_file_is_refused_before_anything_is_measured(tmp_path: Path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(HarnessError, match="is no file of costs"):
        bench.command(["--against", str(tmp_path)], standalone_mode=False)
