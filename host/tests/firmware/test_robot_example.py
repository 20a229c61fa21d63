"""firmware/examples/robot: balances a plant in memory, and the drivers for real parts balance it behind the Arduino API."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from balance_hil.bundle import Bundle
from balance_hil.cli.watch import command
from balance_hil.envs.balance.config import BalanceConfig
from balance_hil.paths import SHIPPED
from balance_hil.running.robot import Lines, Numbers, Status

pytestmark = pytest.mark.slow

FIRMWARE = SHIPPED / "firmware"
ROBOT = FIRMWARE / "examples/robot"
SHADOW, MOTORS, STANDALONE = 0, 1, 2
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wdouble-promotion", "-Werror"]


def includes(bundle: Bundle) -> list[str]:
    folders = [*(FIRMWARE / "lib").glob("*/include"), ROBOT / "include", FIRMWARE / "test/arduino", bundle.path]
    return [f"-I{folder}" for folder in folders]


@dataclass
class Printed:
    lines: list[Numbers]
    states: list[str]
    text: str
    end: str

    def column(self, name: str, bundle: Bundle) -> np.ndarray:
        signals = (*bundle.spec.observation, *bundle.spec.action)
        at = [signal.name for signal in signals].index(name)
        return np.array([[*line.inputs, *line.outputs][at] for line in self.lines]) * signals[at].scale

    def at_s(self, seconds: float) -> int:
        return int(np.searchsorted([line.t_us / 1e6 for line in self.lines], seconds))


class Builds:
    """Programs of the example, each made once: a robot in memory (simulated), or parts behind the Arduino API (mpu6050)."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self._folder, self._bundle = folder, bundle
        names = ("engine_int8", "quantize", "policy")
        sources = [
            p for name in names for p in (FIRMWARE / "lib" / name / "src").glob("*.cpp") if not p.stem.endswith(("_dsp", "_mve"))
        ]
        self._library = [self._object(p) for p in (*sources, FIRMWARE / "lib/server/src/text_line.cpp")]

    def __call__(self, robot: str, mode: int, *arguments: str) -> Printed:
        program = self._folder / f"{robot}{mode}"
        if not program.exists():
            files = [self._object(ROBOT / "src/main.cpp", mode), self._object(ROBOT / f"src/{robot}.cpp", mode)]
            files += [self._object(FIRMWARE / "test/robot/robot.cpp", mode)] if robot == "mpu6050" else []
            subprocess.run(["g++", "-fsanitize=address,undefined", *files, *self._library, "-o", program], check=True)
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-3000:]
        found = list(Lines(6, 2).feed(done.stdout.encode()))
        numbers = [line for line in found if isinstance(line, Numbers)]
        return Printed(numbers, [line.state for line in found if isinstance(line, Status)], done.stdout, done.stderr.strip())

    def _object(self, source: Path, mode: int = 0) -> Path:
        made = self._folder / f"{source.parents[1].name}-{source.stem}{mode}.o"
        flags = [
            *FLAGS,
            "-O1",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-DCORE_TEENSY",
            f"-DROBOT_MODE={mode}",
        ]
        if not made.exists():
            done = subprocess.run(
                ["g++", *flags, *includes(self._bundle), "-c", source, "-o", made], capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ppo_bundle: Bundle) -> Builds:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: make setup")
    return Builds(tmp_path_factory.mktemp("robot"), ppo_bundle)


def test_the_policy_keeps_it_up_at_200_hz(built: Builds, ppo_bundle: Bundle) -> None:
    printed = built("simulated", STANDALONE, "10")
    pitch = printed.column("pitch", ppo_bundle)
    assert pitch[0] > 0.09
    assert np.abs(pitch[printed.at_s(2) :]).max() < 0.03
    assert set(np.diff([line.t_us for line in printed.lines])) == {5000}
    assert set(printed.states) == {"running"}


def test_a_loop_that_stalls_has_its_motors_switched_off_for_good(built: Builds, ppo_bundle: Bundle) -> None:
    printed = built("simulated", STANDALONE, "4", "2", "30")
    assert printed.states[:3] == ["running", "running", "late"]
    assert set(printed.states[2:]) == {"late"}
    assert np.abs(printed.column("pitch", ppo_bundle)[-1]) > 0.3
    short = built("simulated", STANDALONE, "4", "2", "14")  # with the period after it less than the limit of 20 ms
    assert set(short.states) == {"running"}


def test_in_shadow_mode_the_motors_stay_off(built: Builds, ppo_bundle: Bundle) -> None:
    printed = built("simulated", SHADOW, "0.4")
    pitch = printed.column("pitch", ppo_bundle)
    assert pitch[-1] > 0.3  # it falls as a pendulum does
    assert printed.column("wheel_left_speed_step", ppo_bundle)[0] > 0  # and the policy knows what it would do


