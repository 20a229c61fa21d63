"""Identification recovers what it was given, says how sure it is, and refuses what it cannot use."""

import json
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.cli import hil
from balance_hil.environment import open_environment
from balance_hil.envs.balance import make
from balance_hil.envs.balance.identify import COLUMNS, identify, read_log, record, write_log
from balance_hil.envs.balance.identify.fit import wheel_inertia_kg_m2
from balance_hil.envs.balance.identify.output import draw_residuals, write_options
from balance_hil.envs.balance.options import load_options, options_from_dict
from balance_hil.errors import CalibrationLogError, ConfigError, UnknownEnvironmentError, UsageError
from balance_hil.files import read_yaml

TRUE = {"armature_kg_m2": 1.5e-4, "damping_nm_s_rad": 4e-4, "torque_limit_nm": 0.24, "servo_gain_nm_s_rad": 0.15}


def thinned(runs, share=0.5):
    """A part of the samples, unevenly spaced, those at which something is commanded among them: the fit is faster."""
    rng = np.random.default_rng(0)
    kept = []
    for run in runs:
        changes = np.any(np.diff(run.command_rad_s, axis=0) != 0, axis=1) | np.diff(run.drive)
        rows = np.concatenate([[True] * 6, changes[5:]]) | (rng.random(len(run.t_s)) < share)
        arrays = {name: getattr(run, name)[rows] for name in ("t_s", "command_rad_s", "drive", "speed_rad_s")}
        kept.append(replace(run, **arrays))
    return kept


@pytest.fixture(scope="module")
def runs():
    return thinned(record(options_from_dict({"motor": TRUE}), seed=3))


@pytest.fixture(scope="module")
def result(runs):
    return identify(runs)


def test_the_parameters_of_a_noisy_log_are_within_the_stated_intervals(result):
    for parameter in result.parameters:
        # The true value lies outside a 95 % interval now and then; three times its half width is a one in 10^8 event.
        half = (parameter.high - parameter.low) / 2
        assert abs(parameter.value - TRUE[parameter.name]) < 3 * half
        assert parameter.determined
        assert half < 0.03 * parameter.value
    assert result.residual_rms_rad_s == pytest.approx(0.15, rel=0.05)  # the noise, and nothing else


def test_one_load_alone_is_refused(runs):
    with pytest.raises(CalibrationLogError, match="common factor") as caught:
        identify(runs[:1])
    assert "disc of known inertia" in caught.value.hint


def test_wheels_that_do_not_move_are_refused(runs):
    still = [replace(run, speed_rad_s=np.zeros_like(run.speed_rad_s)) for run in runs]
    with pytest.raises(CalibrationLogError, match="do not move"):
        identify(still)


def test_a_parameter_that_the_log_does_not_show_is_called_undetermined(runs, tmp_path):
    gentle = []
    for run in runs:
        rows = slice(None, 400)
        coasting = np.zeros(400, bool)
        speed = 30.0 * np.exp(-TRUE["damping_nm_s_rad"] / (2.4e-5 + 1.5e-4 + run.load_kg_m2) * run.t_s[rows])
        noisy = speed[:, np.newaxis] + np.random.default_rng(0).normal(0, 0.1, (400, 2))
        gentle.append(replace(run, t_s=run.t_s[rows], command_rad_s=run.command_rad_s[rows], drive=coasting, speed_rad_s=noisy))
    result = identify(gentle)
    determined = {p.name: p.determined for p in result.parameters}
    assert not determined["torque_limit_nm"]
    assert not determined["servo_gain_nm_s_rad"]
    write_options(tmp_path / "motor.yaml", result, "log.csv")
    assert load_options(tmp_path / "motor.yaml").motor.torque_limit_nm is None


def test_the_known_inertia_is_that_of_the_model():
    assert wheel_inertia_kg_m2() == 2.4e-5


# --- the file -----------------------------------------------------------------------------------------------------------


def test_a_log_is_read_as_it_was_written(runs, tmp_path):
    write_log(tmp_path / "log.csv", runs)
    for got, expected in zip(read_log(tmp_path / "log.csv"), runs, strict=True):
        np.testing.assert_allclose(got.t_s, expected.t_s, atol=1e-6)
        np.testing.assert_array_equal(got.command_rad_s, expected.command_rad_s)
        np.testing.assert_array_equal(got.drive, expected.drive)
        np.testing.assert_allclose(got.speed_rad_s, expected.speed_rad_s, atol=1e-4)
        assert got.load_kg_m2 == expected.load_kg_m2
    assert [p.name for p in tmp_path.iterdir()] == ["log.csv"]


