"""The ten names of the front door, and the page about them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import balance_hil as hil

ROOT = Path(__file__).parents[2]
SLOW = {"campaign_over_seeds.py", "compare_a_board.py", "own_runtime.py"}


def run(*words, cwd=None):
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=cwd)


def test_every_name_is_there_and_documented():
    assert set(hil.__all__) <= set(dir(hil))
    for name in hil.__all__:
        assert getattr(hil, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Bord'"):
        _ = hil.Bord


def test_importing_it_imports_nothing_heavy():
    heavy = ("numpy", "mujoco", "gymnasium", "torch", "tensorflow", "serial", "yaml", "rich")
    code = f"import sys, balance_hil; print([m for m in {heavy} if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["train", "export", "evaluate", "run", "compare", "report", "flash", "emulate"])
def test_the_help_of_a_command_needs_no_extra(command):
    extras = ("torch", "stable_baselines3", "tensorflow", "onnx", "matplotlib", "numba", "tflite_micro", "ai_edge_litert")
    code = f"import sys, balance_hil.cli.{command}; print([m for m in {extras} if m in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"


def test_no_module_imports_itself_through_others():
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed: make setup")
    graph = grimp.build_graph("balance_hil")
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules if m != "balance_hil"}  # the front door
    while leaves := {m for m, others in imports.items() if not others & imports.keys()}:
        imports = {m: others for m, others in imports.items() if m not in leaves}
    assert not imports, f"a circle among {', '.join(sorted(imports))}"


def test_stages_do_not_hide_the_functions():
    stages = "import balance_hil.running, balance_hil.comparing.compare"
    code = f"{stages}\nimport balance_hil as h\nprint(callable(h.run), callable(h.compare))"
    assert run("-c", code).stdout.split() == ["True", "True"]


@pytest.mark.parametrize("first", ["", "import balance_hil; "])
def test_gymnasium_finds_the_environments_by_the_module(first):
    result = run("-c", first + "import gymnasium; print(gymnasium.make('balance_hil:balance/Balance-v0').unwrapped)")
    assert "BalanceEnv" in result.stdout, result.stderr


def test_the_page_is_that_of_the_docstrings():
    result = run(str(ROOT / "docs" / "generate_api.py"), "--check")
    assert result.returncode == 0, result.stderr


def example(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())


@pytest.mark.parametrize("example", [example(path.name) for path in sorted((ROOT / "examples").glob("*.py"))])
def test_an_example_is_short_and_runs(example, ppo_bundle, tmp_path):
    file = ROOT / "examples" / example
    assert len(file.read_text().splitlines()) <= 30
    arguments = {
        "campaign_over_seeds.py": [str(ppo_bundle.path), "native", "1"],
        "compare_a_board.py": [str(ppo_bundle.path), "native"],
        "own_runtime.py": [str(ppo_bundle.path)],
    }
    result = run(str(file), *arguments.get(example, []), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_environment_of_the_example_is_a_plant(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    with hil.open_environment("own_environment:Hover-v0") as env:
        assert [signal.unit for signal in env.spec.observation] == ["m", "m/s"]
        env.reset(1)
        assert not env.failed(*env.step(None)[2:])


def test_the_board_kind_of_the_example_is_found(tmp_path):
    """A run reaches for the port that the kind names; nobody listens there."""
    metadata = tmp_path / "racks-1.0.dist-info"
    (tmp_path / "boards").mkdir()
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: racks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[balance_hil.boards]\nrack = own_board_kind\n")
    board = tmp_path / "boards" / "rack-7.toml"
    path = os.pathsep.join([str(tmp_path), str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    for slot, status, says in ((7, 3, "localhost:4007"), (99, 3, "no slot from 1 to 16")):
        board.write_text(f'name = "rack-7"\nkind = "rack"\nslot = {slot}\n')
        command = [sys.executable, "-m", "balance_hil", "run", "ppo", "--board", "rack-7"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == status, done.stderr
        assert says in done.stderr
