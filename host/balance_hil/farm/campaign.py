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
import pickle
import re
import signal
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from balance_hil import __version__
from balance_hil.errors import ClusterError, MissingExtraError, UsageError, first_line, require
from balance_hil.files import parse_json, write_atomically
from balance_hil.paths import install_command
from balance_hil.processes import end_with_parent
from balance_hil.scheduling import usable_cores

LOCAL = "local"  # a cluster of this computer's processes
MAX_DEATHS = 3  # of workers in a row, without a result between them
CONNECT_TIMEOUT_S = 10
WORKER_TIMEOUT_S = 10  # for the first worker
WORKERS_GONE_TIMEOUT_S = 300  # without a worker after that: a cluster may replace those it took away
_POLL_S, _ASK_S = 0.02, 1.0  # for results, and the scheduler for its workers
_LONGEST_GREETING = 1 << 20
_LONGEST_VALUE = 60  # characters of an argument in a message


@dataclass(frozen=True)
class Task:
    """One call of a campaign's function."""

    name: str  # unique in the campaign
    arguments: tuple[Any, ...]  # they can be pickled
    depends_on: Mapping[str, Any]  # by name, in JSON types: whatever else the result depends on, files by their hashes

    def conditions(self) -> dict[str, Any]:
        """``depends_on`` and the program's version, as JSON gives them back."""
        return dict(json.loads(json.dumps({"balance_hil": __version__, **self.depends_on})))


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
            UsageError: the folder of the results cannot be written, or is of other arguments.
            And what ``function`` raises, at once; results until then are kept.
        """
        if self.results is not None:
            with _writing(self.results):
                self.results.mkdir(parents=True, exist_ok=True)
        known = [(task, self.kept(task)) for task in tasks]
        yield from ((task, result[0]) for task, result in known if result)
        todo = [task for task, result in known if not result]
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

    def of_one_at_a_time(self, board: str) -> Campaign:
        """Its tasks one after the other, in this process: of a board that there is once. Raises UsageError."""
        if self.cluster is not None or (self.jobs or 1) > 1:
            raise UsageError(
                f"{board} is one board, at this computer", "leave out --cluster and --jobs, or take an emulated board"
            )
        return replace(self, jobs=1)

    def kept(self, task: Task) -> tuple[Any] | None:
        """The result of an earlier run in a tuple; None: there is none, or its file is damaged.

        Raises UsageError: it was computed from other arguments.
        """
        if self.results is None:
            return None
        try:
            document = parse_json(self._file(task).read_text())
            content = {name: document[name] for name in ("task", "conditions", "result")}
            if document["sha256"] != _digest(content):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        there, here = content["conditions"], task.conditions()
        for name in sorted({*there, *here}):
            if there.get(name) != here.get(name):
                was, now = (str(each.get(name))[:_LONGEST_VALUE] for each in (there, here))
                raise UsageError(
                    f"{self.results} is of a campaign with other arguments: of {task.name}, {name} was {was} and is {now}",
                    "repeat the arguments of that campaign, or begin another: --resume OTHER_FOLDER",
                )
        return (content["result"],)

    def keep(self, task: Task, result: Any) -> None:
        """Writes the file of a task that is done. Raises UsageError: it cannot be written."""
        if self.results is not None:
            content = {"task": task.name, "conditions": task.conditions(), "result": result}
            with _writing(self.results):
                self.results.mkdir(parents=True, exist_ok=True)
                write_atomically(self._file(task), json.dumps(content | {"sha256": _digest(content)}, sort_keys=True) + "\n")

    def _file(self, task: Task) -> Path:
        assert self.results is not None
        return self.results / f"{hashlib.sha256(task.name.encode()).hexdigest()[:12]}.json"


HERE = Campaign()


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


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


class _Call:
    """Unpickling it is the call, so that neither the scheduler nor dask's own messages need what the task needs."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


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
            # Without addresses it would listen on every interface, and warn if another cluster has the port of its pages.
            local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}
            address = held.enter_context(distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, **local))
        client = held.enter_context(_client(address, cluster))
        futures = {}
        for task in tasks:
            call = pickle.dumps(_Call(_on_worker, __version__, pickle.dumps(_Call(function, *task.arguments))))
            futures[client.submit(pickle.loads, call, key=f"{function.__name__}-{uuid.uuid4().hex}", pure=False)] = task
        try:
            # With results: a worker may end between a task's end and the transfer of its result.
            completed = distributed.as_completed(futures, loop=client.loop, with_results=True)
            last_seen_s = asked_s = time.monotonic()
            while completed.count():
                for future, result in completed.next_batch(block=False):
                    # If its worker has ended since, the future of a result waits for another one.
                    yield futures[future], future.result() if future.status in ("error", "cancelled") else result
                time.sleep(_POLL_S)
                if time.monotonic() - asked_s < _ASK_S:
                    continue
                asked_s = time.monotonic()
                if client.scheduler_info(n_workers=1)["workers"]:
                    last_seen_s = asked_s
                elif asked_s - last_seen_s > WORKERS_GONE_TIMEOUT_S:
                    raise ClusterError(
                        f"the scheduler at {cluster} has had no worker for {WORKERS_GONE_TIMEOUT_S} s",
                        f"start one, dask worker {cluster} --nthreads 1, and continue: --resume FOLDER",
                    )
        except distributed.KilledWorker as exc:
            raise _too_many_deaths(tasks, "the workers' logs") from exc
        except (FutureCancelledError, CommClosedError) as exc:
            raise ClusterError(f"the cluster {cluster} is gone", "start it again, and continue: --resume FOLDER") from exc
        except ImportError as exc:  # MissingExtraError is one
            hint = exc.hint if isinstance(exc, MissingExtraError) else f"install it: {install_command('farm,int8')}"
            raise ClusterError(f"a worker of {cluster} cannot run the tasks: {exc}", f"on every worker, {hint}") from exc
        finally:
            client.cancel(list(futures), force=True)


