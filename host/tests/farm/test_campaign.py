"""Campaigns: the same bytes whatever runs them, also when workers are killed; what is done is not done again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from balance_hil.errors import ClusterError, ConfigError, MissingExtraError, UsageError
from balance_hil.farm import campaign as module
from balance_hil.farm.campaign import LOCAL, Campaign, Task
from balance_hil.paths import install_command

TASKS = """
import os, signal, threading
from pathlib import Path
from balance_hil.errors import ConfigError, require

def square(number, folder):
    with (Path(folder) / f"{number}.calls").open("a") as calls:
        calls.write("x")
    return {"b": number * number, "a": [number / 3, "ä"]}

def only_one_ends(number, folder):
    if any(Path(folder).glob("*.calls")):
        threading.Event().wait()
    return square(number, folder)

def dies_once(number, folder):
    first = not (Path(folder) / f"{number}.calls").exists()
    result = square(number, folder)
    if number == 2 and first:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

def dies_always(number, folder):
    os.kill(os.getpid(), signal.SIGKILL)

def needs(number, folder):
    require("only_at_the_program", "int8")

def fails(number, folder):
    if number == 3:
        raise ConfigError("no such thing", "write another")
    return square(number, folder)
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    folder, here = tmp_path_factory.mktemp("functions"), tmp_path_factory.mktemp("here")
    (folder / "campaign_functions.py").write_text(TASKS)
    (here / "only_at_the_program.py").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.syspath_prepend(here)
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
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
    kept = {json.loads(path.read_text())["task"]: path for path in (tmp_path / "kept").iterdir()}
    kept["number 0"].write_text(kept["number 0"].read_text().replace("0.0", "0.1"))
    kept["number 1"].write_text("{]")
    results = list(campaign.run(functions.square, work))
    assert sorted(task.name for task, _ in results) == [task.name for task in work]
    assert calls(tmp_path) == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}
    list(campaign.run(functions.square, [*work, *tasks(tmp_path, 8)[6:]]))  # it may grow
    assert calls(tmp_path) == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}


def test_a_folder_of_other_arguments_is_refused_before_anything_runs(functions, tmp_path, monkeypatch):
    campaign = Campaign(jobs=1, results=tmp_path / "kept")
    *work, last = tasks(tmp_path, 4)
    list(campaign.run(functions.square, work[1:]))
    changed = Task(work[2].name, work[2].arguments, {"number": 2, "steps": 300})
    with pytest.raises(UsageError, match="other arguments: of number 2, steps was None and is 300") as caught:
        list(campaign.run(functions.square, [work[0], changed, last]))
    assert "--resume OTHER_FOLDER" in caught.value.hint
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(UsageError, match=r"balance_hil was .* and is 9\.9"):
        list(campaign.run(functions.square, work))
    assert calls(tmp_path) == {1: 1, 2: 1}


def test_without_the_extra(functions, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="'distributed', which is not installed") as caught:
        list(Campaign(cluster=LOCAL).run(functions.square, tasks(tmp_path)))
    assert caught.value.hint == f"install it: {install_command('farm')}"


class Programs:
    """Programs of dask on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *arguments: str, first: str = "", path: str | Path = "") -> subprocess.Popen[bytes]:
        """``first`` is run in its interpreter before it; ``path`` is where it finds modules first."""
        program = [sys.executable, "-c", f"{first}\nfrom distributed.cli.dask_{name} import main\nmain()"]
        program += ["--host", "127.0.0.1", "--no-dashboard", *arguments]
        where = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{os.environ['PYTHONPATH']}"}
        with (self.folder / "dask.log").open("ab") as log:
            self.started.append(
                subprocess.Popen(program, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, env=where)
            )
        return self.started[-1]

    def scheduler(self, first: str = "") -> str:
        """Its address."""
        file = self.folder / f"scheduler{len(self.started)}.json"
        self.start("scheduler", "--port", "0", "--scheduler-file", str(file), first=first)
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:  # it is written in one piece
            time.sleep(0.05)
        return json.loads(file.read_text())["address"]

    def worker(self, scheduler: str, *arguments: str, path: str | Path = "") -> subprocess.Popen[bytes]:
        """With one thread unless ``arguments`` say otherwise."""
        return self.start("worker", scheduler, "--no-nanny", "--nthreads", "1", *arguments, path=path)

    def end(self) -> None:
        """All of them."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):  # of a test
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def dask(functions, tmp_path_factory):
    programs = Programs(tmp_path_factory.mktemp("dask"))
    yield programs
    programs.end()


@pytest.fixture(scope="module")
def scheduler(dask) -> str:
    """Its workers are those of one test."""
    return dask.scheduler()


