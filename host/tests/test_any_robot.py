"""End to end on environments of four kinds and robots of somebody else's: train, export, run, compare, the HIL suite.

The policies are trained for seconds: what is proven is the way to the board, not that they are good.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from .installed import require_installed
from .robots import write_reference_project, write_robot
from .suite import outcomes

require_installed("stable_baselines3", "onnx2tf", "tflite_micro")

ROOT = Path(__file__).parents[2]
BOARDS = ("native", "qemu-m4")
SUITE_SECONDS, SUITE_INPUTS = 2, 1000


@dataclass(frozen=True)
class Case:
    """One environment, and how long a policy learns in it."""

    environment: str
    algorithm: str
    steps: int
    n_obs: int
    n_act: int
    substeps: int


CASES = {
    "cartpole": Case("CartPole-v1", "PPO", 4096, 4, 2, 1),
    "pendulum": Case("Pendulum-v1", "SAC", 300, 3, 1, 1),
    "inverted-pendulum": Case("InvertedPendulum-v5", "PPO", 4096, 4, 1, 2),
    "half-cheetah": Case("HalfCheetah-v5", "PPO", 512, 17, 6, 5),
    "own-robot": Case("mybots:mybots/Cart-v0", "PPO", 1024, 4, 1, 10),
}


class Shell:
    """A process in a folder of somebody's, who has packages there: see ``shell.py``."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "host"), str(folder)])}
        command = [sys.executable, str(Path(__file__).with_name("shell.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=folder, env=self.environment, text=True, **pipes)

    def run(self, folder, *words, status=0):
        """Runs one command in ``folder``; returns what it printed to stdout."""
        self.process.stdin.write(json.dumps([str(folder), *map(str, words)]) + "\n")
        self.process.stdin.flush()
        ended, out, err = json.loads(self.process.stdout.readline())
        assert ended == status, out + err
        return out


@dataclass(frozen=True)
class Bench:
    """A folder of somebody's with a trained policy in it, and the command line."""

    case: Case
    folder: Path
    shell: Shell

    def hil(self, *words):
        """Runs ``hil`` in the folder; returns what it printed to stdout."""
        return self.shell.run(self.folder, "hil", *words)


def case(name):
    """A parameter. The robot is nobody's; of those of Gymnasium, HalfCheetah has the most numbers."""
    marks = {"own-robot": (), "half-cheetah": pytest.mark.slow}
    return pytest.param(name, marks=marks.get(name, pytest.mark.nightly))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    write_robot(folder, "mybots")
    shell = Shell(folder)
    with shell.process:
        yield shell
        shell.process.stdin.close()


@pytest.fixture(scope="module", params=[case(name) for name in CASES])
def bench(request, shell):
    """Trained with Stable-Baselines3, as its user would, and exported."""
    case = CASES[request.param]
    bench = Bench(case, shell.folder / request.param, shell)
    bench.folder.mkdir()
    shell.run(bench.folder, "train", case.environment, case.algorithm, case.steps)
    short = ("--episodes", 2, "--steps", 100, "--margin", 1, "--json")
    document = json.loads(bench.hil("export", "best_model", "-e", case.environment, "-o", bench.folder / "mine", *short))
    assert document["schema"] == "balance_hil/export@2"
    assert document["verdict"]["good"]
    return bench


def test_the_bundle_says_what_the_environment_is(bench):
    case = bench.case
    spec = json.loads((bench.folder / "mine" / "bundle.json").read_text())["spec"]
    assert (spec["environment"], len(spec["observation"]), len(spec["action"])) == (case.environment, case.n_obs, case.n_act)


@pytest.mark.parametrize("board", BOARDS)
def test_lockstep_equals_tensorflow_lite_micro(bench, board):
    words = ("run", "mine", "--board", board, "--clock", "lockstep", "--episodes", 2, "--seconds", 2, "--no-record", "--json")
    (run,) = json.loads(bench.hil(*words))["runs"]
    assert run["verdict"]["good"], run["verdict"]
    assert run["environment"] == bench.case.environment
    assert run["equals_tflm"]["checked"] == sum(episode["steps"] for episode in run["episodes"]) > 0
    assert run["equals_tflm"]["differing"] == run["lost"] == run["held_steps"] == 0
    assert "return" in run["metrics"]


@pytest.mark.parametrize("board", BOARDS)
def test_realtime_keeps_the_clock(bench, board):
    (run,) = json.loads(bench.hil("run", "mine", "--board", board, "--seconds", 2, "--json"))["runs"]
    assert run["equals_tflm"]["differing"] == 0
    assert Path(bench.folder / run["recording"]).is_file()


def test_compare_explains_every_bit(bench):
    document = json.loads(bench.hil("compare", "mine", "--board", "native", "--samples", 500, "--json"))
    assert document["board_equals_tflm"] is True
    assert sum(pair["unexplained"] for pair in document["pairs"]) == 0


def test_evaluate_gives_the_same_episodes_on_the_board(bench):
    words = ("evaluate", "mine", "--episodes", 1, "--steps", 50, "--json")
    on_tflm, on_board = (json.loads(bench.hil(*words, "--runtime", runtime)) for runtime in ("tflm", "board"))
    assert on_tflm["episodes"] == on_board["episodes"]


@pytest.mark.slow
@pytest.mark.parametrize("board", ["native", pytest.param("qemu-m4", marks=pytest.mark.nightly)])
def test_the_hil_suite_passes(bench, board):
    options = ["--hil-board", board, "--hil-bundle", bench.folder / "mine", "--hil-episodes", 1]
    options += ["--hil-seconds", SUITE_SECONDS, "--hil-inputs", SUITE_INPUTS]
    found, printed = outcomes(bench.folder / f"{board}.xml", "hil_tests", *options, environment=bench.shell.environment)
    assert len(found) > 100
    assert "failed" not in found.values(), printed


# --- the public project's user ----------------------------------------------------------------------------------------

SIGNALS = """
control_period_ms: 5
observation: [{name: pitch}, {name: pitch_rate}, {name: left}, {name: right}, {name: speed_error}, {name: yaw_error}]
action: [{name: left_step}, {name: right_step}]
"""


@pytest.fixture(scope="module")
def theirs(shell):
    """Their package, which registers the same ids as ours with other scales, and their policy, exported."""
    folder = shell.folder
    write_reference_project(folder, "their_package", ROOT / "models" / "ppo" / "policy.zip")
    (folder / "signals.yaml").write_text(SIGNALS)
    bench = Bench(Case("their_package:Env01-v3", "PPO", 0, 6, 2, 1), folder, shell)
    words = ("export", "best_model.zip", "-e", "their_package:Env01-v3", "--terminated", "failure", "-o", folder / "mine")
    document = json.loads(bench.hil(*words, "--episodes", 1, "--steps", 200, "--json"))
    assert document["verdict"]["good"]
    return bench


def test_their_policy_balances_in_their_environment_on_a_board(theirs):
    (run,) = json.loads(theirs.hil("run", "mine", "--board", "native", "--clock", "lockstep", "--json"))["runs"]
    assert run["environment"] == "their_package:Env01-v3"
    assert (run["success_rate"], run["episodes"][0]["steps"]) == (1.0, 1000)
    assert (run["equals_tflm"]["checked"], run["equals_tflm"]["differing"]) == (1000, 0)


def test_their_id_is_never_taken_for_ours(theirs):
    spec = json.loads((theirs.folder / "mine" / "bundle.json").read_text())["spec"]
    assert spec["environment"] == "their_package:Env01-v3"
    assert [signal["name"] for signal in spec["observation"]] == [f"obs_{i}" for i in range(6)]


def test_a_tflite_of_theirs_runs_and_is_evaluated_without_a_bundle(theirs):
    words = ("mine/policy_int8.tflite", "--spec", "signals.yaml", "-e", "their_package:Env01-v3", "--json")
    evaluated = json.loads(theirs.hil("evaluate", *words, "--episodes", 1, "--steps", 50))
    (run,) = json.loads(theirs.hil("run", *words, "--clock", "lockstep", "--seconds", 0.25, "--no-record"))["runs"]
    assert evaluated["episodes"][0]["steps"] == run["episodes"][0]["steps"] == 50
    assert run["equals_tflm"]["differing"] == 0
