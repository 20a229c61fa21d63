"""``hil verify``: every score can be given, the table fits suite and firmware, broken boards are caught for the right reason."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from balance_hil import boards
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.boards.kinds.native import firmware_faults
from balance_hil.boards.upload import transfer
from balance_hil.bundle import INT8_MODEL
from balance_hil.cli import verify as cli
from balance_hil.errors import BoardStatusError, HarnessError, ModelMismatchError, UsageError
from balance_hil.model_image import ModelImage
from balance_hil.paths import HIL_TESTS
from balance_hil.quantize import INT16X8
from balance_hil.testing.synthetic_bundle import bundle_of_model, synthetic_bundle
from balance_hil.testing.synthetic_models import actor
from balance_hil.tflite.graph import read_graph
from balance_hil.verifying.faults import FAULTS, find_fault
from balance_hil.verifying.suite import Case, read_report
from balance_hil.verifying.verify import FaultResult, VerifyConfig, score, verify

from .. import contract

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")

NATIVE = VerifyConfig(engine="int8")
# A handful of every kind: firmware, link, messages, text, time. One is not a fault with ppo, whose input has the zero point 0.
CAUGHT = [
    "model-constant",
    "link-loses-replies",
    "identity-stale-image",
    "watchdog-early",
    "text-three-digits",
    "time-clock-fast",
]
SKIPPED = "input-no-zero-point"
# The golden vectors cannot see how a text line is written; and a constant model has nothing to do with the weather.
UNSEEN = replace(FAULTS["text-three-digits"], test="test_model.py::test_golden_vectors_bit_for_bit")
OTHERWISE = replace(FAULTS["model-constant"], because="it rains")


@pytest.fixture(scope="module")
def result(ppo_bundle):
    return verify(ppo_bundle, NATIVE, [*(FAULTS[name] for name in (*CAUGHT, SKIPPED)), UNSEEN, OTHERWISE])


@pytest.mark.slow
def test_the_control_run_passes(result):
    assert result.control
    assert {case.outcome for case in result.control} == {"passed"}


@pytest.mark.slow
def test_broken_boards_are_caught_for_the_right_reason(result):
    assert [(r.fault.name, r.score, r.message) for r in result.faults[: len(CAUGHT)] if r.score != "caught"] == []


def test_what_is_no_fault_here_is_skipped_with_the_reason(result):
    skipped = result.faults[len(CAUGHT)]
    assert (skipped.fault.name, skipped.score, skipped.message) == (SKIPPED, "skipped", "the input's zero point is 0")


def test_a_fault_that_the_suite_does_not_see_is_missed(result):
    assert result.faults[-2] == FaultResult(UNSEEN, "missed", "", result.faults[-2].wall_s)


def test_a_failure_that_does_not_name_the_cause_is_a_wrong_reason(result):
    assert result.faults[-1].score == "wrong reason"
    assert "golden outputs: " in result.faults[-1].message
    assert result.verdict.reasons == ("text-three-digits: missed", "model-constant: wrong reason")


def test_the_document_keeps_the_contract(result):
    document = result.to_dict()
    contract.check("verify", document)
    counts = [document[name] for name in ("caught", "wrong_reason", "missed", "skipped")]
    assert counts == [len(CAUGHT), 1, 1, 1]


def test_nothing_is_scored_unless_the_suite_passes_without_a_fault(ppo_bundle):
    nowhere = VerifyConfig(port="/dev/does-not-exist")
    result = verify(ppo_bundle, nowhere, [FAULTS["reply-nan"]])
    assert result.faults == []
    assert re.search(r"without a fault test_quantization.py::\w+ fails: .*/dev/does-not-exist", result.verdict.line)


def test_a_board_that_cannot_have_firmware_faults_is_not_judged_by_them(ppo_bundle):
    result = verify(ppo_bundle, VerifyConfig(board="serial", port="/dev/null"), [FAULTS["input-wrap"]])
    assert result.faults[0].score == "skipped"
    assert result.verdict.reasons == ("no fault was tried",)


# --- scoring ----------------------------------------------------------------------------------------------------------

FAULT = FAULTS["watchdog-late"]
RIGHT = "AssertionError: watchdog_still_waits is 187 ms, outside [..100] ms"


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        ([Case(FAULT.test, "failed", RIGHT)], "caught"),
        ([Case(FAULT.test, "passed"), Case(FAULT.test, "failed", RIGHT)], "caught"),
        ([Case(FAULT.test, "failed", "the board did not answer")], "wrong reason"),
        ([Case("test_model.py::test_self_test_passes", "failed", RIGHT)], "wrong reason"),
        ([Case("the suite", "failed", "it did not end within 300 s")], "wrong reason"),
        ([Case(FAULT.test, "passed")], "missed"),
        ([Case(FAULT.test, "skipped", "why")], "missed"),
        ([], "missed"),
    ],
)
def test_score(cases, expected):
    assert score(FAULT, cases)[0] == expected


def test_a_report_of_pytest_is_read():
    report = (
        '<testsuites><testsuite><testcase classname="test_a" name="test_one[native-x]"><failure message="a &lt; b">text</failure>'
        '</testcase><testcase classname="hil_tests.test_a" name="test_two"/><testcase classname="test_a" name="test_three">'
        '<error message="setup"/></testcase><testcase classname="test_a" name="test_four"><skipped message="why"/></testcase>'
        "</testsuite></testsuites>"
    )
    assert read_report(report) == [
        Case("test_a.py::test_one", "failed", "a < b"),
        Case("test_a.py::test_two", "passed"),
        Case("test_a.py::test_three", "failed", "setup"),
        Case("test_a.py::test_four", "skipped", "why"),
    ]


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_fault_names_a_test_of_the_suite_and_a_message():
    files = {path.name: ast.parse(path.read_text()) for path in HIL_TESTS.glob("test_*.py")}
    tests = {f"{name}::{node.name}" for name, tree in files.items() for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {fault.test for fault in FAULTS.values()} <= tests
    for fault in FAULTS.values():
        assert re.compile(fault.because).search("") is None, f"{fault.name}: any message would do"


def test_the_firmware_faults_are_the_gallery():
    assert {fault.name: fault.what for fault in FAULTS.values() if fault.in_firmware} == firmware_faults()


def test_what_is_no_fault_depends_on_the_bundle(tmp_path, ppo_bundle):
    def absent(bundle):
        return {fault.name for fault in FAULTS.values() if fault.absent(bundle)}

    assert absent(ppo_bundle) == {"input-no-zero-point"}
    assert absent(synthetic_bundle(tmp_path / "one", 1, 1)) >= {"input-permuted", "model-permuted"}


def test_an_unknown_fault_is_refused():
    with pytest.raises(UsageError, match=r"unknown fault 'input-trunc', did you mean 'input-truncate'"):
        find_fault("input-trunc")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, result):
    """The command with a result that is there already: ``command(*words)``; what it chose is in ``command.chosen``."""

    def run(*words):
        return CliRunner().invoke(cli.command, [str(word) for word in words], standalone_mode=False)

    def stand_in(bundle, config, faults, on_progress, campaign):
        run.chosen = [fault.name for fault in faults]
        return run.result

    run.result = result
    monkeypatch.setattr(cli, "verify", stand_in)
    return run


def test_the_command_prints_a_table_and_ends_with_the_verdict(command, ppo_bundle):
    done = command("ppo", "--only", "watchdog,model-constant")
    assert command.chosen[0] == "model-constant"
    assert {FAULTS[name].group for name in command.chosen[1:]} == {"watchdog"}
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "FAIL: text-three-digits: missed; model-constant: wrong reason"
    assert re.search(r"model-constant +caught .*golden outputs: \d+ of \d+ values differ", done.stdout)


def test_the_command_ends_with_0_when_all_were_caught(command, result):
    command.result = replace(result, faults=[r for r in result.faults if r.score in ("caught", "skipped")])
    done = command("ppo")
    assert done.exit_code == 0
    assert (
        done.stdout.splitlines()[-1]
        == f"PASS: {len(CAUGHT)} of {len(CAUGHT)} faults caught for the right reason on native, 1 skipped"
    )
    assert json.loads(command("ppo", "--json").stdout)["verdict"] == {"good": True, "reasons": []}


def test_an_interrupted_run_prints_what_was_done(command, result):
    command.result = replace(result, interrupted=True)
    assert command("ppo").exit_code == 130


def test_the_list_needs_no_bundle(command):
    done = command("--list", "--only", "upload")
    assert done.exception is None
    assert "upload-damages" in done.stdout
    with pytest.raises(UsageError, match="unknown fault 'uploads', did you mean 'upload'"):
        raise command("--only", "uploads", "ppo").exception


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("board", ["native", "qemu-m4"])
def test_every_fault_is_caught_for_the_right_reason(ppo_bundle, board):
    try:
        check_installation(boards.find_definition(board))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    result = verify(ppo_bundle, VerifyConfig(board=board), list(FAULTS.values()))
    assert result.verdict.good, result.verdict.line
    assert result.count("caught") == len(FAULTS) - 1


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_every_fault_is_caught_with_another_policy(tmp_path):
    bundle = synthetic_bundle(tmp_path / "policy", 24, 4)
    result = verify(bundle, NATIVE, list(FAULTS.values()))
    assert result.verdict.good, result.verdict.line


# --- before any suite -------------------------------------------------------------------------------------------------


def test_a_flipped_weight_is_refused_before_any_test(ppo_bundle, tmp_path):
    """The board notices by its vectors, the handshake by the id."""
    sound = ModelImage.of(ppo_bundle)
    model = bytearray(sound.model)
    weights = max((t for t in read_graph(sound.model).tensors if t.type == "INT8" and t.data is not None), key=lambda t: t.size)
    model[sound.model.index(weights.data.tobytes())] ^= 0x40
    path = tmp_path / INT8_MODEL
    path.write_bytes(model)
    with boards.connect("native", model=path, engine="int8") as board:
        board.bundle = ppo_bundle
        with pytest.raises(ModelMismatchError, match=f"runs policy {board.info.model_id}, this run needs {ppo_bundle.id}"):
            board.identify()
    with boards.connect("native", ppo_bundle, engine="int8") as board, pytest.raises(BoardStatusError, match="vectors_differ"):
        transfer(board, replace(sound, model=bytes(model), id=""))


def test_a_bundle_that_boards_do_not_run_is_refused_before_one_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("balance_hil.verifying.verify.starts_here", None)  # what would be asked next
    bundle = bundle_of_model(tmp_path / "wide", actor((6, 4, 2), "RELU", per_channel=True, seed=0, element=INT16X8))
    with pytest.raises(UsageError, match="this bundle is int16x8"):
        verify(bundle, NATIVE, [FAULTS["model-constant"]])