def test_watch_finds_the_outputs_of_the_desktop(built: Builds, ppo_bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(built("mpu6050", STANDALONE, "8", "free").text)
    recording = tmp_path / "run.mcap"
    done = CliRunner().invoke(command, [str(ppo_bundle.path), "--log", str(log), "--record", str(recording)])
    assert done.exit_code == 0, done.output
    assert "outputs are the desktop's, bit for bit" in done.output
    from balance_hil.cli.replay import command as replay

    done = CliRunner().invoke(replay, [str(recording), "--runtime", "tflm", "--bundle", str(ppo_bundle.path)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("program", "verdict"), [(STANDALONE, "PASS"), (SHADOW, "FAIL: the motors are off: sensor_or_fall")])
def test_a_report_of_a_watched_robot_has_the_verdict_of_the_watch_and_no_episodes(
    built: Builds, ppo_bundle: Bundle, tmp_path: Path, program: str, verdict: str
) -> None:
    log, recording = tmp_path / "log.txt", tmp_path / "run.mcap"
    log.write_text(built("simulated", program, "0.4").text)
    done = CliRunner().invoke(command, [str(ppo_bundle.path), "--log", str(log), "--record", str(recording)])
    assert verdict in done.output
    from balance_hil.cli.report import command as report

    done = CliRunner().invoke(report, [str(recording), "--no-frames"])
    assert done.output.splitlines()[0] == verdict
    page = recording.with_suffix(".html").read_text()
    assert ("no episodes" in page) == (verdict == "PASS")


def test_the_drivers_balance_a_robot_behind_the_arduino_api(built: Builds, ppo_bundle: Bundle) -> None:
    printed = built("mpu6050", STANDALONE, "8", "free")
    pitch, standby = (float(word) for word in printed.end.split())
    assert abs(pitch) < 0.02
    assert standby == 1
    assert set(printed.states) == {"running"}
    let_go = printed.at_s(3.5)
    assert np.abs(printed.column("pitch", ppo_bundle)[let_go:]).max() < 0.05
    assert np.abs(printed.column("wheel_left_speed", ppo_bundle)[let_go:]).max() < 5


def test_a_sensor_that_does_not_answer_switches_the_motors_off(built: Builds) -> None:
    printed = built("mpu6050", STANDALONE, "6", "unplugged")
    assert printed.states[-1] == "sensor_or_fall"
    assert printed.end.split()[1] == "0"


def test_a_host_that_does_not_read_does_not_delay_the_loop(built: Builds) -> None:
    pitch, standby = (float(word) for word in built("mpu6050", STANDALONE, "8", "deaf").end.split())
    assert abs(pitch) < 0.02
    assert standby == 1


def test_each_output_of_the_motor_check_turns_its_wheel_forward_and_back(built: Builds, ppo_bundle: Bundle) -> None:
    printed = built("mpu6050", MOTORS, "4.5", "stand")
    left, right = (printed.column(f"wheel_{side}_speed", ppo_bundle) for side in ("left", "right"))
    start_s = printed.lines[0].t_us / 1e6
    turns = [(int(np.argmax(speeds)) / 200, speeds.max()) for speeds in (left, right)]
    assert turns[0] == (pytest.approx(0.5, abs=0.1), pytest.approx(10, abs=1)), start_s
    assert left[200:390].max() < 2
    assert right[printed.at_s(start_s + 1.5)] == pytest.approx(10, abs=1)


def test_the_polarity_of_the_parts_is_that_of_the_table(built: Builds, ppo_bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    text = built("mpu6050", SHADOW, "9", "hand").text
    log.write_text(text)
    done = CliRunner().invoke(command, [str(ppo_bundle.path), "--log", str(log), "--polarity"])
    assert done.exit_code == 0, done.output
    assert done.output.count("right") >= 6
    assert "turn both wheels backward: speed_error must rise" in done.output


def test_its_numbers_are_those_of_the_environment() -> None:
    text = (ROBOT / "include/speed_command.h").read_text()
    config = BalanceConfig()
    numbers = [float(number) for number in re.findall(r"= ([\d.]+)f;", text)]
    assert numbers == [config.command_lead_rad_s, config.command_limit_rad_s]


@pytest.mark.parametrize("core", ["CORE_TEENSY", "ARDUINO_ARCH_STM32"])
def test_the_drivers_compile_for_a_cortex_m(ppo_bundle: Bundle, core: str) -> None:
    if shutil.which("arm-none-eabi-g++") is None:
        pytest.skip("arm-none-eabi-g++ is not installed: make setup")
    command = ["arm-none-eabi-g++", *FLAGS, "-mcpu=cortex-m7", "-mthumb", f"-D{core}", "-fno-exceptions", "-fsyntax-only"]
    sources = [ROBOT / "src/mpu6050.cpp", ROBOT / "src/main.cpp"]
    done = subprocess.run([*command, *includes(ppo_bundle), *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_header_of_another_bundle_does_not_compile(ppo_bundle: Bundle, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: make setup")
    other = ppo_bundle.file("signals.h").read_text().replace(ppo_bundle.id, "0" * 12)
    (tmp_path / "signals.h").write_text(other)
    command = ["g++", *FLAGS, f"-I{tmp_path}", *includes(ppo_bundle), "-fsyntax-only", str(ROBOT / "src/main.cpp")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "model.h and signals.h are of different bundles" in done.stderr
