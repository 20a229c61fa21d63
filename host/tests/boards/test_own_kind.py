"""A board kind of a package outside the repository, found by its entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Hil = Callable[..., subprocess.CompletedProcess[str]]
KIND = """
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.errors import ConfigError, EmulatorMissingError

KEYS = {"rack": int}


def check_definition(definition):
    if definition.settings.get("rack", 0) < 1:
        raise ConfigError("a board of kind rack needs the number of its rack", "add a line rack = 1")


def check_installation():
    raise EmulatorMissingError("the racks are switched off", "switch them on")


def machine(definition, config, progress):
    progress(f"switching on rack {definition.settings['rack']}")
    return NativeMachine(config, progress)
"""
SHELF = """
KEYS = {}


def check_definition(definition):
    pass


def find_port(definition):
    return f"socket://localhost:1/{definition.name}"
"""


@pytest.fixture
def hil(tmp_path: Path) -> Hil:
    """Runs ``hil`` in a project folder, beside an installed package with two kinds and one that does not import."""
    site, project = tmp_path / "site", tmp_path / "project"
    metadata = site / "racks-1.0.dist-info"
    for folder in (metadata, project / "boards"):
        folder.mkdir(parents=True)
    (site / "rack_kind.py").write_text(KIND)
    (site / "shelf_kind.py").write_text(SHELF)
    (site / "broken_kind.py").write_text("import no_such_module\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: racks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[balance_hil.boards]\nrack = rack_kind\nshelf = shelf_kind\nbroken = broken_kind\nnative = shelf_kind\n"
    )
    (project / "boards/rack-7.toml").write_text('name = "rack-7"\nkind = "rack"\nrack = 7\n')
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "balance_hil", *arguments]
        environment = os.environ | {"PYTHONPATH": path}
        return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)

    run.project = project  # type: ignore[attr-defined]
    return run


def test_it_runs_a_policy(hil: Hil) -> None:
    done = hil("run", "ppo", "--board", "rack-7", "--engine", "int8", "--clock", "lockstep", "--seconds", "0.5", "--json")
    assert done.returncode == 0, done.stderr
    assert "switching on rack 7" in done.stderr
    assert json.loads(done.stdout)["runs"][0]["board"] == "rack-7"


def test_it_is_listed_with_what_is_missing(hil: Hil) -> None:
    boards = {board["name"]: board for board in json.loads(hil("boards", "--json").stdout)["boards"]}
    own = boards["rack-7"]
    assert (own["kind"], own["emulated"], own["missing"]) == ("rack", True, "the racks are switched off")
    assert own["file"].endswith("project/boards/rack-7.toml")
    assert boards["native"]["emulated"]  # an entry point replaces no shipped kind


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('name = "a"\nkind = "rack"\nrack = 0', "needs the number of its rack", "rack = 1"),
        ('name = "a"\nkind = "rack"\nrack = "x"', "rack must be of type int", ""),
        ('name = "a"\nkind = "rack"\nrak = 1', "unknown key 'rak'", "did you mean 'rack'"),
        ('name = "a"\nkind = "rakc"', "unknown board kind: 'rakc'", "did you mean 'rack'"),
        ('name = "a"\nkind = "broken"', "No module named 'no_such_module'", "reinstall"),
    ],
)
def test_its_keys_are_checked_by_the_kind(hil: Hil, text: str, message: str, hint: str) -> None:
    (hil.project / "boards/a.toml").write_text(text)  # type: ignore[attr-defined]
    done = hil("boards")
    assert done.returncode == 3
    assert message in done.stderr
    assert hint in done.stderr


def test_a_kind_of_boards_that_are_there_already_says_where(hil: Hil) -> None:
    (hil.project / "boards/a.toml").write_text('name = "there"\nkind = "shelf"')  # type: ignore[attr-defined]
    done = hil("run", "ppo", "--board", "there")
    assert done.returncode == 3
    assert "socket://localhost:1/there" in done.stderr
