"""What each option does to the robot, measured."""

import math

import mujoco
import numpy as np
import pytest

from balance_hil.envs.balance import make
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.config import BalanceConfig, SensorNoise
from balance_hil.envs.balance.disturbances import SIDE_ANGLES_RAD
from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.envs.balance.options import SIDES, PhysicsOptions, RobotOptions

NOISELESS = BalanceConfig(noise=SensorNoise(pitch_rad=0.0, pitch_rate_rad_s=0.0, wheel_speed_rad_s=0.0))
STILL = {"tilt_rad": 0.0, "speed_target_rad_s": 0.0, "wheel_speed_difference_target_rad_s": 0.0}
ZERO = np.zeros(2, np.float32)
FULL = np.ones(2, np.float32)


def robot(seed=0, reset=STILL, **options):
    env = BalanceEnv(config=NOISELESS, options=options)
    env.reset(seed=seed, options=reset)
    return env


def speeds(env, steps=20, action=FULL):
    """Wheel speeds of the true state, rad/s, [steps, 2]."""
    rows = []
    for _ in range(steps):
        env.step(action)
        rows.append(env.data.qvel[6:8].copy())
    return np.array(rows)


# --- physics and motor ------------------------------------------------------------------------------------------------


def test_mass_and_inertia_scale_together():
    env, plain = robot(physics={"mass_scale": 1.15}), robot()
    np.testing.assert_allclose(env.model.body_mass[1:], plain.model.body_mass[1:] * 1.15)
    np.testing.assert_allclose(env.model.body_inertia[1:], plain.model.body_inertia[1:] * 1.15)
    assert env.model.body_subtreemass[1] == pytest.approx(plain.model.body_subtreemass[1] * 1.15)  # what MuJoCo derives follows


def test_the_ranges_start_from_the_model_at_every_reset():
    env = robot(physics={"mass_scale": [0.9, 1.1], "com_offset_x_m": [-0.006, 0.006]}, motor={"servo_gain_scale": [0.6, 1.4]})
    for _ in range(30):
        env.reset()
    assert 0.9 <= env.model.body_mass[1] / 0.56 <= 1.1
    assert abs(env.model.body_ipos[1, 0]) <= 0.006
    assert 0.12 <= env.model.actuator_gainprm[0, 0] <= 0.28


def test_an_offset_of_the_center_of_mass_tips_the_robot():
    env = robot(physics={"com_offset_x_m": 0.006})
    for _ in range(40):
        info = env.step(ZERO)[4]
    assert info["pitch_rad"] > 0.01


def test_without_friction_the_wheels_spin_on_the_spot():
    slipping, gripping = robot(physics={"friction": 0.0}), robot()
    speeds(slipping), speeds(gripping)
    assert abs(slipping.data.qpos[0]) < 0.1 * abs(gripping.data.qpos[0])


@pytest.mark.parametrize("slope", [0.1, -0.1])
def test_the_robot_stands_on_the_slope_and_rolls_down(slope):
    env = robot(physics={"ground_slope_rad": slope})
    mujoco.mj_forward(env.model, env.data)
    assert env.data.ncon == 2
    assert np.abs(env.data.contact.dist).max() < 1e-4
    for _ in range(30):
        env.step(ZERO)
    assert np.sign(env.data.qpos[2] - 0.034) == -1
    assert np.sign(env.data.qpos[0]) == -np.sign(slope)


def test_a_lag_delays_the_wheels():
    plain, lagging = speeds(robot(), 4), speeds(robot(motor={"lag_s": 0.03}), 4)
    assert (lagging[:, 0] < 0.6 * plain[:, 0]).all()
    no_lag = speeds(robot(motor={"lag_s": [0.0, 1e-9]}), 4)
    np.testing.assert_allclose(no_lag, plain, atol=0.7)


