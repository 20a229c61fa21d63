"""Independent tasks on this computer's cores or on a dask cluster; what is done is kept, and not done again.

A task's function lies at the top of a module and returns plain JSON types: a result is the same bytes wherever it was computed,
and reading it back runs no code. A task may run more than once: it writes nothing that a second run would spoil.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import multiprocessing
import re
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil import __version__
from balance_hil.errors import ClusterError, UsageError, require
from balance_hil.files import parse_json, write_atomically
from balance_hil.paths import install_command
from balance_hil.processes import end_with_parent
from balance_hil.scheduling import usable_cores

LOCAL = "local"  # a cluster of this computer's processes
MAX_DEATHS = 3  # of workers in a row, without a result between them
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Task:
    """One call of a campaign's function."""

    name: str  # unique in the campaign
    arguments: tuple[Any, ...]  # they can be pickled
    depends_on: Any  # JSON types: whatever the result depends on, files by their hashes

    @property
    def fingerprint(self) -> str:
        """Changes with anything that the result depends on."""
        content = json.dumps([__version__, self.name, self.depends_on], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Where tasks run, and where their results are kept."""

    jobs: int | None = None  # processes here; None: one per core
    cluster: str | None = None  # LOCAL or the address of a dask scheduler; None: processes without dask
    results: Path | None = None  # folder with a file for each task that is done; None: they are not kept

    def run(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Generator[tuple[Task, Any]]:
        """Tasks and what ``function`` returned for them, as they end, those first whose results were kept.

        A worker that ends without an answer, by a signal for example, costs its tasks a repetition.

        Raises:
            ClusterError: nobody answers at the address, its workers cannot run the tasks, or workers end again and again.
            MissingExtraError: a cluster needs the extra ``farm``.
            UsageError: the folder of the results cannot be written.
            And what ``function`` raises, at once; results until then are kept.
        """
        if self.results is not None:
            with _writing(self.results):
                self.results.mkdir(parents=True, exist_ok=True)
        todo = []
        for task in tasks:
            kept = self.kept(task)
            if kept is None:
                todo.append(task)
            else:
                yield task, kept[0]
        if not todo:
            return
        jobs = min(self.jobs or usable_cores(), len(todo))
        if self.cluster is not None:
            done = _on_cluster(function, todo, self.cluster, jobs)
        elif jobs == 1:
            done = ((task, function(*task.arguments)) for task in todo)
        else:
            done = _in_processes(function, todo, jobs)
        with contextlib.closing(done):
            for task, result in done:
                self.keep(task, result)
                yield task, result

    def kept(self, task: Task) -> tuple[Any] | None:
        """The result of an earlier run in a tuple; None: there is none, or its file is damaged."""
        file = self._file(task)
        try:
            document = parse_json(file.read_text()) if file else None
            return (document["result"],) if document and document["sha256"] == _digest(task, document["result"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, task: Task, result: Any) -> None:
        """Writes the file of a task that is done. Raises UsageError: it cannot be written."""
        if file := self._file(task):
            document = {"task": task.name, "result": result, "sha256": _digest(task, result)}
            with _writing(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(document, sort_keys=True) + "\n")

    def _file(self, task: Task) -> Path | None:
        return None if self.results is None else self.results / f"{task.fingerprint}.json"


def _digest(task: Task, result: Any) -> str:
    return hashlib.sha256(json.dumps([task.name, result], sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise UsageError(f"{folder} cannot be written: {exc}", "choose another folder: --resume FOLDER") from exc


def content_hash(path: Path) -> str:
    """Of a file, or of the files of a folder with their names. Raises OSError."""
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _in_processes(function: Callable[..., Any], tasks: Sequence[Task], jobs: int) -> Generator[tuple[Task, Any]]:
    waiting, deaths = list(tasks), 0
    while waiting:
        futures: dict[Future[Any], Task] = {}
        try:
            with _pool(min(jobs, len(waiting))) as pool:
                futures = {pool.submit(function, *task.arguments): task for task in waiting}
                for future in as_completed(futures):
                    result = future.result()
                    task = futures[future]
                    waiting.remove(task)
                    deaths = 0
                    yield task, result
        except BrokenProcessPool as exc:
            deaths += 1
            if deaths == MAX_DEATHS:
                raise _too_many_deaths(waiting, "memory of this computer: --jobs 1 takes the least") from exc


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """On an exception the processes are ended at once, without waiting for their running tasks."""
    others = set(multiprocessing.active_children())
    # "spawn": a forked child would inherit the threads of MuJoCo and torch, and none of their locks.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    pool.shutdown()


def _begin_worker() -> None:
    """Ctrl-C reaches every process; the first one ends the others, and they end without it, too."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_cluster(function: Callable[..., Any], tasks: Sequence[Task], cluster: str, jobs: int) -> Generator[tuple[Task, Any]]:
    if cluster != LOCAL and not re.fullmatch(r"(tcp|tls)://[^/\s]+:\d{1,5}", cluster):
        raise UsageError(f"{cluster} is no address of a dask scheduler", "write it so: --cluster tcp://127.0.0.1:8786")
    require("distributed", "farm")
    import distributed
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError

    with contextlib.ExitStack() as held:
        address: Any = cluster
        if cluster == LOCAL:
            # Without an address it would listen on every interface.
            local = {"host": "127.0.0.1", "dashboard_address": None, "silence_logs": logging.CRITICAL}
            address = held.enter_context(distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, **local))
        try:
            client = held.enter_context(distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
            client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as exc:
            raise ClusterError(
                f"no cluster with a worker answers at {cluster}: {str(exc) or type(exc).__name__}",
                "start one: dask scheduler --host 127.0.0.1, and dask worker tcp://127.0.0.1:8786; or use --cluster local",
            ) from exc
        _check_workers(client)
        futures = {client.submit(function, *task.arguments, key=f"{task.fingerprint}", pure=False): task for task in tasks}
        try:
            for future in distributed.as_completed(futures, loop=client.loop):
                yield futures[future], future.result()
        except distributed.KilledWorker as exc:
            raise _too_many_deaths(tasks, "the workers' logs") from exc
        except (FutureCancelledError, CommClosedError) as exc:
            raise ClusterError(f"the cluster {cluster} is gone", "start it again, and continue: --resume FOLDER") from exc
        finally:
            client.cancel(list(futures), force=True)


def _check_workers(client: Any) -> None:
    """Raises ClusterError unless every worker has this version of the program."""
    for worker, version in client.run(worker_version, on_error="return").items():
        if version != __version__:
            what = f"version {version}" if isinstance(version, str) else f"no balance_hil ({version})"
            raise ClusterError(
                f"the worker {worker} has {what}, this program is {__version__}",
                f"install it there, with the extras that the tasks need: {install_command('farm,int8')}",
            )


def worker_version() -> str:
    """Version of this program where it is called."""
    return __version__


def _too_many_deaths(tasks: Sequence[Task], look_at: str) -> ClusterError:
    return ClusterError(
        f"workers ended again and again without a result, for example of {tasks[0].name}", f"look at the {look_at}"
    )
