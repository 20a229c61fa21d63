"""The Arduino sketch and HAL, compiled with sanitizers against a stand-in for an Arduino core, behind a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
import tty
from pathlib import Path

import numpy as np
import pytest
from platformio.project.config import ProjectConfig

from balance_hil.boards import Board
from balance_hil.bundle import Bundle
from balance_hil.firmware_build import PROJECT, build, firmware_commit, is_tflm
from balance_hil.link import open_link
from balance_hil.protocol import messages
from balance_hil.protocol.codec import encode

from .test_tflm_library import write_fake_library

DEADLINE_S = 30.0
RESET_STATUS = 42
LED_ON, LED_OFF = "pin 13 is 1", "pin 13 is 0"


@pytest.fixture(scope="module")
def sketch() -> Path:
    return build("arduino_test")


class Sketch:
    """The running sketch. Its port is open before it starts, so that READY is not lost."""

    def __init__(self, program: Path, *options: str) -> None:
        master, self.slave = os.openpty()
        tty.setraw(self.slave)
        environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
        command = [program, str(master), *options]
        self.process = subprocess.Popen(command, pass_fds=[master], stderr=subprocess.PIPE, text=True, env=environment)
        os.close(master)
        self.port = os.ttyname(self.slave)

    def board(self, bundle: Bundle | None = None) -> Board:
        return Board(open_link(self.port), bundle, handshake_timeout_s=DEADLINE_S)

    def end(self) -> tuple[int, list[str]]:
        """Closes the port, which ends the sketch; its status and what it said."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        _, said = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, said.splitlines()


@contextlib.contextmanager
def running(program: Path, *options: str):
    sketch = Sketch(program, *options)
    try:
        yield sketch
    finally:
        if sketch.slave >= 0:
            os.close(sketch.slave)
        sketch.process.kill()
        sketch.process.wait()
        sketch.process.stderr.close()


def arduino_environments() -> list[str]:
    config = ProjectConfig(str(PROJECT / "platformio.ini"))
    return [name for name in config.envs() if config.get(f"env:{name}", "framework") == ["arduino"]]


@pytest.mark.parametrize("environment", arduino_environments())
def test_the_sketch_compiles_without_a_warning_for_every_board(environment: str, ppo_bundle: Bundle, tmp_path: Path) -> None:
    """With the flags of its environment, against the stand-in for an Arduino core."""
    firmware, libraries = PROJECT / "firmware", tmp_path / "libraries"
    write_fake_library(libraries)
    (tmp_path / "build_info.h").write_text(
        "".join(f'#define HIL_{name} "x"\n' for name in ("FIRMWARE_COMMIT", "PROCESSOR", "BOARD_NAME"))
    )
    flags = ProjectConfig(str(PROJECT / "platformio.ini")).get(f"env:{environment}", "build_flags")
    folders = [tmp_path, ppo_bundle.path, firmware / "src", firmware / "test/arduino", *firmware.glob("lib/*/include"), libraries]
    sources = [
        *firmware.glob("src/arduino/*.cpp"),
        firmware / f"src/board_engine/{'tflm' if is_tflm(environment) else 'int8'}.cpp",
    ]
    command = ["g++", *shlex.split(" ".join(flags)), "-DF_CPU=1000000L", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run([*command, *(f"-I{folder}" for folder in folders), *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_sketch_serves_the_policy(sketch: Path, ppo_bundle: Bundle) -> None:
    with running(sketch) as process, process.board(ppo_bundle) as board:
        assert board.info.board == "arduino-test"
        assert board.info.firmware_commit == firmware_commit()
        assert (board.info.engine, board.info.rx_buffer, board.info.clock_hz) == ("int8", 256, 1_000_000)
        assert board.self_test() == messages.SelfTestResult(0, 8, 0, 0xFFFF)
        golden = np.load(ppo_bundle.file("golden.npz"))
        replies = board.infer_raw_batch(golden["input_int8"][:200])
        assert np.array_equal([reply.output for reply in replies], golden["output_int8"][:200])
        assert board.stats().dropped_replies == 0


def test_a_policy_is_uploaded_and_the_next_one_too(sketch: Path, ppo_bundle: Bundle) -> None:
    other = Bundle.load(ppo_bundle.path.with_name("ppo-rounding-invariant"))
    with running(sketch) as process, process.board(ppo_bundle) as board:
        assert board.info.upload_size == 32768
        for bundle in (other, ppo_bundle, other):
            assert board.load(bundle).uploaded
            assert (board.info.model_id, board.info.uploaded) == (bundle.id, 1)
            golden = np.load(bundle.file("golden.npz"))
            replies = board.infer_raw_batch(golden["input_int8"][:50])
            assert np.array_equal([reply.output for reply in replies], golden["output_int8"][:50])


def test_the_led_is_on_while_actions_arrive(sketch: Path, ppo_bundle: Bundle) -> None:
    with running(sketch) as process:
        with process.board(ppo_bundle) as board:
            board.set_watchdog(20)
            board.infer(np.zeros(6, np.float32))
            deadline = time.monotonic() + DEADLINE_S
            while not board.stats().safe_state:
                assert time.monotonic() < deadline
        status, said = process.end()
    assert status == 0
    assert said == ["pin 13 mode 1", LED_OFF, LED_ON, LED_OFF]


def test_micros_wraps_and_the_board_does_not_notice(sketch: Path, ppo_bundle: Bundle) -> None:
    wrap_ms = 2**32 // 1000
    with running(sketch, str(2**32 - 500_000)) as process, process.board(ppo_bundle) as board:
        deadline = time.monotonic() + DEADLINE_S
        before_ms = 0
        while (uptime_ms := board.stats().uptime_ms) <= wrap_ms:
            assert uptime_ms >= before_ms
            before_ms = uptime_ms
            assert time.monotonic() < deadline
        board.infer(np.zeros(6, np.float32))
        assert not board.stats().safe_state


def test_reset(sketch: Path, ppo_bundle: Bundle) -> None:
    with running(sketch) as process:
        with process.board(ppo_bundle) as board:
            board.send(messages.Reset())
            process.process.wait(DEADLINE_S)
        assert process.end()[0] == RESET_STATUS


def test_a_host_that_does_not_read_costs_replies_but_not_the_board(sketch: Path, ppo_bundle: Bundle) -> None:
    with running(sketch) as process:
        with process.board(ppo_bundle):
            pass
        echo = encode(messages.Echo(bytes(900)), 1)
        descriptor = os.open(process.port, os.O_RDWR | os.O_NOCTTY)
        try:
            for _ in range(100):  # the replies are 90 kB: more than a pseudo-terminal holds
                os.write(descriptor, echo)
        finally:
            os.close(descriptor)
        with process.board(ppo_bundle) as board:
            assert board.stats().dropped_replies > 0
            assert board.echo(b"again") == b"again"