def test_separate_programs_one_of_them_killed_in_the_middle(functions, tmp_path, dask, scheduler, monkeypatch):
    workers = [dask.worker(scheduler) for _ in range(2)]
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    work = tasks(tmp_path, 40)
    list(Campaign(jobs=1, results=alone).run(functions.square, work))
    for count, _ in enumerate(Campaign(cluster=scheduler, results=spread).run(functions.square, work)):
        if count == 3:
            workers[0].kill()
    assert files(spread) == files(alone)
    monkeypatch.setattr(module, "__version__", "9.9")
    with pytest.raises(ClusterError, match=r"worker tcp://\S+ has balance_hil .*, this program is 9\.9"):
        list(Campaign(cluster=scheduler).run(functions.square, work))
    workers[1].kill()
    workers[1].wait()


def test_workers_that_are_gone(functions, tmp_path, dask, scheduler, monkeypatch):
    kept = tmp_path / "kept"
    monkeypatch.setattr(module, "WORKERS_GONE_TIMEOUT_S", 0.5)
    worker = dask.worker(scheduler)
    done = Campaign(cluster=scheduler, results=kept).run(functions.only_one_ends, tasks(tmp_path))
    next(done)
    worker.kill()
    with pytest.raises(ClusterError, match=r"has had no worker for 0\.5 s") as caught:
        list(done)
    assert "--resume" in caught.value.hint
    assert len(files(kept)) == 1


BAD_WORKERS = {
    "without balance_hil": ("square", "cannot run the tasks: No module named 'balance_hil'", "on every worker, install it"),
    "without the extra": ("needs", "needs the Python package 'only_at_the_program'", "on every worker, install it"),
    "with threads": ("square", r"worker tcp://\S+ has 2 threads, and tasks are not thread-safe", "--nthreads 1 --nworkers -1"),
}


@pytest.mark.parametrize("bad", BAD_WORKERS)
def test_a_worker_that_cannot_run_the_tasks(functions, tmp_path, dask, scheduler, bad):
    function, message, hint = BAD_WORKERS[bad]
    if bad == "without balance_hil":
        (tmp_path / "balance_hil.py").write_text(
            "raise ModuleNotFoundError(\"No module named 'balance_hil'\", name='balance_hil')"
        )
    worker = dask.worker(scheduler, *(["--nthreads", "2"] if bad == "with threads" else []), path=tmp_path)
    with pytest.raises(ClusterError, match=message) as caught:
        list(Campaign(cluster=scheduler).run(getattr(functions, function), tasks(tmp_path, 1)))
    assert hint in caught.value.hint
    worker.kill()
    worker.wait()


def test_a_scheduler_without_a_worker(functions, tmp_path, dask, monkeypatch):
    monkeypatch.setattr(module, "WORKER_TIMEOUT_S", 0.2)
    with pytest.raises(ClusterError, match="has no worker after") as caught:
        list(Campaign(cluster=dask.scheduler()).run(functions.square, tasks(tmp_path)))
    assert "dask worker tcp://127.0.0.1" in caught.value.hint


OTHER_VERSIONS = {
    "says so": ("import distributed.versions as v; v._version_cached = lambda name: '2020.1'", r"has dask 2020\.1, this program"),
    "does not understand": (
        "from distributed.scheduler import Scheduler; f = Scheduler.identity; Scheduler.identity = lambda self: f(self)",
        r"has a version of dask that does not understand 20\S+: TypeError",
    ),
}


@pytest.mark.parametrize("how", OTHER_VERSIONS)
def test_a_scheduler_of_another_version(functions, tmp_path, dask, how):
    first, message = OTHER_VERSIONS[how]
    with pytest.raises(ClusterError, match=message) as caught:
        list(Campaign(cluster=dask.scheduler(first)).run(functions.square, tasks(tmp_path)))
    assert "pip install distributed==" in caught.value.hint


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-x"])
def test_what_answers_is_no_scheduler(functions, tmp_path, monkeypatch, greeting):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as other, ThreadPoolExecutor() as pool:
        answered = pool.submit(lambda: other.accept()[0])
        answered.add_done_callback(lambda done: done.result().send(greeting))
        with pytest.raises(ClusterError, match="is no dask scheduler"):
            list(Campaign(cluster=f"tcp://127.0.0.1:{other.getsockname()[1]}").run(functions.square, tasks(tmp_path)))
        answered.result().close()


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1"])
def test_what_is_no_address(functions, tmp_path, address):
    with pytest.raises(UsageError, match="is no address of a dask scheduler") as caught:
        list(Campaign(cluster=address).run(functions.square, tasks(tmp_path)))
    assert "--cluster tcp://" in caught.value.hint


def test_nobody_answers(functions, tmp_path):
    with pytest.raises(ClusterError, match=r"nobody answers at tcp://127\.0\.0\.1:9: .*refused") as caught:
        list(Campaign(cluster="tcp://127.0.0.1:9").run(functions.square, tasks(tmp_path)))
    assert "dask scheduler" in caught.value.hint


def test_a_folder_that_cannot_be_made(functions, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        list(Campaign(results=tmp_path / "file" / "kept").run(functions.square, tasks(tmp_path)))
