"""Starts the native board's program behind a raw pseudo-terminal, with an engine that the test itself plays."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.model_image import ModelImage
from balance_hil.protocol import messages
from balance_hil.protocol.codec import Decoder, Frame, encode
from balance_hil.protocol.messages import Status
from balance_hil.protocol.wire import Message

DEADLINE_S = 30.0
N_OBS, N_ACT = 6, 2


def image_file(path: Path, model: bytes, rows: NDArray[np.int8] | None = None, **parts: Any) -> Path:
    """The file that the program starts with; ``rows``: vectors, int8 [n, n_obs + n_act]."""
    if rows is not None:
        parts |= {"inputs": rows[:, :N_OBS], "outputs": rows[:, N_OBS:]}
    path.write_bytes(ModelImage(model=model, **parts).file())
    return path


class PlayedEngine(threading.Thread):
    """The other end of the engine socket. Its model: the action is the first two inputs; operator 0 gives the whole input."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.connection: socket.socket  # set by the board
        self.init_reply = struct.pack("<IIHBfbfbII", N_OBS, N_ACT, 1, 0, 1 / 64, 3, 1 / 128, -2, 1000, 2000) + b"\x040.42"
        self.init_status = Status.OK
        self.model = b""
        self.arena_bytes = -1
        self.answers_garbage = False

    def run(self) -> None:
        latest = b""
        while (header := self._receive(6)) is not None:
            command, _number, size = struct.unpack("<BBI", header)
            data = self._receive(size) or b""
            if command == 1:
                self.arena_bytes = int.from_bytes(data[:4], "little")
                self.model = data[4:]
                self._reply(self.init_status, 1456, self.init_reply)
            elif command == 2:
                latest = data
                self._reply(Status.OK, 0, data[:N_ACT])
            else:
                self._reply(Status.OK, 0, latest)

    def _receive(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            try:
                chunk = self.connection.recv(size - len(data))
            except OSError:
                return None
            if not chunk:
                return None
            data += chunk
        return data

    def _reply(self, status: int, detail: int, data: bytes) -> None:
        reply = b"\xee" * 20 if self.answers_garbage else struct.pack("<BII", status, detail, len(data)) + data
        with contextlib.suppress(OSError):
            self.connection.sendall(reply)


class NativeBoard:
    """The program, its port and its engine. Every wait has a deadline that fails the test."""

    def __init__(self, program: Path, *options: str, engine: PlayedEngine | None = None) -> None:
        master, self.slave = os.openpty()
        self.port = os.ttyname(self.slave)
        firmware_end, self.engine_end = socket.socketpair()
        self.engine = engine or PlayedEngine()
        self.engine.connection = self.engine_end
        command = [program, "--fd", str(master), "--engine-fd", str(firmware_end.fileno()), *options]
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
        self.process = subprocess.Popen(
            command, pass_fds=[master, firmware_end.fileno()], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment
        )
        os.close(master)
        firmware_end.close()
        self.engine.start()
        self.decoder = Decoder()
        self._frames: list[Frame] = []

    def __enter__(self) -> NativeBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            os.close(self.slave)
        with contextlib.suppress(OSError):
            self.engine_end.shutdown(socket.SHUT_RDWR)
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stderr.close()
            self.engine.join(DEADLINE_S)
            self.engine_end.close()

    def write(self, data: bytes) -> None:
        os.write(self.slave, data)

    def read(self) -> bytes:
        """What has arrived; waits for something."""
        ready, _, _ = select.select([self.slave], [], [], DEADLINE_S)
        assert ready, f"the board is silent; it says {self.process.poll()}"
        return os.read(self.slave, 1 << 16)

    def receive(self) -> Frame:
        while not self._frames:
            self._frames = self.decoder.feed(self.read())
        return self._frames.pop(0)

    def receive_until(self, seq: int) -> Frame:
        """The frame with this number; earlier ones are thrown away."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            frame = self.receive()
            if frame.seq == seq:
                return frame
        raise AssertionError(f"no frame {seq}")

    def ask(self, message: Message, seq: int = 1) -> Message:
        self.write(encode(message, seq))
        frame = self.receive()
        assert frame.seq == seq
        return frame.message

    def ready(self) -> messages.Ready:
        frame = self.receive()
        assert frame.seq == 0
        assert isinstance(frame.message, messages.Ready)
        return frame.message

    def hello(self) -> messages.Info:
        info = self.ask(messages.Hello(7))
        assert isinstance(info, messages.Info)
        return info

    def infer(self) -> Message:
        return self.ask(messages.InferInt8(np.arange(N_OBS, dtype=np.int8)))
