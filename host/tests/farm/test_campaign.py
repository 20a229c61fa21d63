"""Campaigns: the same bytes whatever runs them, also when workers are killed; what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balance_hil.errors import ClusterError, ConfigError, UsageError
from balance_hil.farm import campaign as module
from balance_hil.farm.campaign import LOCAL, Campaign, Task

TASKS = """
import os, signal
from pathlib import Path
from balance_hil.errors import ConfigError

def square(number, folder):
    with (Path(folder) / f"{number}.calls").open("a") as calls:
        calls.write("x")
    return {"b": number * number, "a": [number / 3, "ä"]}

def dies_once(number, folder):
    first = not (Path(folder) / f"{number}.calls").exists()
    result = square(number, folder)
    if number == 2 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

def dies_always(number, folder):
    os.kill(os.getpid(), signal.SIGKILL)

def fails(number, folder):
    if number == 3:
        raise ConfigError("no such thing", "write another")
    return square(number, folder)
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "campaign_functions.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    import campaign_functions

    yield campaign_functions
    del sys.modules["campaign_functions"]


def tasks(folder: Path, count: int = 6) -> list[Task]:
    return [Task(f"number {number}", (number, str(folder)), {"number": number}) for number in range(count)]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def calls(folder: Path) -> dict[int, int]:
    return {int(path.stem): len(path.read_text()) for path in folder.glob("*.calls")}


@pytest.mark.parametrize("where", [{"jobs": 2}, {"cluster": LOCAL, "jobs": 2}], ids=["processes", "dask"])
def test_the_same_bytes_whatever_runs_them_and_a_killed_worker_costs_a_repetition(functions, tmp_path, where):
    alone, spread, scratch = tmp_path / "alone", tmp_path / "spread", tmp_path / "scratch"
    scratch.mkdir()
    results = {task.name: result for task, result in Campaign(jobs=1, results=alone).run(functions.square, tasks(scratch))}
    (scratch / "2.calls").unlink()
    again = {task.name: result for task, result in Campaign(results=spread, **where).run(functions.dies_once, tasks(scratch))}
    assert again == results
    assert files(spread) == files(alone)
    assert len(files(alone)) == 6
    assert calls(scratch)[2] == 2  # the worker was killed in the first of them


def test_workers_that_always_die_end_it(functions, tmp_path):
    with pytest.raises(ClusterError, match="again and again without a result"):
        list(Campaign(jobs=2).run(functions.dies_always, tasks(tmp_path, 2)))


def test_what_is_done_is_not_done_again(functions, tmp_path):
    campaign = Campaign(jobs=1, results=tmp_path / "kept")
    work = tasks(tmp_path)
    with pytest.raises(ConfigError, match="no such thing"):
        list(campaign.run(functions.fails, work))
    assert calls(tmp_path) == {0: 1, 1: 1, 2: 1}
    for task, text in ((work[0], '{"task": "number 0", "result": [1]}'), (work[1], "{]")):
        (tmp_path / "kept" / f"{task.fingerprint}.json").write_text(text)
    changed = Task(work[2].name, work[2].arguments, {"number": "two"})
    results = list(campaign.run(functions.square, [*work[:2], changed, *work[3:]]))
    assert [task.name for task, _ in results] == [task.name for task in work]
    assert calls(tmp_path) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1, 5: 1}
    list(campaign.run(functions.square, [*work[:2], changed, *work[3:]]))
    assert calls(tmp_path) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1, 5: 1}  # none of those that were kept whole


@pytest.fixture
def dask(functions, tmp_path: Path):
    """Starts programs of dask on loopback, and ends them."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        with (tmp_path / "dask.log").open("ab") as log:
            started.append(subprocess.Popen(program, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def scheduler(dask, tmp_path: Path) -> str:
    file = tmp_path / "scheduler.json"
    dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    deadline = time.monotonic() + 30
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return json.loads(file.read_text())["address"]


def test_separate_programs_one_of_them_killed_in_the_middle(functions, tmp_path, dask, scheduler, monkeypatch):
    workers = [
        dask("worker", scheduler, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--no-nanny") for _ in range(2)
    ]
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    work = tasks(tmp_path, 40)
    list(Campaign(jobs=1, results=alone).run(functions.square, work))
    for count, _ in enumerate(Campaign(cluster=scheduler, results=spread).run(functions.square, work)):
        if count == 3:
            workers[0].kill()
    assert files(spread) == files(alone)
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(ClusterError, match=r"has version .*, this program is 9\.9"):
        list(Campaign(cluster=scheduler).run(functions.square, work))


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1"])
def test_what_is_no_address(functions, tmp_path, address):
    with pytest.raises(UsageError, match="is no address of a dask scheduler") as caught:
        list(Campaign(cluster=address).run(functions.square, tasks(tmp_path)))
    assert "--cluster tcp://" in caught.value.hint


def test_nobody_answers(functions, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(ClusterError, match=r"no cluster with a worker answers at tcp://127\.0\.0\.1:9") as caught:
        list(Campaign(cluster="tcp://127.0.0.1:9").run(functions.square, tasks(tmp_path)))
    assert "dask scheduler" in caught.value.hint


def test_a_folder_that_cannot_be_made(functions, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        list(Campaign(results=tmp_path / "file" / "kept").run(functions.square, tasks(tmp_path)))
