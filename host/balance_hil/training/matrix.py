"""Several trainings in parallel, in processes or on a cluster: a failure or a kill does not affect the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from balance_hil.errors import HarnessError
from balance_hil.farm.campaign import HERE, Campaign, Task, content_hash
from balance_hil.interrupt import Interrupt
from balance_hil.processes import end_with_parent
from balance_hil.training.request import TrainingProgress, TrainingRequest

# What a process does for one request: trains, and returns figures as plain JSON types. It is sent there by its name.
Job = Callable[[TrainingRequest, Callable[[TrainingProgress], None]], Mapping[str, Any]]

_POLL_S = 0.25
_REPORT_PERIOD_S = 0.2
_STOP_S = 20.0  # for a training to end its step and to save its checkpoint


class InterruptedJobError(Exception):
    """Raised by a job whose training was interrupted; never leaves the package."""


@dataclass
class Run:
    """One training of the matrix."""

    request: TrainingRequest
    state: str = "waiting"  # "waiting", "running", "done", "failed", "interrupted"
    progress: TrainingProgress | None = None
    result: dict[str, Any] = field(default_factory=dict)  # what the job returned
    reason: str = ""  # why it failed
    wall_s: float = 0.0  # since its process was started, start-up and evaluation included

    @property
    def log(self) -> Path:
        """What the process printed."""
        return self.request.output.with_suffix(".log")

    @property
    def task(self) -> Task:
        """It as a task of a campaign."""
        request = self.request
        files = [content_hash(file) for file in (request.config, request.options, request.init_from) if file and file.exists()]
        what = {key: str(value) for key, value in asdict(request).items() if key not in ("output", "runs", "threads", "force")}
        return Task(f"{request.algorithm}-{request.seed}", (request,), what | {"files": files})


@dataclass
class _Worker:
    run: Run
    process: Any
    connection: Connection
    start_s: float


def run_matrix(
    requests: Sequence[TrainingRequest],
    job: Job,
    *,
    processes: int,
    on_change: Callable[[Sequence[Run]], None] = lambda runs: None,
    campaign: Campaign = HERE,
) -> list[Run]:
    """Runs every request and returns how each ended, in the order of ``requests``.

    Args:
        requests: each with an output folder of its own; beside it lies the process's log.
        job: what is done for each.
        processes: how many at a time.
        on_change: called with all runs a few times per second.
        campaign: its cluster, where the runs report no progress; its results are those of the runs that were done before.

    Raises:
        ClusterError, MissingExtraError: see ``Campaign.run``.

    Ctrl-C (or SIGTERM) ends every training after its running step; those runs are "interrupted", the waiting ones too. A second
    one ends the processes at once.
    """
    runs = [Run(request) for request in requests]
    for run in runs:
        if kept := campaign.kept(run.task):
            run.state, run.result, run.wall_s = "done", kept[0]["figures"], kept[0]["wall_s"]
    waiting, workers = [run for run in runs if run.state == "waiting"], list[_Worker]()
    if campaign.cluster is not None:
        _run_on_cluster(waiting, job, campaign, processes, lambda: on_change(runs))
        return runs
    context = multiprocessing.get_context("spawn")  # torch and MuJoCo have threads, which do not survive a fork
    try:
        with Interrupt() as stop:
            while (waiting or workers) and not stop.requested:
                while waiting and len(workers) < processes:
                    workers.append(_start(context, waiting.pop(0), job))
                workers = _listen(workers, campaign)
                on_change(runs)
            _stop(workers)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
    for run in waiting:
        run.state = "interrupted"
    on_change(runs)
    return runs


def _run_on_cluster(runs: Sequence[Run], job: Job, campaign: Campaign, processes: int, on_change: Callable[[], None]) -> None:
    tasks = [Task(run.task.name, (job, run.request.absolute()), {}) for run in runs]
    by_name = {run.task.name: run for run in runs}
    for run in runs:
        run.state = "running"
    on_change()
    for task, result in replace(campaign, results=None, jobs=processes).run(_train, tasks):
        run = by_name[task.name]
        run.state, run.result, run.reason, run.wall_s = result["state"], result["figures"], result["reason"], result["wall_s"]
        if run.state == "done":
            _keep(run, campaign)
        on_change()


def _train(job: Job, request: TrainingRequest) -> dict[str, Any]:
    """One run on a worker of a cluster, maybe again after the end of another worker."""
    start_s = time.perf_counter()
    figures, reason = dict[str, Any](), ""
    try:
        figures = dict(job(replace(request, force=True), lambda progress: None))
    except HarnessError as exc:
        reason = exc.message
    state = "failed" if reason else "done"
    return {"state": state, "figures": figures, "reason": reason, "wall_s": time.perf_counter() - start_s}


def _keep(run: Run, campaign: Campaign) -> None:
    campaign.keep(run.task, {"figures": run.result, "wall_s": run.wall_s})


def _start(context: Any, run: Run, job: Job) -> _Worker:
    run.request.output.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, run.request, run.log, theirs))
    process.start()
    theirs.close()
    run.state = "running"
    return _Worker(run, process, ours, time.perf_counter())


def _work(job: Job, request: TrainingRequest, log: Path, connection: Connection) -> None:
    """The process of one run. Everything that it prints goes to the log."""
    end_with_parent()
    os.setsid()  # Ctrl-C on the terminal reaches the parent alone, which passes it on once
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    latest_s = 0.0

    def report(progress: TrainingProgress) -> None:
        nonlocal latest_s
        if time.perf_counter() - latest_s >= _REPORT_PERIOD_S:
            latest_s = time.perf_counter()
            connection.send(("progress", progress))

    try:
        connection.send(("done", dict(job(request, report))))
    except InterruptedJobError:
        connection.send(("interrupted", ""))
    except HarnessError as exc:
        connection.send(("failed", exc.message))
    except Exception as exc:
        connection.send(("failed", f"{type(exc).__name__}: {exc}; see {log}"))
        raise  # the traceback belongs into the log


def _listen(workers: list[_Worker], campaign: Campaign) -> list[_Worker]:
    """Reads the workers' pending messages; returns the workers that still run."""
    ready = wait([worker.connection for worker in workers], timeout=_POLL_S)
    for worker in workers:
        worker.run.wall_s = time.perf_counter() - worker.start_s
        if worker.connection in ready and not _receive(worker):
            worker.process.join()
            if worker.run.state == "running":
                worker.run.state = "failed"
                worker.run.reason = f"its process ended with status {worker.process.exitcode}; see {worker.run.log}"
            elif worker.run.state == "done":
                _keep(worker.run, campaign)
    return [worker for worker in workers if worker.run.state == "running"]


def _receive(worker: _Worker) -> bool:
    """One message; false when the process has ended or is about to."""
    run = worker.run
    try:
        kind, content = worker.connection.recv()
    except EOFError:
        return False
    if kind == "progress":
        run.progress = content
        return True
    run.state = kind
    if kind == "done":
        run.result = content
    else:
        run.reason = content
    return False


def _stop(workers: list[_Worker]) -> None:
    """Stops the workers and reads their remaining messages."""
    for worker in workers:
        worker.process.terminate()  # SIGTERM: the training ends its step and saves a checkpoint
    deadline_s = time.perf_counter() + _STOP_S
    for worker in workers:
        while worker.run.state == "running" and worker.connection.poll(max(0.0, deadline_s - time.perf_counter())):
            with contextlib.suppress(OSError):
                if not _receive(worker):
                    break
        if worker.run.state == "running":
            worker.run.state = "interrupted"