def test_the_first_order_lag_has_its_time_constant():
    env = robot(motor={"lag_s": 0.02})
    env.data.ctrl[:] = 1.0
    mujoco.mj_step(env.model, env.data, nstep=20)
    assert env.data.act == pytest.approx([1 - math.exp(-1)] * 2, rel=1e-3)


def test_commands_within_the_dead_band_are_not_followed():
    env = robot(motor={"dead_band_rad_s": 3.0})
    env.apply_action([1.0, -1.0])  # 2 rad/s
    assert env.data.ctrl.tolist() == [0.0, 0.0]
    env.apply_action([1.0, -1.0])  # 4 rad/s
    assert env.data.ctrl.tolist() == [4.0, -4.0]


def test_motor_data_reach_the_model():
    env = robot(motor={"armature_kg_m2": 2e-4, "damping_nm_s_rad": 1e-3, "torque_limit_nm": 0.2, "servo_gain_nm_s_rad": 0.5})
    assert env.model.dof_armature[6:].tolist() == [2e-4] * 2
    assert env.model.dof_damping[6:].tolist() == [1e-3] * 2
    assert env.model.actuator_forcerange.tolist() == [[-0.2, 0.2]] * 2
    assert env.model.actuator_gainprm[:, 0].tolist() == [0.5] * 2
    assert env.model.actuator_biasprm[:, 2].tolist() == [-0.5] * 2
    assert (robot().model.dof_armature[6:] == 1e-4).all()  # the shared model is untouched


def test_dry_friction_holds_a_wheel():
    held, free = robot(motor={"dry_friction_nm": 0.2}), robot(motor={"dry_friction_nm": 1e-9})
    for env in (held, free):
        env.data.ctrl[:] = 0.0
        env.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION
        env.data.qfrc_applied[6:] = 0.1
        mujoco.mj_step(env.model, env.data, nstep=5)
    assert np.abs(held.data.qvel[6:]).max() < 0.2 * np.abs(free.data.qvel[6:]).min()


def test_a_battery_limits_torque_by_speed_and_sags_under_load():
    battery = {"voltage_v": 7.4, "nominal_voltage_v": 7.4, "internal_resistance_ohm": 0.0, "no_load_speed_rad_s": 100.0}
    env = robot(battery=battery)
    env.data.qvel[6:] = (50.0, -20.0)
    env.advance(0)
    np.testing.assert_allclose(env.model.actuator_forcerange, [[-0.3, 0.15], [-0.24, 0.3]])
    sagging = robot(battery={**battery, "internal_resistance_ohm": 0.37, "stall_current_a": 2.0})
    for _ in range(2):
        sagging.step(FULL)
    sagging.data.qvel[6:] = 0.0
    torque = np.abs(sagging.data.actuator_force).sum()
    sagging.advance(0)
    expected = 0.3 * (1 - 0.37 * torque / 0.3 * 2.0 / 7.4)
    assert torque > 0.0
    assert sagging.model.actuator_forcerange[0, 1] == pytest.approx(expected)


# --- sensors and delays -------------------------------------------------------------------------------------------------


def test_biases_are_in_the_observation_and_not_in_the_truth():
    options = {"pitch_bias_rad": 0.02, "gyro_bias_rad_s": -0.1}
    env, plain = robot(sensors=options), robot()
    seen, true = env.reset(seed=1, options=STILL)
    expected, expected_true = plain.reset(seed=1, options=STILL)
    np.testing.assert_allclose(seen - expected, [0.02 / 0.35, -0.1 / 4, 0, 0, 0, 0], atol=1e-6)
    assert true == expected_true


def test_the_gyro_bias_walks_by_its_density():
    walk = 0.05
    ends = []
    for seed in range(60):
        env = robot(seed, sensors={"gyro_bias_walk_rad_s_sqrt_s": walk})
        for _ in range(200):  # 1 s, without physics
            observation = env.finish_step()[0]
        ends.append(observation[1] * 4.0)
    assert np.std(ends) == pytest.approx(walk, rel=0.3)


