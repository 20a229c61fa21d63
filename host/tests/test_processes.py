"""What a command that is killed leaves behind: nothing that runs, and no folder after the next run."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from balance_hil import firmware_build
from balance_hil.files import staging_folder
from balance_hil.processes import popen, run_group, tied

from .installed import require_installed

DEADLINE_S = 60.0
HIL = [sys.executable, "-m", "balance_hil"]
MODELS = Path(__file__).resolve().parents[2] / "models"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal and /proc")


def wait_until(condition, what):
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return value


def marked(mark):
    """Command lines of the living processes whose environment holds ``mark``: children of one command, however removed."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes() and "Z" not in (folder / "stat").read_text().rpartition(")")[2]:
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


class Command:
    """A program whose descendants are known by a mark in their environment."""

    def __init__(self, command, mark, **environment):
        self.mark = mark
        self.process = subprocess.Popen(
            command, env=os.environ | {"LEFTOVERS": mark} | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def wait_for(self, *names):
        """Until a descendant with each name in its command line runs."""

        def there():
            assert self.process.poll() is None, self.process.stderr.read().decode()
            lines = marked(self.mark).values()
            return all(any(name in line for line in lines) for name in names)

        wait_until(there, f"{names} never ran")

    def end(self, number=signal.SIGKILL):
        """Ends the program alone, and waits until everything of its kind is gone."""
        self.process.send_signal(number)
        self.process.communicate(timeout=DEADLINE_S)
        wait_until(lambda: not marked(self.mark), f"left: {marked(self.mark)}")
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def mark(tmp_path):
    return str(tmp_path)


def test_a_process_outlives_the_thread_that_started_it_and_not_the_program(mark):
    program = (
        "import threading\n"
        "from balance_hil.processes import popen\n"
        "made = []\n"
        "thread = threading.Thread(target=lambda: made.append(popen(['sleep', '600'])))\n"
        "thread.start(); thread.join()\n"
        "print(made[0].pid, made[0].args[-2:], flush=True)\n"
        "made[0].wait()\n"
    )
    with Command([sys.executable, "-c", program], mark) as command:
        pid = int(command.process.stdout.readline().split()[0])
        wait_until(lambda: marked(mark).get(pid) == "sleep 600 ", "the process keeps its id")
        assert command.end() == -signal.SIGKILL


def test_a_thread_that_started_a_process_may_end():
    made = []
    thread = threading.Thread(target=lambda: made.append(popen(["sleep", "600"])))
    thread.start()
    thread.join()
    with made[0] as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()


def test_a_process_whose_parent_ended_before_it_asked_for_the_signal_does_not_start(tmp_path):
    command = tied(["touch", str(tmp_path / "started")])
    command[command.index(str(os.getpid()))] = "1000000000"
    assert subprocess.run(command).returncode != 0
    assert not list(tmp_path.iterdir())


def test_a_group_that_takes_too_long_is_ended_whole(mark, monkeypatch):
    monkeypatch.setenv("LEFTOVERS", mark)
    with pytest.raises(subprocess.TimeoutExpired):
        run_group(["sh", "-c", "sleep 600 & sleep 600"], timeout_s=0.3)
    monkeypatch.delenv("LEFTOVERS")
    wait_until(lambda: not marked(mark), "left")


def test_a_group_gives_its_status_and_output():
    done = run_group(["sh", "-c", "echo out; exit 7"], text=True)
    assert (done.returncode, done.stdout) == (7, "out\n")


@pytest.mark.slow
def test_a_killed_build_leaves_no_platformio_and_no_compiler(mark, tmp_path):
    """In a project of its own, so that there is everything to compile."""
    pytest.importorskip("platformio")
    for name in firmware_build.SOURCES:
        source, copy = firmware_build.PROJECT / name, tmp_path / "project" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy)
    program = (
        "import pathlib\n"
        "from balance_hil import firmware_build\n"
        f"firmware_build.PROJECT = pathlib.Path({str(tmp_path / 'project')!r})\n"
        "firmware_build.build_native()\n"
    )
    with Command([sys.executable, "-c", program], mark) as command:
        command.wait_for("platformio run", "scons", "cc1plus")
        command.end()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_export_leaves_no_worker_and_its_folders_are_removed_by_the_next_run(mark, tmp_path, number):
    require_installed("onnx2tf")
    scratch, target = tmp_path / "scratch", tmp_path / "bundles" / "mine"
    scratch.mkdir()
    command = [*HIL, "export", MODELS / "ppo", "-o", target]
    with Command(command, mark, TMPDIR=str(scratch)) as exporting:
        exporting.wait_for("tensorflow_worker")
        wait_until(lambda: list(target.parent.glob(".mine-*")), "no staging folder")
        status = exporting.end(number)
    if number == signal.SIGTERM:
        assert status == 130
    else:
        assert list(target.parent.iterdir())  # so that there is something to remove
        for stale in (target, scratch / "hil-export"):
            with staging_folder(stale) as own:
                assert list(stale.parent.iterdir()) == [own]
    assert not list(target.parent.iterdir())
    assert not [entry for entry in scratch.iterdir() if "hil-export" in entry.name]


def test_a_staging_folder_in_use_stays(tmp_path):
    with staging_folder(tmp_path / "one") as one:
        (one / "file").touch()
        with staging_folder(tmp_path / "one") as other:
            assert other != one
            assert (one / "file").exists()
        assert list(tmp_path.iterdir()) == [one]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_evaluation_leaves_no_worker(mark):
    pytest.importorskip("tflite_micro")
    command = [*HIL, "evaluate", MODELS / "ppo", "--robustness", "--jobs", "2"]
    with Command(command, mark) as evaluating:
        evaluating.wait_for("spawn_main")
        evaluating.end()


@pytest.mark.slow
def test_a_killed_training_of_many_leaves_no_worker(mark, tmp_path):
    require_installed("stable_baselines3")
    command = [*HIL, "train", "--all", "--runs", tmp_path / "runs", "-o", tmp_path / "matrix"]
    with Command(command, mark) as training:
        training.wait_for("spawn_main")
        wait_until(lambda: list(tmp_path.rglob("*.log")), "no training began")
        training.end()


@pytest.mark.slow
def test_ctrl_c_ends_tests_and_their_children_that_a_shell_started_in_the_background(tmp_path):
    """Such a shell has SIGINT ignored in both."""
    program = tmp_path / "test_waits.py"
    child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, flush=True)"
    program.write_text(f"""
import subprocess, sys, time
def test_it():
    print("ignored:", subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True).stdout, flush=True)
    time.sleep({DEADLINE_S})
""")
    pytest_command = [
        sys.executable,
        "-m",
        "pytest",
        "-s",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *pytest_command, str(program)],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = next(line for line in process.stdout if "ignored:" in line)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=DEADLINE_S / 2)
        finally:
            process.kill()
    assert said.split()[-1] == "False"
    assert process.returncode == pytest.ExitCode.INTERRUPTED


def test_lines_are_told_as_they_are_printed_and_a_silent_program_is_stopped() -> None:
    said: list[str] = []
    done = run_group(["sh", "-c", "echo one; echo two"], timeout_s=DEADLINE_S, on_line=said.append, text=True)
    assert (said, done.stdout, done.returncode) == (["one", "two"], "one\ntwo\n", 0)
    for script in ("echo one; sleep 600", "exec >&-; sleep 600"):
        with pytest.raises(subprocess.TimeoutExpired):
            run_group(["sh", "-c", script], timeout_s=0.2, on_line=said.append, text=True)
