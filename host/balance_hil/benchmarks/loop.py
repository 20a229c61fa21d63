"""``hil bench loop``: what a control step costs, four ways, in one run.

    MuJoCo alone       the environment's physics and observation, no policy
    transport echo     as many bytes there and back through a pseudo-terminal, echoed by a bare process
    balance_hil        our lockstep step on the native board
    text loop          a step as the reference project's host program does it: text floats, readline, the same board

The four take turns in short blocks, so that a slow phase of the computer affects all of them. A round trip goes from sending the
observation to receiving the action; a step is a round trip and the physics. "The same without inference" is what the framework
adds to the transport: client, frame codec, server and the engine's socket on both sides.
"""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import time
import tty
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import serial
from numpy.typing import NDArray

from balance_hil.benchmarks import row
from balance_hil.boards import Board, connect
from balance_hil.boards.kinds.emulated import EmulationConfig
from balance_hil.boards.kinds.native import NativeMachine
from balance_hil.bundle import Bundle
from balance_hil.envs import balance as envs
from balance_hil.model_image import ModelImage
from balance_hil.paths import MODELS
from balance_hil.processes import popen
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode

BLOCKS = 20
STEPS_PER_BLOCK = 250
ECHO_PROGRAM = """
import os, sys
fd, request, reply = (int(word) for word in sys.argv[1:])
waiting = 0
while True:
    waiting += len(os.read(fd, 4096))
    while waiting >= request:
        waiting -= request
        os.write(fd, bytes(reply))
"""

Floats = NDArray[np.float32]


class Contender:
    """One way to do a step. Collects round trips and whole steps, in microseconds."""

    def __init__(self, name: str, exchange: Callable[[Floats], Any], bytes_per_step: float = 0.0) -> None:
        self.name = name
        self.bytes_per_step = bytes_per_step
        self.round_trip_us: list[float] = []
        self.step_us: list[float] = []
        self._exchange = exchange
        self._env: gym.Env[Any, Any] = envs.make("balance/Balance-v0").unwrapped
        self._observation, _ = self._env.reset(seed=0)

    def run_block(self) -> None:
        """STEPS_PER_BLOCK control steps; a fall starts the next episode."""
        for _ in range(STEPS_PER_BLOCK):
            start = time.perf_counter()
            action = self._exchange(self._observation)
            arrived = time.perf_counter()
            self._observation, _, fallen, _, _ = self._env.step(action)
            end = time.perf_counter()
            self.round_trip_us.append(1e6 * (arrived - start))
            self.step_us.append(1e6 * (end - start))
            if fallen:
                self._observation, _ = self._env.reset()


def run() -> list[dict[str, Any]]:
    """Rows of the table: what, metric, value, unit, baseline, ratio."""
    bundle = Bundle.load(MODELS / "ppo")
    text_machine = NativeMachine(EmulationConfig(image=ModelImage.of(bundle)))
    with contextlib.closing(text_machine), connect("native", bundle) as board:
        observation = np.zeros(bundle.spec.n_obs, np.float32)
        request = len(encode(messages.Infer(observation), 1))
        reply_message = board.infer(observation)
        reply = len(encode(reply_message, 1))
        inference_us: list[float] = []
        with EchoProcess(request, reply) as echo:
            idle = np.zeros(bundle.spec.n_act, np.float32)
            bare = Contender("MuJoCo alone", lambda _: idle)
            echoed = Contender("transport echo", echo.exchange, request + reply)
            ours = Contender("balance_hil", ours_exchange(board, inference_us), request + reply)
            text = TextLoop(text_machine.start_unopened())
            reference = Contender("text loop", text.exchange)
            contenders = [bare, echoed, ours, reference]
            for contender in contenders:  # warm up: caches, branch predictors, the boards' engines
                contender.run_block()
                contender.round_trip_us.clear()
                contender.step_us.clear()
            inference_us.clear()
            for _ in range(BLOCKS):
                for contender in contenders:
                    contender.run_block()
            reference.bytes_per_step = text.bytes_moved / text.exchanges
    return report(bare, echoed, ours, reference, float(np.median(inference_us)))


def ours_exchange(board: Board, inference_us: list[float]) -> Callable[[Floats], Floats]:
    """One request and its reply, as the lockstep loop does it."""

    def exchange(observation: Floats) -> Floats:
        reply = board.infer(observation)
        inference_us.append(float(reply.inference_us))
        return reply.action

    return exchange


class EchoProcess:
    """A process that answers every ``request`` bytes with ``reply`` bytes on a pseudo-terminal, and does nothing else."""

    def __init__(self, request: int, reply: int) -> None:
        self._request = bytes(range(1, 1 + request % 256)).ljust(request, b"\x01")
        self._reply = reply
        master, slave = pty.openpty()
        tty.setraw(slave)
        self._port = serial.Serial(os.ttyname(slave), 921_600, timeout=1)
        os.close(slave)
        arguments = [sys.executable, "-c", ECHO_PROGRAM, str(master), str(request), str(reply)]
        self._process = popen(arguments, pass_fds=[master], start_new_session=True)  # Ctrl-C is for this program
        os.close(master)

    def exchange(self, _: Floats) -> Floats:
        """There and back once; returns no action that would move the robot."""
        self._port.write(self._request)
        if len(self._port.read(self._reply)) != self._reply:
            raise RuntimeError("the echo process stopped answering")
        return np.zeros(2, np.float32)

    def __enter__(self) -> EchoProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._port.close()


class TextLoop:
    """Comma-separated floats out, a line back: how the reference project's host program talks to its board."""

    def __init__(self, port: str) -> None:
        self.bytes_moved = 0
        self.exchanges = 0
        self._port = serial.Serial(port, 115_200, timeout=1)

    def exchange(self, observation: Floats) -> list[float]:
        """One observation as text, one action as text."""
        line = ",".join(map(str, observation))
        self._port.write(line.encode())
        self._port.write(b"\n")
        answer = self._port.readline()
        self.bytes_moved += len(line) + 1 + len(answer)
        self.exchanges += 1
        return [float(word) for word in answer.decode().strip().split(",")]


def report(
    bare: Contender, echoed: Contender, ours: Contender, reference: Contender, inference_us: float
) -> list[dict[str, Any]]:
    """Medians, p99, rates and bytes, ours against the others."""
    rows = []
    for contender in (echoed, ours, reference):
        for name, quantile in (("round trip p50", 50), ("round trip p99", 99)):
            value = float(np.percentile(contender.round_trip_us, quantile))
            base = float(np.percentile(reference.round_trip_us, quantile))
            rows.append(row(contender.name, name, value, "us", reference.name, value / base))
    for contender in (bare, ours, reference):
        rate_hz = 1e6 * len(contender.step_us) / sum(contender.step_us)
        base_hz = 1e6 * len(reference.step_us) / sum(reference.step_us)
        rows.append(row(contender.name, "control rate in lockstep", rate_hz, "Hz", reference.name, rate_hz / base_hz))
    for contender in (ours, reference):
        ratio = contender.bytes_per_step / reference.bytes_per_step
        rows.append(row(contender.name, "bytes per step", contender.bytes_per_step, "B", reference.name, ratio))
    rows.append(row(ours.name, "inference on the board p50", inference_us, "us"))
    beyond_echo = float(np.median(ours.round_trip_us) - np.median(echoed.round_trip_us))
    rows.append(row(ours.name, "round trip beyond the echo", beyond_echo, "us"))
    rows.append(row(ours.name, "the same without inference", beyond_echo - inference_us, "us"))
    return rows
