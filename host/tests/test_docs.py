"""The documentation: the site builds without a broken link; every command of every page exists, and works as it is written.

The commands of a page are run in a folder of its own, with what they speak of: policies, recordings, somebody's environments.
A ``hil`` and a ``pytest`` in front of the real ones shorten them.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
import yaml

from balance_hil.cli import hil
from balance_hil.paths import IS_CHECKOUT, SHIPPED
from balance_hil.recording import read_recording
from balance_hil.testing.synthetic_models import ModelBuilder

from .robots import write_reference_project

pytestmark = pytest.mark.skipif(not IS_CHECKOUT, reason="the documentation is in the repository: clone it")

GENERATED = {"api.md"}  # docstrings; the commands of the others are those of the tables that they are made of
PAGES = {
    path.relative_to(SHIPPED).as_posix(): path.read_text()
    for path in (
        *sorted((SHIPPED / "docs").glob("*.md")),
        *map(SHIPPED.joinpath, ("README.md", "CONTRIBUTING.md", "hil_tests/README.md")),
    )
    if path.is_file() and path.name not in GENERATED
}
SHELL, NO_SHELL = ("bash", "console"), ("text", "yaml", "python", "toml", "ini", "json", "cpp")

# Commands that the pages' test leaves out, and why. That they exist, with every option, is checked all the same.
LEFT_OUT = {
    "make *": "installs Debian packages, or takes minutes; that there is such a target is checked",
    "source *": "the test has an environment of its own",
    "pip install *": "takes packages from an index",
    "python firmware/lint.py *": "takes minutes of one core; it is part of make check",
    "tensorboard *": "serves until it is ended",
    "dask *": "serves until it is ended; host/tests/farm/test_campaign.py starts both",
    "hil * --cluster tcp://*": "needs a cluster; host/tests/farm/test_campaign.py starts one",
    "helm *": "needs Kubernetes",
    "kubectl *": "needs Kubernetes",
    "labgrid-* *": "needs a farm, or serves until it is ended; host/tests/boards/test_labgrid.py starts one",
    "* --board *labgrid:*": "needs a farm; host/tests/boards/test_labgrid.py starts one",
    "hil power *": "needs a board on a desk",
    "pytest * --hil-board labgrid:*": "needs a farm; host/tests/boards/test_labgrid.py starts one",
    "jmp *": "needs a Jumpstarter farm",
    "hil emulate *": "serves until it is ended",
    "hil flash *": "needs a board on a desk",
    "hil * --port /dev/*": "needs a board on a desk",
    "pio run * -t upload": "needs a board on a desk",
    "hil run * --board teensy41*": "needs a board on a desk",
    "*HIL_TFLM_LIB=*": "needs TensorFlow Lite Micro's C++ library",
    "hil replay runs/*": "needs a simulation that has diverged; host/tests/envs/balance/test_crash_repro.py makes one",
    "*zsh_source*": "is for zsh",
}

# Options that make a command short; the page's own values of them are dropped.
SHORT = {
    "run": {"--seconds": "1", "--episodes": "1", "--steps": None},
    "evaluate": {"--episodes": "1", "--steps": "50"},
    "train": {"--steps": "512", "--seeds": "0"},
    "export": {"--episodes": "1", "--steps": "50"},
    "compare": {"--samples": "100", "--layer-samples": "10", "--episodes": "1", "--steps": "50"},
    "verify": {"--only": "model-constant", "--models": "1", "--inputs": "100"},
    "test": {"--pytest": "-k self_test"},
    "soak": {"--hours": "0.0005", "--seconds": "1"},
}
QUICK = {"docs/recordings.md", "docs/json.md"}  # the others run in nightly

PROGRAM = """#!{python}
import sys

from balance_hil.cli import main

SHORT = {short!r}


def shortened(name, *arguments):
    short, arguments = dict(SHORT.get(name, {{}})), list(arguments)
    closed_loop = "--closed-loop" in arguments
    if name == "compare":
        unknown = ("--samples", "--layer-samples") if closed_loop else ("--episodes", "--steps")
        unknown += ("--layer-samples",) if "--reduce" in arguments else ()
        short = {{option: value for option, value in short.items() if option not in unknown}}
    if name == "verify":
        unknown = ("--only",) if "--emulators" in arguments else ("--models", "--inputs")
        short = {{option: value for option, value in short.items() if option not in unknown}}
    if name == "train" and not {{"--all", "--seeds"}} & set(arguments):
        del short["--seeds"]
    if "lqr" in arguments or "--list" in arguments:
        short = {{}}
    for option, value in short.items():
        while option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
        arguments += [option, value] if value else []
    return [name, *arguments]


