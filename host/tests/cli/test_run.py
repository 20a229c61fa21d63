import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from balance_hil import boards, cli, running
from balance_hil.boards.kinds.machines import check_installation
from balance_hil.bundle import Bundle
from balance_hil.cli import console, run_output, several_boards
from balance_hil.cli import run as cli_run
from balance_hil.environment import open_environment
from balance_hil.errors import HarnessError
from balance_hil.live import LivePage
from balance_hil.recording import read_recording
from balance_hil.recording.folder import repair
from balance_hil.running import Tick
from balance_hil.testing.synthetic_bundle import bundle_of_model
from balance_hil.testing.synthetic_models import linear

from .. import contract
from ..robots import write_robot

DEADLINE_S = 60.0
HIL = [sys.executable, "-c", "from balance_hil.cli import main; main()"]

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")


@pytest.fixture
def hil(monkeypatch, capsys, ppo_bundle, tmp_path):
    """Runs the command in this process; returns exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hil", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return exited.value.code, out, err

    return run


@pytest.fixture
def ppo(ppo_bundle):
    return str(ppo_bundle.path)


def test_the_cost_of_an_inference_and_of_its_layers_is_in_instructions_in_qemu(hil, ppo):
    try:
        check_installation(boards.find_definition("qemu-m4"))
    except HarnessError as exc:
        pytest.skip(f"{exc.message}; {exc.hint}")
    code, out, _ = hil("run", ppo, "--board", "qemu-m4", "--clock", "lockstep", "--steps", "5", "--json", "--record", "q.mcap")
    assert code == 0
    contract.check("run", json.loads(out))
    (found,) = json.loads(out)["runs"]
    cost = found["cost"]
    assert (cost["unit"], found["cycles_per_inference"]) == ("instructions", None)
    assert list(cost["parts"]) == ["engine", *(f"{index} FULLY_CONNECTED" for index in range(3))]
    assert cost["parts"]["engine"] == found["instructions_per_inference"] > 1_000
    assert read_recording("q.mcap").meta["cost"] == cost


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (None, "-"),
        ({"unit": "cycles", "parts": {"total": 9_000, "0 A": 1_234, "1 B": 5}}, "1,234 / 5 cycles"),
        ({"unit": "instructions", "parts": {"engine": 9_000}}, "-"),
        ({"unit": "cycles", "parts": {f"{k} A": k for k in range(9)}}, "0 / 1 / 2 / 3 / 4 / 5 … cycles"),
    ],
)
def test_the_table_shows_what_the_layers_cost(cost, shown):
    assert run_output._layers(SimpleNamespace(cost=cost)) == shown


def test_json_is_the_contract_and_the_recording_repeats_bit_for_bit(hil, ppo, ppo_bundle, tmp_path):
    documents = []
    for name in ("a.mcap", "b.mcap"):
        code, out, _ = hil("run", ppo, "--clock", "lockstep", "-n", "2", "--seconds", "1", "--json", "--record", name)
        assert code == 0
        documents.append(json.loads(out))
    assert documents[0]["schema"] == "balance_hil/run@2"
    contract.check("run", documents[0])
    (found,) = documents[0]["runs"]
    assert set(found["round_trip_us"]) == {"p50", "p99", "p999", "max"}
    assert found["bundle"] == {"name": "ppo", "id": ppo_bundle.id, "path": ppo}
    assert [(e["seed"], e["steps"], e["failed"]) for e in found["episodes"]] == [(s, 200, False) for s in (10_000, 10_001)]
    assert set(found["metrics"]) == set(found["episodes"][0]["metrics"]) >= {"return", "speed_error_rms_rad_s"}
    assert found["equals_tflm"] == {"checked": 400, "differing": 0, "emulated": False}
    assert found["recording"] == "a.mcap"
    assert found["verdict"] == {"good": True, "reasons": []}
    assert (tmp_path / "a.mcap").read_bytes() == (tmp_path / "b.mcap").read_bytes()
    repeat = read_recording("a.mcap").meta["command"]
    assert repeat == "hil run ppo --episodes 2 --clock lockstep --seconds 1.0"


@pytest.mark.parametrize(
    ("folder", "altered", "recorded"), [("a/ppo", False, "ppo"), ("a/ppo", True, "a/ppo"), ("a/other", False, "a/other")]
)
def test_a_recording_names_a_policy_by_its_name_where_that_finds_it(hil, ppo, folder, altered, recorded):
    shutil.copytree(ppo, folder)
    if altered:
        manifest = Path(folder, "bundle.json")
        manifest.write_text(manifest.read_text() + "\n")
    code, _, err = hil("run", folder, "--engine", "int8", "--clock", "lockstep", "--steps", "2", "--record", "a.mcap")
    assert code == 0, err
    assert read_recording("a.mcap").meta["command"].startswith(f"hil run {recorded} --")


def test_realtime_shows_a_table_and_says_where_the_recording_is(hil, ppo, tmp_path):
    code, out, err = hil("run", ppo, "--seconds", "1", "--max-lost", "1000")
    assert code == 0, err
    assert "1 of 1" in out
    assert re.search(r"board equals tflm +([1-9]\d*) of \1 *\n", out)
    (recording,) = (tmp_path / "recordings").iterdir()
    assert recording.name in err
    back = read_recording(recording)
    assert len(back) == 200
    assert back.meta["clock"] == "realtime"
    assert "started" in back.meta


def test_several_boards_make_one_table_and_one_document(hil, ppo, tmp_path):
    code, out, _ = hil(
        "run", ppo, "-b", "native,native", "--engine", "int8", "--clock", "lockstep", "--seconds", "0.2", "--no-record"
    )
    assert code == 0
    (heading,) = (line for line in out.splitlines() if line.startswith("board  "))
    assert heading.split() == ["board", "native", "native"]
    assert list(tmp_path.iterdir()) == []
    code, out, err = hil(
        "run", ppo, "-b", "native", "-b", "serial", "--engine", "int8", "--clock", "lockstep", "--steps", "40", "--json"
    )
    assert code == 2
    document = json.loads(out)
    contract.check("run", document)
    first, second = document["runs"]
    assert first["success_rate"] == 1.0
    assert "names no port" in second["error"]
    assert second["verdict"]["good"] is False
    assert "serial: " in err
    code, out, err = hil("run", ppo, "-b", "native", "-b", "nowhere", "--json")
    assert (code, out) == (2, ""), "before anything runs"
    assert "unknown board" in err


def test_upload_brings_another_policy_to_the_board(hil, ppo, ppo_bundle):
    other = Bundle.load(ppo_bundle.path.with_name("ppo-rounding-invariant"))
    length = ("--clock", "lockstep", "--seconds", "1", "--no-record")
    code, out, err = hil("run", str(other.path), "--engine", "int8", "--upload", "--json", *length)
    assert code == 0
    assert json.loads(out)["runs"][0]["equals_tflm"] == {"checked": 200, "differing": 0, "emulated": False}
    assert f"uploaded policy {other.id} to native: 5376 bytes in " in err
    assert "a reset brings its flashed policy back" in err
    code, _, err = hil("run", ppo, "--engine", "int8", "--upload", *length)
    assert code == 0
    assert f"native runs policy {ppo_bundle.id} already: nothing to upload" in err


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--fault", "drop:rate=0.05", "--max-lost", "3"], "4 control steps got no reply in time", 1),
        (["--fault", "drop:rate=1"], "stopped answering at step 0: nothing came for 0.3 s", 3),
        (["--fault", "cut:at_s=0.1"], "fault injection cut the cable", 3),
    ],
)
def test_a_run_that_fails_says_why_and_keeps_its_recording(hil, ppo, tmp_path, arguments, message, status):
    code, out, err = hil("run", ppo, "--clock", "lockstep", "--seconds", "5", "--record", "bad.mcap", *arguments)
    assert (code, out) == (status, "")
    assert message in err
    assert "hint:" in err
    assert "bad.mcap" in err
    assert message in read_recording(tmp_path / "bad.mcap").meta["ended"]


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--port", "/dev/ttyNOPE"], "no such port: /dev/ttyNOPE", 3),
        (["--board", "natvie"], "unknown board 'natvie'", 2),
        (["--board", "serial"], "names no port", 2),
        (["--fault", "melt"], "unknown fault: melt", 2),
        (["--fault", "drop:rate"], "cannot read 'rate' in the fault 'drop:rate'", 2),
        (["--engine", "abacus"], "no engine 'abacus'", 2),
        (
            ["--environment", "balance/Balanse-v0"],
            "unknown environment 'balance/Balanse-v0', did you mean 'balance/Balance-v0'",
            2,
        ),
        (["--env", "balance/MotorStand-v0"], "a control step of balance/MotorStand-v0 lasts 1 ms, not 5 ms", 2),
        (["--options", "none.yaml"], "cannot read none.yaml", 3),
        (["--record", "x.mcap", "--no-record"], "exclude each other", 2),
        (["--steps", "5", "--seconds", "1"], "--steps and --seconds exclude each other", 2),
        (["--board", "native,serial", "--port", "/dev/ttyACM0"], "are for one board", 2),
        (["--clock", "sundial"], "sundial", 2),
        (["--episodes", "0"], "0", 2),
    ],
)
def test_a_mistake_gets_a_message_and_a_hint(hil, ppo, arguments, message, code):
    exit_status, out, err = hil("run", ppo, *arguments)
    assert exit_status == code
    assert out == ""
    assert message in " ".join(err.split())
    assert "hint:" in err
    assert "Traceback" not in err


def test_a_bundle_that_is_none(hil, tmp_path):
    code, _, err = hil("run", str(tmp_path / "nothing"))
    assert code == 3
    assert "no such bundle" in err


def test_a_name_that_another_run_has_taken_is_not_taken_again(hil, ppo, tmp_path, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.setattr(cli_run, "datetime", Noon)
    folder = tmp_path / "recordings"
    folder.mkdir()
    taken = folder / "2026-01-01T120000-ppo-native-lockstep.mcap.partial"
    taken.write_text("another run")
    for name in ("-2", "-3"):
        code, _, err = hil("run", ppo, "--clock", "lockstep", "--steps", "5")
        assert code == 0
        assert f"native-lockstep{name}.mcap" in err
    assert taken.read_text() == "another run"

    real_run, others = running.run, ["another run, at the same moment"]

    def run_after_another_has_taken_the_name(board, bundle, config, *arguments, **options):
        if others:
            config.recording.with_name(f"{config.recording.name}.partial").write_text(others.pop())
        return real_run(board, bundle, config, *arguments, **options)

    monkeypatch.setattr(running, "run", run_after_another_has_taken_the_name)
    code, _, err = hil("run", ppo, "--clock", "lockstep", "--steps", "5")
    assert code == 0
    assert "native-lockstep-5.mcap" in err
    assert (folder / "2026-01-01T120000-ppo-native-lockstep-4.mcap.partial").read_text() == "another run, at the same moment"


@pytest.fixture
def own_robot(tmp_path_factory, monkeypatch):
    """The bundle of a policy for a robot package that lies in a folder of its own."""
    folder = tmp_path_factory.mktemp("project")
    write_robot(folder, "clibots")
    monkeypatch.syspath_prepend(folder)
    with open_environment("clibots:clibots/Cart-v0") as env:
        spec = env.spec
    yield bundle_of_model(folder / "policies" / "cart", linear([[0.3, 4.0, 0.5, 1.0]], 1.0), spec)
    sys.modules.pop("clibots", None)


def test_a_robot_of_ones_own(hil, own_robot, tmp_path):
    policy = str(own_robot.path)
    code, out, err = hil("run", policy, "--clock", "lockstep", "--json", "--no-record")
    assert code == 0, err
    document = json.loads(out)
    contract.check("run", document)
    (found,) = document["runs"]
    assert found["environment"] == "clibots:clibots/Cart-v0"
    assert [(e["steps"], e["failed"]) for e in found["episodes"]] == [(200, False)], "its own episode length"
    assert set(found["metrics"]) == {"return", "angle_rms_rad"}
    (tmp_path / "options.yaml").write_text("gain: 0.0\nreset:\n  angle_rad: 0.3\n")
    length = ("--clock", "lockstep", "--steps", "150", "--no-record")
    code, out, _ = hil("run", policy, *length, "--options", "options.yaml")
    assert code == 1
    assert re.search(r"native: FAIL: 1 of 1 episodes failed: seed 10000 after \d+ steps", out)
    code, out, _ = hil("run", policy, *length, "-e", "clibots:clibots/OwnLoop-v0")
    assert code == 0, "another environment with the same signals"
    assert "clibots:clibots/OwnLoop-v0" in out
    code, out, _ = hil("run", policy, *length, "--options", "options.yaml", "--terminated", "success", "--json")
    assert json.loads(out)["runs"][0]["success_rate"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "clibots:clibots/Cort-v0"], "did you mean 'clibots/Cart-v0'"),
        (["-e", "Pendulum-v1"], "cannot run on Pendulum-v1"),
        (["-e", "nowhere_bots:X-v0"], "No module named 'nowhere_bots'"),
        (["--options", "options.yaml"], "does not take these options"),
    ],
)
def test_an_environment_is_refused_before_a_board_is_started(hil, own_robot, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "options.yaml").write_text("gravitas: 3\n")
    monkeypatch.setattr(boards, "connect", lambda *_, **__: pytest.fail("a board was started"))
    code, out, err = hil("run", str(own_robot.path), *arguments)
    assert code in (2, 3)
    assert out == ""
    assert message in " ".join(err.split())
    assert "hint:" in err


def test_ctrl_c_prints_what_was_done_as_json_too(hil, ppo, monkeypatch):
    class Press:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def show(self, tick):
            if tick.step == 30:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cli_run, "LiveLine", Press)
    code, out, _ = hil("run", ppo, "--clock", "lockstep", "--no-record", "--json")
    assert code == 130
    document = json.loads(out)
    contract.check("run", document)
    (found,) = document["runs"]
    assert found["interrupted"] is True
    assert found["verdict"] == {"good": False, "reasons": ["interrupted"]}
    assert 30 <= found["episodes"][0]["steps"] <= 32


def test_a_second_ctrl_c_prints_the_boards_that_were_done(hil, ppo, monkeypatch):
    def interrupted(names, job, *, shown):
        yield 0, job(names[0], 0, print)
        raise KeyboardInterrupt

    monkeypatch.setattr(several_boards, "run_at_once", interrupted)
    code, out, _ = hil("run", ppo, "-b", "native,native", "--clock", "lockstep", "--steps", "20", "--no-record")
    assert code == 130
    assert out.count("native: PASS") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["--max-lost", "0", "--fault", "drop:rate=0.5"], 1, "FAIL: 1 control steps got no reply in time"),
        (["--fault", "cut:at_s=0.1"], 3, "(fault injection cut the cable)"),
        (["--board", "serial", "--port", "/dev/ttyNOPE"], 3, "FAIL: no such port: /dev/ttyNOPE"),
        ([], 0, "PASS"),
        (["--live-port", "1"], 130, "FAIL: interrupted"),
    ],
)
def test_the_live_page_shows_the_verdict_however_the_run_ends(hil, ppo, monkeypatch, arguments, status, shown):
    pytest.importorskip("uvicorn", reason="the extra live is not installed: pip install 'balance-hil[live]'")
    ends = []
    monkeypatch.setattr(LivePage, "end", lambda page, verdict: ends.append(verdict))
    if status == 130:
        monkeypatch.setattr(LivePage, "requests", lambda page: signal.raise_signal(signal.SIGINT) or [])
    code, _, _ = hil("run", ppo, "--live", "--seconds", "0.5", "--clock", "lockstep", "--no-record", *arguments)
    assert code == status
    assert len(ends) == 1
    assert shown in ends[0]


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


def alive(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupt_leaves_a_whole_recording_and_no_process(ppo, tmp_path, number):
    recording = tmp_path / "cut.mcap"
    command = [*HIL, "run", ppo, "--record", str(recording), "--max-lost", "100000"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        partial = Path(f"{recording}.partial")
        wait_until(
            lambda: run.poll() is not None or (partial.exists() and partial.stat().st_size > 20_000), "a recording that grows"
        )
        assert run.poll() is None, run.communicate()
        board = children(run.pid)
        assert len(board) == 2
        run.send_signal(number)
        out, err = run.communicate(timeout=DEADLINE_S)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 130
    assert "native: FAIL: interrupted" in out
    assert "episodes without failure" in out, "what was done is printed"
    assert "cut.mcap" in err
    assert "Traceback" not in err
    back = read_recording(recording)
    assert len(back) > 20
    assert back.meta["ended"] == "interrupted"
    wait_until(lambda: not any(alive(pid) for pid in board), "the board's processes to end")


def test_a_killed_run_leaves_a_recording_that_replays_and_can_be_repaired(ppo, hil, tmp_path):
    partial = tmp_path / "cut.mcap.partial"
    run = subprocess.Popen(
        [*HIL, "run", ppo, "--record", str(tmp_path / "cut.mcap"), "--max-lost", "100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: run.poll() is not None or (partial.exists() and partial.stat().st_size > 20_000), "a recording")
        assert run.poll() is None
    finally:
        run.kill()
        run.wait()
    steps = len(read_recording(partial))
    assert steps > 50
    code, out, err = hil("replay", str(partial), "--runtime", "tflm", "--bundle", ppo, "--json")
    assert code == 0
    missing = json.loads(out)["missing"]
    assert f"cut off after {steps} control steps" in missing
    assert missing in err
    code, out, err = hil("compare", ppo, "--recording", str(partial), "--runtimes", "tflm,int8-reference", "--json")
    assert missing in err
    assert missing in json.loads(out)["recorded_from"]
    assert repair(partial) == tmp_path / "cut.mcap"
    assert len(read_recording(tmp_path / "cut.mcap")) == steps


def test_the_live_line_appears_on_a_terminal_only(ppo, tmp_path):
    command = [*HIL, "run", ppo, "--clock", "lockstep", "--seconds", "1", "--no-record"]
    ours, theirs = pty.openpty()
    shown = bytearray()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"})
    os.close(theirs)
    with contextlib.suppress(OSError):  # the terminal hangs up when the command ends
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0
    assert b"pitch" in shown
    assert b"round trip" in shown
    piped = subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE_S)
    assert b"pitch" not in piped.stderr


def finished_tick(misses: int = 3) -> Tick:
    return Tick(0, 100, 0.5, ("pitch_rad", 0.01), [0.1] * 24, 1234.0, misses)


def test_the_live_line_fits_80_columns_and_begins_with_the_misses(monkeypatch, capsys):
    monkeypatch.setattr(run_output, "stderr", Console(width=80, force_terminal=True, stderr=True))
    with run_output.LiveLine(lambda tick: "episode 1/1", enabled=True) as line:
        line.show(finished_tick())
    shown = capsys.readouterr().err.split("\r")[1].removesuffix("\x1b[K")
    assert len(shown) <= 79
    assert shown.startswith("misses 3  episode 1/1")


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(run_output, "stderr", Console(width=80, force_terminal=False, stderr=True))
    monkeypatch.setattr(run_output.time, "perf_counter", lambda: now[0])
    with run_output.LiveLine(lambda tick: "episode 1/1", enabled=True) as line:
        for now[0] in (1.0, 2.0, 11.0, 12.0, 21.5):
            line.show(finished_tick())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("misses 3") and "\x1b" not in line for line in lines)


def test_the_table_is_folded_by_board_where_three_do_not_fit(hil, ppo, monkeypatch):
    def one_by_one(names, job, *, shown):
        yield from ((number, job(name, number, print)) for number, name in enumerate(names))

    monkeypatch.setattr(several_boards, "run_at_once", one_by_one)
    monkeypatch.setattr(console, "stdout", Console(width=90, force_terminal=True, highlight=False))
    length = ("--clock", "lockstep", "--steps", "5", "--no-record")
    _, out, _ = hil("run", ppo, "-b", "native,native,native", "--engine", "int8", *length, "--quiet")
    headings = [line for line in out.splitlines() if "board" in line and "native" in line and "PASS" not in line]
    assert len(headings) == 3


def test_a_sequence_of_faults_is_injected_recorded_and_judged(hil, ppo, tmp_path):
    (tmp_path / "faults.yaml").write_text(
        "faults:\n- {fault: drop, rate: 1, direction: rx, at_s: 0.2, for_s: 0.02}\n- {fault: flip-bit, at_step: 100}\n"
    )
    arguments = ("--clock", "lockstep", "--engine", "int8", "--seconds", "1", "--json", "--fault-seed", "3")
    code, out, err = hil("run", ppo, *arguments, "--record", "bad.mcap", "--fault", "faults.yaml")
    (run,) = json.loads(out)["runs"]
    assert code == 1, err
    assert run["injected_faults"] == {"drop rx": 4, "flip-bit": 1}
    assert (run["fault_seed"], len(run["faults"])) == (3, 2)
    assert "outputs differ from TensorFlow Lite Micro" in run["verdict"]["reasons"][0]
    assert run["equals_tflm"]["checked"] - run["equals_tflm"]["differing"] >= 96, "those before the bit flipped"
    assert [each["step"] for each in read_recording(tmp_path / "bad.mcap").injected] == [40, 41, 42, 43, 100]


def test_bits_flip_one_after_the_other_also_after_a_restart(hil, ppo):
    flips = ("--fault", "flip-bit:at_s=0.1,every_s=0.1", "--fault", "power-cycle:at_s=0.35")
    code, out, err = hil(
        "run", ppo, "--clock", "lockstep", "--engine", "int8", "--seconds", "0.5", "--json", "--no-record", *flips
    )
    assert code == 1, err
    assert json.loads(out)["runs"][0]["injected_faults"] == {"flip-bit": 4, "power-cycle": 1}


def test_a_board_that_cannot_have_a_fault_says_so(hil, ppo):
    code, _, err = hil("run", ppo, "--fault", "flip-bit")
    assert code == 2
    assert "flip-bit:at_s=2" in err