def test_noise_scales_multiply_the_noise_of_the_environment():
    plain, noisy = BalanceEnv(), BalanceEnv(options={"sensors": {"imu_noise_scale": 3.0, "encoder_noise_scale": 0.0}})
    a = np.array([plain.reset(seed=seed, options=STILL)[0] for seed in range(20)])
    b = np.array([noisy.reset(seed=seed, options=STILL)[0] for seed in range(20)])
    np.testing.assert_allclose(b[:, :2], 3.0 * a[:, :2], rtol=1e-5)
    assert not b[:, 2:].any()


def test_encoders_count_whole_ticks():
    ticks = 400
    env = robot(sensors={"encoder_ticks_per_rev": ticks})
    one_tick = 2 * math.pi / ticks / 0.005
    seen = np.array([env.step(FULL)[0][2] * 80.0 for _ in range(30)])
    np.testing.assert_allclose(seen / one_tick, np.round(seen / one_tick), atol=1e-3)
    traveled = seen.sum() * 0.005
    assert traveled == pytest.approx(env.data.qpos[7], abs=2 * math.pi / ticks * 1.01)  # no tick is lost


@pytest.mark.parametrize("delay", [1, 4])
def test_measurements_are_old_by_the_delay(delay):
    late, plain = robot(delays={"observation_steps": delay}), robot()
    now = [plain.step(FULL)[0] for _ in range(12)]
    then = [late.step(FULL)[0] for _ in range(12)]
    np.testing.assert_array_equal(then[delay:], now[:-delay])
    np.testing.assert_array_equal(then[0], late.reset(seed=0, options=STILL)[0])  # at the start the first one is held


def test_jitter_delays_by_up_to_its_steps_and_never_goes_back():
    late, plain = robot(delays={"observation_steps": 1, "observation_jitter_steps": 3}), robot()
    now, then = speeds(plain, 60)[:, 0], [float(late.step(FULL)[0][2]) * 80.0 for _ in range(60)]
    ages = np.array([step - int(np.argmin(np.abs(now - seen))) for step, seen in enumerate(then)][6:])
    assert set(ages.tolist()) == {1, 2, 3, 4}
    assert (np.diff(ages) <= 1).all()


def test_actions_take_effect_late():
    env = robot(delays={"action_steps": 2})
    for _ in range(2):
        env.step(FULL)
        assert env.data.ctrl.tolist() == [0.0, 0.0]
    env.step(FULL)
    assert env.data.ctrl.tolist() == [2.0, 2.0]


# --- pushes and blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_a_push_changes_the_momentum_by_its_impulse(side):
    env = robot(physics={"friction": 0.0}, pushes={"impulse_n_s": 0.1, "interval_s": 0.05, "sides": [side]})
    for _ in range(9):
        env.step(ZERO)
    assert not env.data.xfrc_applied.any()
    before = momentum(env)
    env.step(ZERO)
    change = momentum(env) - before
    assert np.linalg.norm(change) == pytest.approx(0.1, rel=0.05)
    away = -np.array([math.cos(SIDE_ANGLES_RAD[side]), math.sin(SIDE_ANGLES_RAD[side])])
    assert change @ away > 0.1 * math.cos(math.pi / 4) * 0.95
    env.step(ZERO)
    assert not env.data.xfrc_applied.any()


def test_a_step_whose_action_is_held_is_pushed_once_all_the_same():
    whole, held = (robot(pushes={"impulse_n_s": 0.1, "interval_s": 0.05}) for _ in range(2))
    for step in range(30):
        if step == 0:
            held.apply_action(FULL)
        held.advance(2)
        held.advance(3)
        held.finish_step()
        command = held.data.ctrl.copy()
        whole.apply_action(FULL if step == 0 else ZERO)
        whole.data.ctrl[:] = command
        whole.advance(5)
        whole.finish_step()
    np.testing.assert_array_equal(held.data.qpos, whole.data.qpos)