if __name__ == "__main__":
    sys.argv[1:] = shortened(*sys.argv[1:]) if sys.argv[1:] else []
    try:
        main()
    except SystemExit as end:  # a bad verdict of so short a run is one; a traceback ends otherwise
        sys.exit(0 if end.code == 1 else end.code)
"""
SUITE = """#!{python}
import sys

import pytest

status = pytest.main([*sys.argv[1:], "--hil-episodes", "1", "--hil-seconds", "1", "-q", "-p", "no:cacheprovider"])
sys.exit(status != 1 if "--hil-broken" in sys.argv else status)
"""
ROBOT = """
import gymnasium as gym
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

for name in ("MyRobot-v0", "my/MyRobot-v0"):
    gym.register(name, InvertedPendulumEnv, max_episode_steps=200)
"""
THEIRS = """

class Two(Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation[:2], info

    def step(self, action):
        observation, *rest = super().step(np.repeat(action, 2))
        return (observation[:2], *rest)


gym.register("Their-v0", Two, max_episode_steps=1000)
"""
TRAINING = "steps: 512\nevaluation: {every_steps: 512, episodes: 1}\n"


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def statements(page: str) -> list[str]:
    """The shell commands of a page, in order, each with its continued lines and its here-document."""
    found: list[str] = []
    for language, text in blocks(page):
        lines = iter(text.splitlines()) if language in SHELL else iter(())
        for line in lines:
            if language == "console":
                if not line.startswith("$ "):
                    continue  # what the command prints
                line = line[2:]
            if not line.strip() or line.startswith("#"):
                continue
            if match := re.search(r"<<'(\w+)'", line):
                while not line.endswith(f"\n{match[1]}"):
                    line += "\n" + next(lines)
            while line.endswith("\\"):
                line += "\n" + next(lines)
            found.append(line)
    return found


def left_out(statement: str) -> list[str]:
    """Patterns of LEFT_OUT that it matches."""
    plain = re.sub(r"\s+#.*", "", statement.replace("\\\n", ""))
    return [pattern for pattern in LEFT_OUT if fnmatch.fnmatchcase(plain, pattern)]


def inline(page: str) -> list[str]:
    """Commands within the text of a page, such as `hil doctor`; those with a placeholder for the command are none."""
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`((?:\.venv/bin/)?(?:hil|pytest|make) [^`]+)`", text)
    return [command.replace("…", "").replace("...", "") for command in found if not re.search(r"hil( bench)? [A-Z]+\b", command)]


def simple_commands(statement: str) -> Iterator[list[str]]:
    """Words of each command, without variables before it and redirections behind it."""
    text = re.sub(r"<<'(\w+)'\n.*\n\1$", "", statement, flags=re.DOTALL)
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("&|;"):
            while words and re.match(r"\w+=", words[0]):
                del words[0]
            if words:
                yield words[: words.index(">")] if ">" in words else words
            words = []
        else:
            words.append(word)


@cache
def pytest_options() -> str:
    return subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, cwd=SHIPPED).stdout


def check(words: list[str]) -> None:
    """Raises AssertionError or click.UsageError where there is no such command, option or choice."""
    program, *arguments = Path(words[0]).name, *words[1:]
    options = {argument.split("=")[0] for argument in arguments if argument.startswith("-")}
    match program:
        case "hil":
            check_hil(arguments)
        case "pytest":
            assert {option for option in options if not re.search(rf"{option}\b", pytest_options())} == set(), "pytest --help"
        case "make":
            makefile = (SHIPPED / "Makefile").read_text()
            for argument in arguments:
                variable, is_set, _ = argument.partition("=")
                assert re.search(rf"^{variable} \?=" if is_set else rf"^{argument}:", makefile, re.MULTILINE), argument
        case "pip":
            known = set(re.findall(r"^([\w-]+) = \[", (SHIPPED / "pyproject.toml").read_text(), re.MULTILINE))
            assert set(re.findall(r"[\w-]+", " ".join(re.findall(r"\[(.*?)\]", " ".join(arguments))))) <= known
        case "python" if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]) is not None
        case "python":
            assert arguments[0] == "-c" or (SHIPPED / arguments[0]).is_file()
        case "pio":
            written = [text for page in PAGES for language, text in blocks(page) if language == "ini"]
            environments = "".join([(SHIPPED / "platformio.ini").read_text(), *written])
            assert f"[env:{arguments[arguments.index('-e') + 1]}]" in environments
        case _:
            others = ("cat", "source", "eval", "tensorboard", "dask", "helm", "kubectl", "g++", "robot", "grep", "jmp")
            assert program in others or program.startswith("labgrid-"), f"{program}: what checks it?"


def check_hil(arguments: list[str]) -> None:
    command: click.Command = hil
    context = click.Context(command, info_name="hil")
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        found = command.get_command(context, arguments[0])
        if found is None and command is not hil:
            break  # a group that takes arguments itself
        assert found is not None, f"there is no hil {arguments[0]}"
        command, context, arguments = found, click.Context(found, info_name=arguments[0], parent=context), arguments[1:]
    values, rest, _ = command.make_parser(context).parse_args(list(arguments))
    assert isinstance(command, click.Group) or not rest, f"{rest} are too many"
    for parameter in command.get_params(context):
        value = values.get(parameter.name)
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type_cast_value(context, value)


CI_PROGRAMS = ("hil", "pytest", "pip")


def ci_commands(found: object, key: str = "") -> Iterator[str]:
    """The commands of a CI recipe: what is under ``run`` or a ``script``."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from ci_commands(value, str(name))
    elif isinstance(found, list):
        for value in found:
            yield from ci_commands(value, key)
    elif key in ("run", "script", "before_script", "after_script"):
        assert isinstance(found, str), f"{found!r} is no command: quote it"
        yield found


def test_the_recipes_of_the_ci_page_are_yaml_and_their_commands_exist() -> None:
    recipes = [yaml.safe_load(text) for language, text in blocks("docs/ci.md") if language == "yaml"]
    assert ["jobs" in recipe for recipe in recipes] == [True, False], "GitHub, GitLab"
    for recipe in recipes:
        commands = list(ci_commands(recipe))
        for command in commands:
            assert subprocess.run(["bash", "-nc", command], capture_output=True).returncode == 0, command
        words = [each for command in commands for each in simple_commands(command) if Path(each[0]).name in CI_PROGRAMS]
        assert {Path(each[0]).name for each in words} == set(CI_PROGRAMS)
        for each in words:
            check(each)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    for language, text in blocks(page):
        assert language in (*SHELL, *NO_SHELL), f"what is this block? {text}"
    for statement in statements(page):
        assert subprocess.run(["bash", "-nc", statement], capture_output=True).returncode == 0, statement
    for statement in (*statements(page), *inline(page)):
        for words in simple_commands(statement):
            try:
                check(words)
            except (AssertionError, click.UsageError) as exc:
                lacks_value = isinstance(exc, click.BadOptionUsage) and exc.option_name == words[-1]
                if not (
                    lacks_value and statement in inline(page)
                ):  # in text, `hil compare --port` names an option without a value
                    raise AssertionError(f"{shlex.join(words)}: {getattr(exc, 'message', exc)}") from exc


def test_what_is_left_out_is_on_a_page() -> None:
    used = {pattern for page in PAGES for statement in statements(page) for pattern in left_out(statement)}
    assert used == set(LEFT_OUT)
    assert set(PAGES) >= QUICK


@pytest.mark.parametrize(
    "bad", ["hil ruin ppo", "hil run ppo --bord native", "hil run ppo --clock sundial", "pytest --hil-bord x", "make rum"]
)
def test_a_command_that_does_not_exist_is_noticed(bad: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check(shlex.split(bad))


def shell(commands: str, folder: Path) -> None:
    environment = os.environ | {
        "HOME": str(folder),
        "PATH": f"{folder / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{SHIPPED / 'host'}{os.pathsep}{folder}",
        "HIL_HISTORY": "",
    }
    done = subprocess.run(
        ["bash", "-euxc", commands], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]


def two_outputs(inputs: int, outputs: int) -> bytes:
    """An int8 model with the outputs [1, 3] and [1, outputs]."""
    rng, build = np.random.default_rng(0), ModelBuilder()
    source = build.tensor((1, inputs), 1 / 127, 0)
    found = []
    for units in (3, outputs):
        weights = build.tensor((units, inputs), 0.004, data=rng.integers(-127, 127, (units, inputs)).astype(np.int8))
        dense = build.operator("FULLY_CONNECTED", (source, weights, -1), build.tensor((1, units), 0.05, 0))
        found.append(build.operator("TANH", (dense,), build.tensor((1, units), 1 / 128, 0)))
    return build.build(source, found)


def onnx_actor(inputs: int, outputs: int) -> bytes:
    """A dense layer and a tanh."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'balance-hil[export]'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(inputs, outputs)).astype(np.float32)
    nodes = [helper.make_node("Gemm", ["x", "weights", "biases"], ["sum"]), helper.make_node("Tanh", ["sum"], ["y"])]
    ends = [helper.make_tensor_value_info(name, kind, (1, n)) for name, n in (("x", inputs), ("y", outputs))]
    constants = [("weights", weights), ("biases", np.zeros(outputs, np.float32))]
    initializer = [onnx.numpy_helper.from_array(values, name) for name, values in constants]
    graph = helper.make_graph(nodes, "actor", ends[:1], ends[1:], initializer)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString())


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of, and the programs that shorten; copied for each page."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("bin", "recordings", "runs", ".venv", ".config/fish/completions"):
        (folder / name).mkdir(parents=True)
    for name, text in (("hil", PROGRAM), ("pytest", SUITE)):
        (folder / "bin" / name).write_text(text.format(python=sys.executable, short=SHORT))
        (folder / "bin" / name).chmod(0o755)
    (folder / ".venv" / "bin").symlink_to("../bin")
    for name in ("hil_tests", "firmware"):
        (folder / name).symlink_to(SHIPPED / name)
    shutil.copytree(SHIPPED / "models", folder / "models")
    (folder / "my_package").mkdir()
    (folder / "my_package" / "envs.py").write_text(ROBOT)
    (folder / "my.yaml").write_text(TRAINING)
    (folder / "robot.yaml").write_text("reset_noise_scale: 0.02\n")
    (folder / "slippery.yaml").write_text("physics: {friction: 0.6}\n")
    run = "hil run ppo --board native --clock lockstep --record before.mcap"
    shell(run, folder)
    for name in ("after.mcap", "recordings/RUN.mcap"):
        shutil.copyfile(folder / "before.mcap", folder / name)
    whole = (folder / "before.mcap").read_bytes()
    (folder / "recordings" / "CUT.mcap.partial").write_bytes(whole[: len(whole) // 2])
    return folder


def add_what_is_theirs(folder: Path, page: str) -> None:
    """Checkpoints and models that somebody else made, with the YAML files that the page shows."""
    write_reference_project(folder, "their_package", SHIPPED / "models" / "ppo" / "policy.zip")
    with (folder / "their_package" / "__init__.py").open("a") as file:
        file.write(THEIRS)
    (folder / "int8_model.tflite").write_bytes(two_outputs(6, 2))
    (folder / "actor.onnx").write_bytes(onnx_actor(2, 1))
    for name in ("their.tflite", "some.tflite"):
        (folder / name).write_bytes(two_outputs(2, 1))
    np.savez(folder / "rows.npz", observations=np.random.default_rng(0).uniform(-1, 1, (200, 2)).astype(np.float32))
    for beginning, name in (("control_period_ms", "signals.yaml"), ("faults:", "faults.yaml")):
        for _, text in (each for each in blocks(page) if each[1].startswith(beginning)):
            (folder / name).write_text(text)
    write_files(page, folder)


def write_files(page: str, folder: Path) -> None:
    """The files that a page holds: blocks whose first line is a comment with a path."""
    for _, text in blocks(page):
        if named := re.match(r"(?:#|//) (boards\.toml|boards/\S+|include/\S+|src/\S+)\n", text):
            (folder / named[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / named[1]).write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else (pytest.mark.nightly, pytest.mark.timeout(1800)))
        for page in PAGES
        if any(not left_out(statement) for statement in statements(page))
    ],
)
def test_the_commands_of_a_page_work(page: str, workshop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    shutil.copytree(workshop, folder, symlinks=True)
    add_what_is_theirs(folder, page)
    shell("\n".join(statement for statement in statements(page) if not left_out(statement)), folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_custom_board_takes_the_two_files_of_its_page(workshop: Path, tmp_path: Path) -> None:
    """A part of the HIL suite; the whole page in nightly. Nothing but the two files is there."""
    for tool in ("qemu-system-arm", "arm-none-eabi-g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: make setup")
    folder = tmp_path / "page"
    shutil.copytree(workshop, folder, symlinks=True)
    write_files("docs/custom-board.md", folder)
    assert sorted(path.name for path in (folder / "boards").rglob("*.*")) == ["hal.cpp", "lm3s6965.toml"]
    run = "hil run ppo --board lm3s6965 --clock lockstep --record run.mcap"
    parts = "identity or golden or protocol or recovery or text_line"
    shell(f"{run}\npytest hil_tests --hil-board lm3s6965 --hil-bundle models/ppo -k '{parts}'", folder)
    recorded = read_recording(folder / "run.mcap")
    assert len(recorded) == 200  # one second
    assert not recorded.held.any()


@pytest.fixture(scope="module")
def site() -> Path:
    done = subprocess.run([sys.executable, SHIPPED / "docs" / "build_site.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return SHIPPED / "build" / "site"


def test_the_site_builds_without_a_broken_link(site: Path) -> None:
    for page in ("index", "tutorial", "command-reference", "board-files"):
        assert (site / f"{page}.html").is_file()


def test_the_site_is_searched_from_the_disk(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'balance-hil[dev]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is found: sudo apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
        page.goto((site / "recordings.html").as_uri())
        page.keyboard.press("Control+k")
        page.keyboard.type("watchdog")
        page.get_by_text(re.compile(r"^\d+ results$")).wait_for()
        browser.close()
    assert problems == []
