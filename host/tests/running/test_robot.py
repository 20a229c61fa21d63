"""What a robot prints: read whatever comes, compared with the desktop, held against the movements that it was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.bundle import Bundle
from balance_hil.errors import ModelMismatchError, NotOurFirmwareError, RecordingError, SilentBoardError, WrongBaudError
from balance_hil.running.robot import Lines, Numbers, PolarityCheck, Status, Watch, lines_of_log, lines_of_port
from balance_hil.runtimes.tflm import TflmRuntime

PERIOD_US = 5000


def line(t_us: int, *values: float) -> bytes:
    text = ",".join([str(t_us), "7", *(f"{np.float32(value):.9g}" for value in values)]).encode()
    checksum = 0
    for byte in text:
        checksum ^= byte
    return text + b"*%02x\n" % checksum


def status(bundle: Bundle, mode: str = "shadow", state: str = "running") -> bytes:
    return f"# robot {bundle.id} {mode} {state}\n".encode()


@pytest.fixture(scope="module")
def runtime(ppo_bundle: Bundle) -> TflmRuntime:
    return TflmRuntime(ppo_bundle.model())


def printed(bundle: Bundle, count: int = 300) -> list[bytes]:
    """Lines with what the golden vectors say."""
    observations, actions = (bundle.golden(name) for name in ("observations", "actions"))
    rows = np.flatnonzero(np.isfinite(observations).all(axis=1))[np.arange(count) % 200]
    return [line(i * PERIOD_US, *observations[row], *actions[row]) for i, row in enumerate(rows)]


def watched(bundle: Bundle, runtime: TflmRuntime, data: bytes):
    lines, watch = Lines(6, 2), Watch(bundle, runtime)
    for found in lines.feed(data):
        watch.take(found)
    return watch.result(lines.damaged)


def test_equal_outputs_are_good_and_the_period_is_the_robots(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    rows = printed(ppo_bundle)
    del rows[10:12]
    result = watched(ppo_bundle, runtime, status(ppo_bundle) + b"".join(rows))
    assert result.verdict.good, result.verdict
    assert (result.lines, result.compared, result.differing, result.missing, result.damaged) == (298, 596, 0, 2, 0)
    assert result.period_us == {"p50": 5000, "p99": 5000, "max": 5000}
    assert result.duration_s == pytest.approx(299 * 0.005)


def test_one_output_that_differs_by_one_step_is_found(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    rows = printed(ppo_bundle)
    observation, action = ppo_bundle.golden("observations")[0], ppo_bundle.golden("actions")[0].copy()
    action[1] += np.float32(ppo_bundle.output_quant.scale)
    rows[280] = line(280 * PERIOD_US, *observation, *action)
    result = watched(ppo_bundle, runtime, status(ppo_bundle) + b"".join(rows))
    assert result.differing == 1
    assert "the first at 1400000 us, wheel_right_speed_step" in result.verdict.reasons[0]


def test_motors_that_were_switched_off_are_a_bad_verdict(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    rows = b"".join(printed(ppo_bundle, 20))
    result = watched(ppo_bundle, runtime, status(ppo_bundle, "standalone") + rows + status(ppo_bundle, "standalone", "late"))
    assert result.verdict.reasons == ("the motors are off: late",)
    assert result.states == ("running", "late")


def test_outputs_of_the_motor_check_are_not_compared(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    data = status(ppo_bundle, "motors") + b"".join(line(i * PERIOD_US, *[0.0] * 6, 0.05, 0) for i in range(300))
    result = watched(ppo_bundle, runtime, data)
    assert (result.verdict.good, result.compared, result.lines) == (True, 0, 300)


def test_without_a_word_about_the_model_nothing_is_good(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    result = watched(ppo_bundle, runtime, b"".join(printed(ppo_bundle)))
    assert (result.compared, result.verdict.reasons) == (0, ("the robot did not say which model it runs",))


def test_the_clock_wraps_and_a_reset_is_no_gap(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    times = [2**32 - 2500, 2500, 7500, 1000, 6000]
    result = watched(ppo_bundle, runtime, status(ppo_bundle) + b"".join(line(t, *[0.0] * 6, 0, 0) for t in times))
    assert (result.missing, result.duration_s) == (0, pytest.approx(0.02))


def test_damaged_lines_are_left_out_and_many_are_a_bad_verdict(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    rows = printed(ppo_bundle)
    for i in range(1, 300, 50):
        rows[i] = rows[i].replace(b"7,", b"8,", 1)
    result = watched(ppo_bundle, runtime, status(ppo_bundle) + b"".join(rows))
    assert (result.damaged, result.lines, result.differing) == (6, 294, 0)
    assert result.verdict.reasons == ("6 lines were damaged, 294 were not",)


def test_another_model_is_named(ppo_bundle: Bundle, runtime: TflmRuntime) -> None:
    with pytest.raises(ModelMismatchError, match="runs the model 000000000000"):
        watched(ppo_bundle, runtime, b"# robot 000000000000 shadow running\n")
    with pytest.raises(ModelMismatchError, match="5 numbers a line"):
        watched(ppo_bundle, runtime, line(0, 1, 2, 3))


@given(
    st.lists(
        st.binary(max_size=60) | st.sampled_from([b"\n", b"#", b"# robot a b c\n", b"1,2,nan,inf*00\n", b"1" * 9000]), max_size=20
    )
)
def test_whatever_comes_is_read_to_its_end(pieces: list[bytes]) -> None:
    lines = Lines(1, 1)
    for piece in pieces:
        for found in lines.feed(piece):
            assert isinstance(found, Status) or np.isfinite([*found.inputs, *found.outputs]).all()
    rest = b"\n" + line(5, 1, 2)
    assert [type(found) for found in lines.feed(rest)][-1] is Numbers


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    lines = Lines(1, 1)
    for _ in range(100):
        assert not list(lines.feed(b"1" * 1000))
    assert len(lines._rest) <= 8192 + 1000
    assert [found.t_us for found in lines.feed(b"\n" + line(5, 1, 2))] == [5]


def test_what_is_not_a_number_is_damaged() -> None:
    lines = Lines(1, 1)
    assert not list(lines.feed(b"\n" + line(0, float("nan"), 1) + line(2**32, 1, 1) + line(-1, 1, 1)))
    assert lines.damaged == 3


@pytest.mark.parametrize(
    ("data", "error"), [(b"", SilentBoardError), (b"\xff\x80" * 9, WrongBaudError), (b"hello\r\n", NotOurFirmwareError)]
)
def test_a_port_without_a_robot_is_named(data: bytes, error: type[Exception]) -> None:
    clock = iter(np.arange(0, 100, 0.5))
    with pytest.raises(error):
        list(lines_of_port(lambda timeout_s: data, lambda: next(clock), Lines(1, 1), 60.0))


def test_a_port_is_read_for_the_time_asked_for() -> None:
    clock = iter(np.arange(0, 100, 0.5))
    assert len(list(lines_of_port(lambda timeout_s: b"\n" + line(5, 1, 2), lambda: next(clock), Lines(1, 1), 3.0))) == 5


def test_a_log_without_a_robot_is_named(tmp_path) -> None:
    (tmp_path / "log").write_text("hello\n")
    for name in ("log", "none", "."):
        with pytest.raises(RecordingError):
            list(lines_of_log(tmp_path / name, Lines(1, 1)))


def polarity(bundle: Bundle, move: dict[str, float], seconds: int = 400) -> PolarityCheck:
    """A check in which each signal that is asked for moves by ``move``, by default as it should."""
    asked = []
    check = PolarityCheck(bundle.spec.observation, asked.append, 0.1)
    while not check.done and len(asked) < 99 and seconds:
        seconds -= 1
        inputs = np.zeros(6, np.float32)
        if asked:
            inputs[asked[-1].index] = move.get(asked[-1].name, 0.2)
            inputs[(asked[-1].index + 1) % 6] = 0.15 if asked[-1].name in move else 0.0
            asked.clear()
        check.take(inputs)
    return check


def test_every_signal_that_rises_is_right(ppo_bundle: Bundle) -> None:
    check = polarity(ppo_bundle, {})
    assert [row.found for row in check.results] == ["right"] * 6
    assert check.verdict.good


def test_a_wrong_sign_and_a_swapped_sensor_are_named(ppo_bundle: Bundle) -> None:
    check = polarity(ppo_bundle, {"pitch_rate": -0.2, "wheel_left_speed": 0.0}, 4000)
    assert check.verdict.reasons == ("pitch_rate: falls, the sign is wrong", "wheel_left_speed: does not move")
    assert [row.instead for row in check.results] == ["", "", "wheel_right_speed", "", "", ""]


def test_what_was_not_asked_for_is_not_good(ppo_bundle: Bundle) -> None:
    assert polarity(ppo_bundle, {}, 8).verdict.reasons[-1] == "wheel_speed_difference_error: the lines ended before"


def test_a_signal_that_says_nothing_is_not_asked_for(ppo_bundle: Bundle) -> None:
    silent = tuple(replace(signal, positive="") for signal in ppo_bundle.spec.observation)
    assert PolarityCheck(silent, print, 0.1).done
