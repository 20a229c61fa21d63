"""The command line as a whole: messages, exit status, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from balance_hil import errors
from balance_hil.cli import COMMANDS, console, exit_status, main
from balance_hil.cli import hil as hil_command

HEAVY = (
    "torch",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "stable_baselines3",
    "tflite_micro",
    "ai_edge_litert",
    "matplotlib",
    "mujoco",
)


def hil(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = "from balance_hil.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)


def test_an_error_is_two_lines_on_stderr_and_a_status() -> None:
    done = hil("export", "no/such/folder")
    assert done.returncode == 3
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert lines[-2].startswith("error: ")
    assert "no/such/folder" in lines[-2]
    assert lines[-1].startswith("hint:  ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """``hil`` in this process: exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["hil", *arguments])
        status: object = 0
        try:
            main()
        except SystemExit as ended:
            status = ended.code
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("arguments", [["rnu"], ["run", "--no-such-option"], ["bench", "nothing"]])
def test_a_misspelled_command_line_says_what_is_wrong(here: Callable[..., tuple[object, str, str]], arguments: list[str]) -> None:
    status, _, err = here(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert arguments[-1] in err
    assert "hint:  " in err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(here: Callable[..., tuple[object, str, str]], name: str) -> None:
    status, out, err = here(name, "--help")
    assert status == 0, err
    assert "Usage:" in out


def test_help_of_run_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom balance_hil.cli import hil\n"
        "try:\n    hil(['run', '--help'], standalone_mode=False)\nexcept SystemExit:\n    pass\n"
        "import json\nsys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    loaded = set(json.loads(done.stderr)) & set(HEAVY)
    assert not loaded


def test_doctor_reports_json() -> None:
    done = hil("doctor", "--json")
    document = json.loads(done.stdout)
    assert next(iter(document.items())) == ("schema", "balance_hil/doctor@2")
    assert done.returncode == (0 if document["healthy"] else 3)
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert states["numpy"] == "ok"
    assert all(check["hint"] for check in document["checks"] if check["state"] == "missing")


def test_the_package_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "balance_hil", "--version"], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("hil, version ")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.TooManyLostError, 1),
        (errors.TrainingError, 1),
        (errors.UsageError, 2),
        (errors.UnknownBoardError, 2),
        (errors.EnvironmentMismatchError, 2),
        (errors.PortNotFoundError, 3),
        (errors.MissingExtraError, 3),
        (errors.BundleError, 3),
        (errors.ConfigError, 3),
        (errors.ModelMismatchError, 3),
        (errors.HarnessError, 3),
    ],
)
def test_exit_status_by_the_kind_of_error(monkeypatch: pytest.MonkeyPatch, kind: type[errors.HarnessError], status: int) -> None:
    assert exit_status(kind("a fact", "a remedy")) == status

    def fail() -> None:
        raise kind("a fact", "a remedy")

    monkeypatch.setattr(hil_command, "main", lambda **_: fail())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hil_command, "main", interrupt)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


def test_what_comes_from_outside_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "balance-hil[int8] [bold]runs[/] in [/tmp/x]"
    console.print_error(text, text)
    console.print_warning(text)
    console.stdout.print(text)
    captured = capsys.readouterr()
    assert captured.err.count(text) == 3
    assert captured.out.strip() == text


def test_a_warning_of_ours_is_a_line_and_no_place_in_the_sources() -> None:
    program = (
        "import sys, warnings\nfrom balance_hil import cli\n"
        "cli.hil.main = lambda **_: warnings.warn_explicit('tflm is emulated', UserWarning, cli.__file__, 1)\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr == "warning: tflm is emulated\n"


def test_a_run_needs_neither_torch_nor_tensorflow() -> None:
    program = (
        "import sys, json\nfrom balance_hil.cli import main\n"
        "sys.argv = ['hil', 'run', 'ppo', '--clock', 'lockstep', '--seconds', '0.2', '--no-record', '--json']\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert not loaded & {"torch", "tensorflow", "onnx", "onnxruntime", "stable_baselines3", "matplotlib"}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy and a board of one's own."""
    for folder in ("policies/own-policy", "boards"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "policies/own-policy/bundle.json").write_text("{}")
    (tmp_path / "boards/own.toml").write_text('name = "own-board"\nkind = "serial"')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "begun", "completed"),
    [
        (["run"], "pp", {"ppo", "ppo-robust", "ppo-rounding-invariant"}),
        (["evaluate"], "own", {"own-policy"}),
        (["run", "--board"], "qemu-m", {"qemu-m3", "qemu-m4", "qemu-m7", "qemu-m55"}),
        (["run", "--board"], "native,own", {"native,own-board"}),
        (["emulate", "ppo", "--board"], "na", {"native", "nano33ble"}),
        (["compare", "ppo", "--runtimes"], "tflm,int8-x", {"tflm,int8-xnnpack"}),
        (["replay", "x.mcap", "--runtime"], "tf", {"tflm"}),
        ([], "ev", {"evaluate"}),
    ],
)
def test_names_are_completed(project: Path, words: list[str], begun: str, completed: set[str]) -> None:
    completion = ShellComplete(hil_command, {}, "hil", "_HIL_COMPLETE")
    assert {item.value for item in completion.get_completions(words, begun)} == completed


def test_bash_asks_the_command_itself(project: Path) -> None:
    program = "from balance_hil.cli import main; main()"
    words = {"_HIL_COMPLETE": "bash_complete", "COMP_WORDS": "hil run own", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv[0] = 'hil'; {program}"],
        env=os.environ | words,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "plain,own-policy\n", done.stderr


@pytest.mark.parametrize("command", [["train", "ppo"], ["bench", "train"]])
def test_without_an_extra_a_command_says_how_to_get_it(command: list[str]) -> None:
    program = f"import sys; sys.modules['stable_baselines3'] = None; sys.argv = ['hil', *{command}]\n"
    program += "from balance_hil.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: this needs the Python package 'stable_baselines3', which is not installed" in done.stderr
    assert done.stderr.endswith("hint:  install it: make setup\n")


def test_a_module_that_no_extra_brings_is_a_fault_of_ours() -> None:
    program = "from balance_hil import cli\ncli.hil.main = lambda **_: __import__('no_such_module')\ncli.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.stderr


def test_a_process_ends_without_looking_through_all_that_it_imported() -> None:
    """Else a signal after torch and TensorFlow were imported takes 1.6 s of processor time to end it."""
    program = "import atexit, gc\natexit.register(lambda: print('left for the end:', len(gc.get_objects())))\n"
    program += "from balance_hil import cli\ncli.hil.main = lambda **_: None\ncli.main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "left for the end: 0\n", done.stderr
