"""Boards that a farm of a package outside the repository lends: the example of Jumpstarter, with a stand-in for its client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from balance_hil.boards import farm
from balance_hil.boards.place import Place
from balance_hil.paths import IS_CHECKOUT, SHIPPED

# The names that the example uses, as in Jumpstarter 0.9.0.
JUMPSTARTER = {
    "jumpstarter/common/exceptions.py": "class EnvironmentVariableNotSetError(Exception): ...",
    "jumpstarter/utils/env.py": """
import os
from contextlib import contextmanager
from types import SimpleNamespace

from jumpstarter.common.exceptions import EnvironmentVariableNotSetError


@contextmanager
def env_with_metadata():
    if "JUMPSTARTER_HOST" not in os.environ:
        raise EnvironmentVariableNotSetError
    yield SimpleNamespace(children={"board": 4000}), SimpleNamespace(name="rack", labels={"board": "native"})
""",
    "jumpstarter_driver_network/adapters.py": """
from contextlib import contextmanager


@contextmanager
def TcpPortforwardAdapter(*, client, method="connect"):
    print("forwarding", method)
    yield "localhost", client
    print("forwarded")
""",
}


@pytest.mark.skipif(not IS_CHECKOUT, reason="the example is in the repository: clone it")
@pytest.mark.parametrize(
    ("place", "lease", "says", "status"),
    [
        ("board", "rack", "cannot open socket://localhost:4000", 3),
        ("bord", "rack", "rack has no bord", 2),
        ("board", "", "there is no lease of a Jumpstarter board", 3),
    ],
)
def test_the_example_lends_a_board(tmp_path: Path, place: str, lease: str, says: str, status: int) -> None:
    for name, text in JUMPSTARTER.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    metadata = tmp_path / "racks-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: racks\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[balance_hil.boards]\njumpstarter = jumpstarter_farm\n")
    path = os.pathsep.join([str(tmp_path), str(SHIPPED / "examples"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | ({"JUMPSTARTER_HOST": lease} if lease else {})
    command = [sys.executable, "-m", "balance_hil", "run", "ppo", "--board", f"jumpstarter:{place}"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert ("forwarded" in done.stdout) == (says.startswith("cannot open"))


class Lender:
    """A farm that counts."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def acquired(self, place: str, wait_s: float, progress: object) -> Iterator[Place]:
        self.log.append(f"+{place}")
        yield Place(name=f"lender:{place}", kind="native", port="socket://localhost:1")
        self.log.append(f"-{place}")


def test_a_board_is_lent_once_and_returned_at_the_last_end(monkeypatch: pytest.MonkeyPatch) -> None:
    lender = Lender()
    monkeypatch.setattr(farm, "kind_names", lambda: ["lender"])
    monkeypatch.setattr(farm, "find_kind", lambda name: lender)
    with farm.acquired("lender:a") as one:
        with farm.acquired("lender:a") as again, farm.acquired("lender:b"):
            assert again is one
        assert lender.log == ["+a", "+b", "-b"]
    with farm.acquired("lender:a"):
        pass
    assert lender.log == ["+a", "+b", "-b", "-a", "+a", "-a"]