def momentum(env):
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_subtreeVel(env.model, env.data)
    return env.data.subtree_linvel[1, :2] * env.model.body_subtreemass[1]


@pytest.mark.parametrize("environment", ["balance/BalanceBlocks-v0", "balance/BalanceBlocksFrontBack-v0"])
def test_blocks_come_from_their_sides_and_hit(environment):
    env = make(environment, options={"blocks": {"interval_s": 1.0}}).unwrapped
    block = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_BODY, "block")
    sides, hits, thrown = set(), 0, 0
    for seed in range(25):
        env.reset(seed=seed, options=STILL)
        mass, size = env.model.body_mass[block], 2 * env.model.geom_size[-1, 0]
        assert 0.03 <= mass <= 0.1
        np.testing.assert_allclose(env.model.body_inertia[block], mass * size**2 / 6)
        hit = False
        for step in range(280):
            env.data.qvel[:6] = 0.0  # held upright
            env.data.qpos[:7] = (0.0, 0.0, 0.034, 1.0, 0.0, 0.0, 0.0)
            env.apply_action(ZERO)
            for _ in range(env.substeps):  # a glancing hit is over within a control step
                env.advance(1)
                pairs = {frozenset(env.model.geom_bodyid[list(pair)].tolist()) for pair in env.data.contact.geom}
                hit = hit or any(block in pair and 0 not in pair for pair in pairs)
            env.finish_step()
            if step == 200:
                thrown += 1
                x, y = env.data.qpos[9:11] - env.data.qpos[:2]
                assert math.hypot(x, y) == pytest.approx(0.4, abs=0.05)
                sides.add(min(SIDES, key=lambda side: abs(math.remainder(math.atan2(y, x) - SIDE_ANGLES_RAD[side], 2 * math.pi))))
        hits += hit
    assert sides == (set(SIDES) if environment == "balance/BalanceBlocks-v0" else {"front", "back"})
    assert hits > 0.9 * thrown


def test_a_block_waits_out_of_reach_and_is_taken_away():
    env = make("balance/BalanceBlocks-v0", options={"blocks": {"interval_s": 1.0}}).unwrapped
    env.reset(seed=0, options=STILL)
    heights = []
    for _ in range(380):
        env.data.qvel[:6] = 0.0
        env.step(ZERO)
        heights.append(env.data.qpos[11])
    assert set(heights[:199]) == {5.0}
    assert max(heights[200:350]) < 1.5
    assert set(heights[361:380]) == {5.0}


@pytest.mark.parametrize(("speed_m_s", "stays"), [(1e3, True), (2e9, False), (-2e9, False)])
def test_a_block_that_was_shot_away_is_taken_away(speed_m_s, stays):
    env = make("balance/BalanceBlocks-v0", options={"blocks": {"interval_s": 1.0}}).unwrapped
    env.reset(seed=0, options=STILL)
    for _ in range(202):
        env.step(ZERO)
    env.data.qvel[9] = speed_m_s
    env.step(ZERO)
    assert (env.data.qpos[11] != 5.0) == stays


@pytest.mark.parametrize("then", [None, RobotOptions(physics=PhysicsOptions(friction=0.8))])
def test_a_block_in_flight_at_a_reset_is_out_of_reach_after_it(then):
    batch = BalanceBatch("balance/Balance-v0", 1, options={"blocks": {"sides": ["front"], "interval_s": 1.0}})
    batch.reset(0, 0, STILL)
    for _ in range(210):
        batch.step(np.zeros((1, 2), np.float32))
        batch._qpos[0, :7], batch._qvel[0, :6] = (0.0, 0.0, 0.034, 1.0, 0.0, 0.0, 0.0), 0.0
    assert batch.state()["qpos"][0, 11] < 1.0
    if then is not None:  # as a curriculum does
        batch.change_options(then)
    batch.reset(0, 0, STILL)
    for _ in range(100):
        batch.step(np.zeros((1, 2), np.float32))
    assert batch.state()["qpos"][0, 11] == 5.0