HEADER = ",".join(COLUMNS)
ROWS = [f"{k / 1000},10,-10,1,0,0.5,-0.5" for k in range(60)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty"),
        (["t_s,speed"], "line 1: unknown column 'speed'"),
        (
            [HEADER.replace("left_speed_rad_s", "left_sped_rad_s")],
            "line 1: unknown column 'left_sped_rad_s', did you mean 'left_speed_rad_s'",
        ),
        ([HEADER.replace(",drive", "")], "line 1: column 'drive' is missing"),
        ([HEADER + ",drive"], "line 1: column 'drive' is there twice"),
        (
            [HEADER, *ROWS[:7], "0.007,10,-10,1,0,abc,-0.5", *ROWS[8:]],
            "line 9, column left_speed_rad_s: 'abc' is",
        ),
        (
            [HEADER, *ROWS[:7], "0.007,10,nan,1,0,0.5,-0.5", *ROWS[8:]],
            "line 9, column right_command_rad_s: 'nan' is",
        ),
        ([HEADER, *ROWS[:7], "0.007,10,-10,2,0,0.5,-0.5", *ROWS[8:]], "line 9, column drive: 2 must be 0 or 1"),
        ([HEADER, *ROWS[:7], "0.007,10,-10,1,-1,0.5,-0.5", *ROWS[8:]], "line 9, column load_kg_m2: -1 must be within 0..0.01"),
        ([HEADER, *ROWS[:7], ROWS[3]], "line 9, column t_s: 0.003 does not come after 0.006"),
        ([HEADER, *ROWS[:7], "0.007,10"], "line 9: 2 values for 7 columns"),
        ([HEADER, *ROWS[:7]], "the run that starts at line 2 has 7 rows"),
        ([HEADER], "the file has 0 rows"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_column(tmp_path, lines, message):
    log = tmp_path / "log.csv"
    log.write_text("\n".join(lines))
    with pytest.raises(CalibrationLogError) as caught:
        read_log(log)
    assert message in caught.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CalibrationLogError, match="cannot read"):
        read_log(tmp_path / "none.csv")
    with pytest.raises(CalibrationLogError, match="cannot write"):
        write_log(tmp_path / "none" / "log.csv", [])


# --- the commands -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_recording_is_made_and_fitted_in_one_command(tmp_path, capsys):
    log, true = tmp_path / "step.csv", tmp_path / "true.yaml"
    true.write_text("motor: {armature_kg_m2: 1.5e-4}\n")
    hil(["identify", str(log), "--record", "--options", str(true), "--seed", "3", "--json"], standalone_mode=False)
    assert sum(len(run.t_s) for run in read_log(log)) == 2 * 3900
    armature = json.loads(capsys.readouterr().out)["parameters"][0]
    assert armature["low"] < 1.5e-4 < armature["high"]
    with pytest.raises(UsageError, match="belong to --record"):
        hil(["identify", str(log), "--load", "0"], standalone_mode=False)


def test_a_byte_order_mark_is_read_over(tmp_path, runs):
    log = tmp_path / "step.csv"
    write_log(log, runs)
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes())
    assert len(read_log(log)) == len(runs)


@pytest.mark.slow
def test_identify_gives_options_for_training(tmp_path, capsys, runs):
    log, options, plot = tmp_path / "step.csv", tmp_path / "motor.yaml", tmp_path / "residuals.png"
    write_log(log, thinned(runs, 0.3))
    capsys.readouterr()
    hil(["identify", str(log), "--output", str(options), "--plot", str(plot), "--json"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in document["parameters"]] == list(TRUE)
    for parameter in document["parameters"]:
        assert parameter["low"] < parameter["value"] < parameter["high"]
    motor = load_options(options).motor
    assert motor.armature_kg_m2 == pytest.approx(1.5e-4, rel=0.05)
    assert plot.stat().st_size > 10_000
    # What hil train --options hands to the environment.
    with open_environment("balance/Balance-v0", read_yaml(options)) as environment:
        assert environment.env.unwrapped.config.options.motor == motor


def test_a_picture_needs_the_ending_of_one(tmp_path, runs, result):
    with pytest.raises(UsageError, match="cannot draw a picture as residuals"):
        draw_residuals(tmp_path / "residuals.txt", runs, result)


# --- the environment ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_gymnasium_accepts_the_calibration():
    from gymnasium.utils.env_checker import check_env

    env = make("balance/MotorStand-v0")
    assert env.spec.max_episode_steps == 6000
    check_env(env.unwrapped, skip_render_check=True)


def test_the_calibration_is_not_for_training():
    from balance_hil.envs.balance.batch import BalanceBatch

    with pytest.raises(UnknownEnvironmentError, match="unknown environment of the balance robot: 'balance/MotorStand-v0'"):
        BalanceBatch("balance/MotorStand-v0", 1)


@pytest.mark.parametrize("options", [{"physics": {"friction": 0.5}}, {"motor": {"lag_s": 0.01}}])
def test_options_that_do_nothing_on_a_stand_are_refused(options):
    with pytest.raises(ConfigError):
        make("balance/MotorStand-v0", options=options)


@pytest.mark.parametrize("options", [{"load": 1e-4}, {"load_kg_m2": -1}, {"load_kg_m2": "heavy"}])
def test_a_bad_load_is_refused(options):
    with pytest.raises(UsageError, match="load"):
        make("balance/MotorStand-v0").reset(options=options)


def test_a_coasting_wheel_has_no_torque_and_a_load_slows_it():
    env = make("balance/MotorStand-v0").unwrapped
    speeds = []
    for load in (0.0, 1e-4):
        env.reset(seed=0, options={"load_kg_m2": load})
        for _ in range(10):
            info = env.step(np.array([1.0, 1.0, 1.0]))[4]
        speeds.append(info["wheel_speed_rad_s"][0])
        assert env.step(np.array([1.0, 1.0, -1.0]))[4]["torque_nm"] == [0.0, 0.0]
    assert speeds[0] / speeds[1] == pytest.approx(2.24e-4 / 1.24e-4, rel=0.02)
