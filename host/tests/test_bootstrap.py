"""The set-up program: what it says when it cannot install."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BOOTSTRAP = Path(__file__).parents[1] / "bootstrap.py"


@pytest.fixture
def bootstrap() -> SimpleNamespace:
    """The set-up program's functions; each one's globals can be patched through ``bootstrap.patch``."""
    names = runpy.run_path(str(BOOTSTRAP))
    return SimpleNamespace(**{k: v for k, v in names.items() if not k.startswith("__")})


def replace(function: object, **names: object) -> None:
    function.__globals__.update(names)  # type: ignore[attr-defined]


def test_without_root_the_missing_packages_are_named(bootstrap: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    replace(bootstrap.install_debian_packages, provided=lambda name: name != "libegl1", root_prefix=lambda: None)
    with pytest.raises(SystemExit) as ended:
        bootstrap.install_debian_packages({"g++": "firmware", "libegl1": "pictures"})
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "error: these Debian packages are missing" in message
    assert "apt-get install libegl1" in message
    assert "g++" not in message


def test_without_root_a_package_that_only_farms_need_is_done_without(
    bootstrap: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    replace(bootstrap.install_debian_packages, provided=lambda name: name != "ser2net", root_prefix=lambda: None)
    bootstrap.install_debian_packages({"g++": "firmware", "ser2net": "farms"})
    assert "going on without: ser2net" in capsys.readouterr().err


def test_nothing_missing_runs_nothing(bootstrap: SimpleNamespace) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a command was run")

    replace(bootstrap.install_debian_packages, provided=lambda name: True, check=refuse)
    bootstrap.install_debian_packages({"g++": "firmware"})


def test_root_and_sudo(bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert bootstrap.root_prefix() == []
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert bootstrap.root_prefix() is None


@pytest.mark.parametrize("arguments", [[], ["everything"], ["run", "all"]])
def test_an_unknown_profile(
    bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", *arguments])
    with pytest.raises(SystemExit):
        bootstrap.main()
    assert "hint:  run: python3.11 host/bootstrap.py" in capsys.readouterr().err


def test_another_python_is_refused(
    bootstrap: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "run"])
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(SystemExit):
        bootstrap.main()
    assert "this is Python 3.13" in capsys.readouterr().err


@pytest.mark.parametrize("npm", [None, "exit 1", "exit 0"])
def test_npm_that_fails_costs_the_emulated_pico_and_nothing_else(
    bootstrap: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    npm: str | None,
) -> None:
    if npm is not None:
        (tmp_path / "npm").write_text(f"#!/bin/sh\n{npm}\n")
        (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    replace(bootstrap.install_emulators, VENV=tmp_path)
    bootstrap.install_emulators()
    said = capsys.readouterr().err
    command = f"npm install --prefix {tmp_path}/emulators --no-audit --no-fund --loglevel=error"
    assert (f"the board pico cannot be emulated until this works: {command}" in said) == (npm != "exit 0")
    assert (tmp_path / "emulators/package.json").is_file()


def test_labgrid_that_cannot_be_installed_costs_the_farm_and_nothing_else(
    bootstrap: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "labgrid").write_text("a file is in the way")
    replace(bootstrap.install_labgrid, VENV=tmp_path)
    bootstrap.install_labgrid()
    assert "boards of labgrid farms cannot be used until this works: " in capsys.readouterr().err