@contextlib.contextmanager
def _client(address: Any, cluster: str) -> Iterator[Any]:
    """A client of a cluster that has a worker and the same version of dask. Raises ClusterError."""
    import distributed
    from distributed.comm.addressing import get_address_host_port

    if cluster != LOCAL:
        try:
            with socket.create_connection(get_address_host_port(cluster), CONNECT_TIMEOUT_S) as connection:
                # A scheduler greets: how long its greeting is, and that. dask would wait for it forever.
                greeting = 0 if cluster.startswith("tls:") else int.from_bytes(connection.recv(8), "little")
        except TimeoutError:
            greeting = _LONGEST_GREETING
        except (OSError, ValueError, OverflowError) as exc:  # dask would try for the whole time
            raise ClusterError(
                f"nobody answers at {cluster}: {exc}", "start one: dask scheduler --host 127.0.0.1; or use --cluster local"
            ) from exc
        if greeting >= _LONGEST_GREETING:
            raise ClusterError(
                f"what answers at {cluster} is no dask scheduler",
                "copy the address that dask scheduler prints: --cluster tcp://…",
            )
    with contextlib.ExitStack() as held:
        try:
            with _silent_dask():
                client = held.enter_context(distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False))
                there = client.get_versions(check=False)["scheduler"]["packages"]["distributed"]
        except Exception as exc:  # whatever dask says to the answers of something else
            raise ClusterError(
                f"the scheduler at {cluster} has a version of dask that does not understand "
                f"{version('distributed')}: {type(exc).__name__}: {first_line(exc)}",
                _same_dask(),
            ) from exc
        if there != version("distributed"):
            raise ClusterError(
                f"the scheduler at {cluster} has dask {there}, this program {version('distributed')}", _same_dask()
            )
        try:
            client.wait_for_workers(1, timeout=WORKER_TIMEOUT_S)
        except TimeoutError as exc:
            raise ClusterError(
                f"the scheduler at {cluster} has no worker after {WORKER_TIMEOUT_S} s",
                f"start one: dask worker {cluster} --nthreads 1",
            ) from exc
        yield client


def _same_dask() -> str:
    return f"install the same there, scheduler and workers: pip install distributed=={version('distributed')}"


@contextlib.contextmanager
def _silent_dask() -> Iterator[None]:
    """dask logs the tracebacks of what it raises, too, and warns of other versions."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _on_worker(expected: str, call: bytes) -> Any:
    """A task, where it runs. Raises ClusterError unless the worker is one for it; and what the task raises."""
    import distributed

    worker = distributed.get_worker()
    if expected != __version__:
        raise ClusterError(
            f"the worker {worker.address} has balance_hil {__version__}, this program is {expected}",
            f"install the same there, with the extras that the tasks need: {install_command('farm,int8')}",
        )
    if worker.state.nthreads != 1:
        raise ClusterError(
            f"the worker {worker.address} has {worker.state.nthreads} threads, and tasks are not thread-safe",
            f"start it with one, and more of them: dask worker {worker.scheduler.address} --nthreads 1 --nworkers -1",
        )
    return pickle.loads(call)  # noqa: S301  # of the scheduler, who can run anything here anyway


def _too_many_deaths(tasks: Sequence[Task], look_at: str) -> ClusterError:
    return ClusterError(
        f"workers ended again and again without a result, for example of {tasks[0].name}", f"look at the {look_at}"
    )
