"""An episode that diverged is run again, bit for bit."""

import numpy as np
import pytest

from balance_hil.cli import hil
from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.envs.balance.crash_repro import MAX_STEPS, EpisodeLog, generator_state, load, restored_generator
from balance_hil.envs.balance.options import options_from_dict
from balance_hil.envs.balance.rerun import rerun
from balance_hil.errors import NonFiniteInputError, RecordingError, SimulationDivergedError, UsageError

# Pushes that throw the robot about: sooner or later a speed is beyond what the test calls diverged.
UNSTABLE = {
    "physics": {"mass_scale": [0.9, 1.1]},
    "pushes": {"impulse_n_s": [9.0, 10.0], "interval_s": 0.2},
    "sensors": {"gyro_bias_walk_rad_s_sqrt_s": 0.1},
}


def diverge(monkeypatch, at_speed=60.0, options=UNSTABLE):
    """Steps a batch until an episode's wheels are faster than ``at_speed``, which here counts as divergence."""
    from balance_hil.envs.balance import task

    measure = task._measure

    def strict(qpos, qvel):
        if max(abs(v) for v in qvel) > at_speed:
            raise SimulationDivergedError(f"the simulation diverged: {qvel}", "")
        return measure(qpos, qvel)

    monkeypatch.setattr(task, "_measure", strict)
    batch = BalanceBatch("balance/Balance-v0", 3, options=options)
    rng = np.random.default_rng(0)
    for i in range(3):
        batch.reset(i, np.random.SeedSequence((5, i)), {"speed_target_rad_s": 3.0})
    try:
        for _ in range(5000):
            for i, outcome in enumerate(batch.step(rng.uniform(-1, 1, (3, 2)).astype(np.float32))):
                if outcome[2]:
                    batch.reset(i)
    except SimulationDivergedError as error:
        return error
    pytest.fail("nothing diverged")


@pytest.mark.parametrize("options", [UNSTABLE, {}])
def test_the_episode_ends_again_as_it_did(monkeypatch, tmp_path, options):
    error = diverge(monkeypatch, 60.0 if options else 30.0, options)
    np.savez(tmp_path / "diverged.npz", qpos=np.zeros(3), **error.crash_repro.to_arrays())
    crash_repro = load(tmp_path / "diverged.npz")
    result = rerun(crash_repro)
    assert result.error == crash_repro.message == error.message  # the state in it is equal to the last digit
    assert len(result.moments) == len(crash_repro.actions) - 1
    assert bool(result.robot) == bool(options)


def test_the_command_shows_it(monkeypatch, tmp_path, capsys):
    error = diverge(monkeypatch)
    np.savez(tmp_path / "diverged.npz", **error.crash_repro.to_arrays())
    with pytest.raises(SystemExit) as ended:
        hil(["replay", str(tmp_path / "diverged.npz")], standalone_mode=False)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert error.message in printed
    assert "mass_scale" in printed
    monkeypatch.undo()  # nothing diverges any more
    with pytest.raises(SystemExit) as ended:
        hil(["replay", str(tmp_path / "diverged.npz"), "--json"], standalone_mode=False)
    assert ended.value.code == 1
    assert '"repeats": false' in capsys.readouterr().out


@pytest.mark.parametrize("stress", [(), ("--stress", "--jobs", "1")])
def test_an_evaluation_keeps_it_for_replay(monkeypatch, tmp_path, ppo_bundle, stress):
    from balance_hil.envs.balance import task

    def failing(qpos, qvel, measure=task._measure):
        if qvel[task.WHEEL_LEFT] > 5.0:
            raise SimulationDivergedError(f"the simulation diverged: {qvel}", "shorten the step")
        return measure(qpos, qvel)

    monkeypatch.setattr(task, "_measure", failing)
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        with pytest.raises(SimulationDivergedError) as error:
            hil(["evaluate", str(ppo_bundle.path), "-r", "torch", "--episodes", "2", *stress], standalone_mode=False)
        file = f"runs/evaluate_{n}/diverged.npz"
        assert error.value.hint.startswith("shorten the step; run the episode again, ")
        assert error.value.hint.endswith(f" steps: hil replay {file}")
        with pytest.raises(SystemExit) as ended:
            hil(["replay", file], standalone_mode=False)
        assert ended.value.code == 0


def test_an_action_that_is_nan_is_kept_with_its_episode():
    batch = BalanceBatch("balance/Balance-v0", 3)
    for i in range(3):
        batch.reset(i, i)
    batch.step(np.full((2, 2), 0.3, np.float32), [0, 2])
    with pytest.raises(NonFiniteInputError) as error:
        batch.step(np.array([[0.1, 0.1], [0.2, np.nan]], np.float32), [1, 2])
    crash_repro = error.value.crash_repro
    assert crash_repro.generator == batch.crash_repro(2, "").generator
    result = rerun(crash_repro)
    assert (result.error, len(result.moments)) == (error.value.message, 1)


def test_options_that_changed_in_the_middle_are_those_of_the_episode():
    batch = BalanceBatch("balance/Balance-v0", 1, options={"physics": {"mass_scale": [0.5, 1.5]}})
    batch.reset(0, 1)
    batch.change_options(options_from_dict({"physics": {"mass_scale": [1.2, 1.3]}}))
    batch.reset(0)
    last = [batch.step(np.full((1, 2), 0.1, np.float32))[0] for _ in range(20)][-1]
    crash_repro = batch.crash_repro(0, "asked for")
    result = rerun(crash_repro)
    assert result.error is None
    assert result.moments[-1].trace["pitch_rad"] == last[4]["pitch_rad"]
    assert result.robot == batch.robot(0).sampled.to_dict()


def test_a_generator_goes_on_where_it_was():
    rng = np.random.default_rng(3)
    rng.random(5), rng.spawn(2)
    again = restored_generator(generator_state(rng))
    assert again.random() == rng.random()
    assert again.spawn(1)[0].random() == rng.spawn(1)[0].random()


def test_an_episode_that_is_too_long_is_not_kept():
    log = EpisodeLog(2)
    both, action = np.array([0, 1], np.int32), np.arange(4, dtype=np.float32).reshape(2, 2)
    assert log.episode(0) is None
    log.start(0, np.random.default_rng(0), None)
    log.add(both[:1], action[:1])
    log.start(1, np.random.default_rng(0), None)
    for _ in range(MAX_STEPS):
        log.add(both, action)
    assert log.episode(0) is None
    kept = log.episode(1)[0]
    assert kept.shape == (MAX_STEPS, 2)
    assert (kept == action[1]).all()


def test_a_file_without_an_episode_is_refused(tmp_path):
    np.savez(tmp_path / "diverged.npz", qpos=np.zeros(3))
    with pytest.raises(UsageError, match="contains no episode"):
        load(tmp_path / "diverged.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04")
    for name in ("broken.npz", "none.npz"):
        with pytest.raises(RecordingError, match="can be run again"):
            load(tmp_path / name)
