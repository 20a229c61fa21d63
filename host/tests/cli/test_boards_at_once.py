"""``hil run`` and ``hil soak`` on several boards at once."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from balance_hil.cli import boards_at_once
from balance_hil.recording import read_recording
from balance_hil.testing.synthetic_bundle import bundle_of_model
from balance_hil.testing.synthetic_models import linear

from .. import contract
from ..test_processes import marked

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed: pip install 'balance-hil[int8]'")

DEADLINE_S = 60.0
HEADER_BYTES = 10_000  # of a recording, at most; it grows by as much in half a second
HIL = [sys.executable, "-m", "balance_hil"]
PACKAGE = Path(boards_at_once.__file__).parents[1]
# An episode begins when both boards are there; with DIE set the first one takes its process with it.
TOGETHER = """
import os, pathlib, time
import gymnasium as gym
import numpy as np


class TogetherEnv(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    control_period_s = 0.02

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        pathlib.Path(f"here-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len(here := sorted(pathlib.Path().glob("here-*"))) < 2:
            assert time.monotonic() < end, "the other board has not come"
            time.sleep(0.01)
        if os.environ.get("DIE") and here[0].name == f"here-{os.getpid()}":
            os._exit(7)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        return np.zeros(4, np.float32), 1.0, False, False, {}


gym.register("together/Together-v0", TogetherEnv, max_episode_steps=20)
"""


@pytest.fixture
def hil(monkeypatch, tmp_path):
    """Runs the command in a folder with the environment and a policy for it: exit status, stdout, stderr."""
    from balance_hil.environment import open_environment

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "togetherbots.py").write_text(TOGETHER)
    with open_environment("togetherbots:together/Together-v0") as env:
        bundle_of_model(tmp_path / "policies/mine", linear([[0.3, 0.4, 0.5, 0.6]], 1.0), env.spec)

    def run(*arguments, command="run"):
        words = [*HIL, command, "mine", *arguments]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_S)
        return done.returncode, done.stdout, done.stderr

    yield run
    sys.modules.pop("togetherbots", None)


def test_boards_run_at_once_and_their_results_come_in_the_order_asked(hil, tmp_path):
    code, out, err = hil("--board", "native,native", "--engine", "int8", "--clock", "lockstep", "--json")
    assert code == 0, err
    document = json.loads(out)
    contract.check("run", document)
    assert [run["episodes"][0]["steps"] for run in document["runs"]] == [20, 20]
    names = [run["recording"] for run in document["runs"]]
    assert (names[0][-21:], names[1][-23:]) == ("-native-lockstep.mcap", "-native-lockstep-2.mcap")  # whatever the second
    assert all(len(read_recording(tmp_path / name)) == 20 for name in names)
    command = "hil run mine --board native --board native --clock lockstep --engine int8"
    assert read_recording(tmp_path / names[0]).meta["command"] == command


@pytest.mark.slow
def test_a_soak_is_at_once_and_each_board_has_a_folder_of_its_own_for_anomalies(hil):
    options = ("--engine", "int8", "--hours", "0.0002", "--fault", "delay:s=0.03,rate=0.5", "--json")
    _, out, err = hil("--board", "native,native", *options, command="soak")
    document = json.loads(out)
    contract.check("soak", document)
    first, second = document["soaks"]
    assert first["episodes"] > 0, err
    assert second["episodes"] > 0, err
    folders = [soak["anomaly_recordings"] for soak in (first, second)]
    assert len(set(folders)) == 2
    assert all(re.search("-native-soak(-2)?$", folder) for folder in folders)  # the second of one second has a number
    assert err.count("native: ") == len(first["minutes"]) + len(second["minutes"]), err


@pytest.mark.slow
def test_each_board_has_a_live_page_of_its_own(hil):
    pytest.importorskip("uvicorn", reason="the extra live is not installed: pip install 'balance-hil[live]'")
    options = ("--engine", "int8", "--clock", "lockstep", "--no-record")
    code, out, err = hil("--board", "native,native", "--live", "--live-port", "0", *options)
    assert code == 0, err
    assert out.count("native: PASS") == 2
    assert len(set(re.findall("native: live: (http://[^ \n]+)", err))) == 2, err


@pytest.mark.slow
def test_a_board_that_fails_does_not_end_the_others_and_the_worst_status_is_that_of_all(hil, monkeypatch):
    monkeypatch.setenv("DIE", "1")
    options = ("--engine", "int8", "--clock", "lockstep", "--no-record", "--json")
    code, out, err = hil("--board", "native,serial,native", *options)
    document = json.loads(out)
    contract.check("run", document)
    errors = [run.get("error") for run in document["runs"]]
    assert code == 3, err
    assert "names no port" in errors[1]
    assert sorted([errors[0] or "", errors[2] or ""]) == ["", "its process ended with status 7"]
    assert "serial: " in err
    assert "hint:" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_of_them_with_what_they_did(ppo_bundle, tmp_path, number):
    """The whole process group gets the signal, as from a terminal or a CI service."""
    words = [*HIL, "run", str(ppo_bundle.path), "--board", "native,native", "--engine", "int8", "--seconds", "300"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, start_new_session=True, **streams) as run:
        end = time.monotonic() + DEADLINE_S
        while sum(file.stat().st_size > HEADER_BYTES for file in tmp_path.glob("recordings/*.partial")) < 2:
            assert time.monotonic() < end
            assert run.poll() is None, run.communicate()
            time.sleep(0.01)
        os.killpg(run.pid, number)
        out, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 130, err
    assert out.count("native: FAIL: interrupted") == 2, out + err
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("recordings/*.mcap"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_ctrl_c_while_they_start_ends_them_without_a_traceback(ppo_bundle, tmp_path, processes):
    """As soon as there is the process that imports, that of the first board, that of the second."""
    words = [*HIL, "run", str(ppo_bundle.path), "--board", "native,native", "--engine", "int8", "--seconds", "300"]
    options = {"start_new_session": True, "env": os.environ | {"LEFTOVERS": str(tmp_path)}, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as run:
        try:
            end = time.monotonic() + DEADLINE_S
            while sum("forkserver" in line for line in marked(str(tmp_path)).values()) < processes:
                assert time.monotonic() < end
                assert run.poll() is None, run.communicate()
        finally:
            os.killpg(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode in (130, -signal.SIGINT), err  # Python makes the latter of the former if it executed a string then
    # A child of another package may print a traceback: glfw's, which looks for its library.
    assert str(PACKAGE) not in err
    assert not any(line.startswith("error") for line in err.splitlines()), err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_screen_has_a_line_for_each_board(monkeypatch, is_terminal):
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=60)
    monkeypatch.setattr(boards_at_once, "stderr", console)
    monkeypatch.setattr(boards_at_once, "say", console.print)
    monkeypatch.setattr(boards_at_once, "SHOW_EVERY_S", 0)
    with boards_at_once._Screen(["native", "qemu-m7"], shown=True) as screen:
        screen.show(0, "misses 0  episode 1/3")
        assert ("misses 0" in console.file.getvalue()) is is_terminal, "elsewhere only every ten seconds"
        screen._next_s = 0.0
        screen.show(1, "misses 7 " + "and so on " * 20)
    lines = console.file.getvalue().replace("\r", "\n").splitlines()
    assert any("native" in line and "episode 1/3" in line for line in lines)
    assert any("qemu-m7" in line and "misses 7" in line for line in lines)
