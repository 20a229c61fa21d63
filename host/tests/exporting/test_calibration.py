import hashlib

import numpy as np
import pytest

from balance_hil.checkpoint import read_checkpoint
from balance_hil.environment import open_environment
from balance_hil.errors import ExportError
from balance_hil.exporting import calibration
from balance_hil.exporting.calibration import (
    NOISE_LEVELS,
    load_calibration,
    normalization_of,
    record_calibration,
    record_excited,
    uniform_rows,
)


@pytest.fixture(scope="module")
def policy(ppo_bundle):
    return read_checkpoint(ppo_bundle.file("policy.zip")).act_batch


@pytest.fixture(scope="module")
def env():
    with open_environment("balance/Balance-v0") as opened:
        yield opened


@pytest.fixture(scope="module")
def spec(env):
    return env.spec


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(calibration, "RECORDED_ROWS", 190)
    monkeypatch.setattr(calibration, "HELD_OUT_ROWS", 38)


def rows(n=32, n_obs=6, dtype=np.float32):
    return np.random.default_rng(0).uniform(-1, 1, (n, n_obs)).astype(dtype)


def still(observations):
    return np.zeros((len(observations), 2), np.float32)


def test_the_seed_decides_every_row(policy, env, few_rows):
    first, again, other = (record_calibration(policy, env, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.observations, again.observations)
    assert np.array_equal(first.held_out, again.held_out)
    assert first.origin == again.origin
    assert not np.array_equal(first.observations, other.observations)


def test_five_percent_of_the_rows_are_uniform_over_the_box(policy, env, few_rows):
    recorded = record_calibration(policy, env, 0)
    assert (len(recorded.observations), len(recorded.held_out)) == (200, 40)
    assert recorded.origin["uniform_rows"] == 10
    uniform = recorded.observations[190:]
    assert np.all(uniform.max(axis=0) > 0.3)
    assert np.all(uniform.min(axis=0) < -0.3)


def test_held_out_rows_are_other_rows(policy, env, few_rows):
    recorded = record_calibration(policy, env, 0)
    seen = {row.tobytes() for row in recorded.observations}
    assert not any(row.tobytes() in seen for row in recorded.held_out)


def test_the_origin_describes_the_rows(policy, env, few_rows):
    recorded = record_calibration(policy, env, 0)
    assert recorded.origin["rows"] == 200
    assert recorded.origin["noise_levels"] == list(NOISE_LEVELS)
    assert recorded.origin["sha256"] == hashlib.sha256(recorded.observations.tobytes()).hexdigest()
    assert recorded.origin["min"] == pytest.approx(recorded.observations.min(axis=0))
    assert recorded.origin["max"] == pytest.approx(recorded.observations.max(axis=0))


def test_noise_widens_what_a_balancing_policy_sees(policy, env, monkeypatch):
    noisy = record_excited(policy, env, [0], 500)
    assert np.all(np.abs(noisy) <= 1.0)
    monkeypatch.setattr(calibration, "NOISE_LEVELS", (0.0,) * len(NOISE_LEVELS))  # the same episodes
    calm = record_excited(policy, env, [0], 500)
    assert np.array_equal(noisy[:125], calm[:125])  # a quarter is without noise
    assert np.all(noisy[375:].std(axis=0) > 2 * calm[375:].std(axis=0))


def test_each_episode_starts_with_the_reset_options_that_excite_the_environment(policy, env, monkeypatch):
    given = []
    reset = type(env).reset
    monkeypatch.setattr(type(env), "excite", lambda self, rng: {"tilt_rad": 0.25})
    monkeypatch.setattr(type(env), "reset", lambda self, seed, options: given.append(options) or reset(self, seed, options))
    recorded = record_excited(policy, env, [0], 20)
    assert given == [{"tilt_rad": 0.25}] * len(NOISE_LEVELS)
    assert recorded[0, 0] * env.spec.observation[0].scale == pytest.approx(0.25, abs=0.05)


def test_a_quarter_of_the_rows_is_without_noise(policy, env, monkeypatch):
    levels = []
    plain = calibration._with_noise

    def watched(outputs, spec, level, rng):
        levels.append(level)
        return plain(outputs, spec, level, rng)

    monkeypatch.setattr(calibration, "_with_noise", watched)
    record_excited(policy, env, [0], 40)
    assert sorted(set(levels)) == sorted(NOISE_LEVELS)
    assert np.array_equal(plain(np.ones(2, np.float32), env.spec, 0.0, np.random.default_rng(0)), [1, 1])


def test_noise_on_a_discrete_action_chooses_another_now_and_then():
    with open_environment("CartPole-v1") as cartpole:
        rng = np.random.default_rng(0)
        logits = np.array([3.0, -1.0], np.float32)
        for level, share in ((0.0, 0.0), (0.3, 0.15), (1.0, 0.5)):
            chosen = [np.argmax(calibration._with_noise(logits, cartpole.spec, level, rng)) for _ in range(2000)]
            assert np.mean(chosen) == pytest.approx(share, abs=0.04)


def test_a_policy_that_fails_is_recorded_all_the_same(env):
    recorded = record_excited(still, env, [0], 100)
    assert recorded.shape == (100, 6)
    assert np.ptp(recorded[:, 0]) > 1.0  # from one side to the other


def test_signals_without_limits_are_filled_over_what_was_seen():
    with open_environment("HalfCheetah-v5") as cheetah:
        seen = np.random.default_rng(0).normal(3, 1, (50, 17)).astype(np.float32)
        filled = uniform_rows(cheetah.spec, seen, 300, [1])
    assert np.all(filled >= seen.min(axis=0))
    assert np.all(filled <= seen.max(axis=0))
    assert np.all(filled.std(axis=0) > 0.5)


def test_features_that_differ_widely_are_normalized():
    rng = np.random.default_rng(0)
    wide = (rng.normal(0, 1, (500, 3)) * [0.1, 1, 50] + [0, 5, 0]).astype(np.float32)
    normalization = normalization_of(wide)
    inputs = normalization.apply(wide)
    assert np.allclose(inputs.mean(axis=0), 0, atol=0.01)
    assert np.allclose(inputs.std(axis=0), 1, atol=0.01)
    assert np.abs(inputs).max() < normalization.clip
    assert normalization_of(wide * np.float32([10, 1, 0.02])) is None


def test_a_feature_that_never_moves_asks_for_no_normalization():
    wide = np.random.default_rng(0).normal(0, 1, (500, 3)).astype(np.float32)
    wide[:, 1] = 7
    assert normalization_of(wide) is None
    wide[:, 2] *= 100
    assert np.array_equal(normalization_of(wide).apply(wide)[:, 1], np.zeros(500))


def test_rows_of_the_users_own_are_taken_as_they_are(tmp_path, spec):
    np.savez(tmp_path / "mine.npz", observations=rows(dtype=np.float64))
    loaded = load_calibration(tmp_path / "mine.npz", spec, 0)
    assert np.array_equal(loaded.observations, rows())
    assert loaded.observations.dtype == np.float32
    assert loaded.origin["source"] == "mine.npz"
    assert len(loaded.held_out) == 7


def with_value(value):
    changed = rows()
    changed[3, 2] = value
    return changed


def with_constant_column():
    changed = rows()
    changed[:, 1] = 0.5
    return changed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": rows()}, "no array named 'observations'"),
        ({"observations": rows(n_obs=5)}, r"\[32, 5\]"),
        ({"observations": rows()[0]}, r"\[6\]"),
        ({"observations": np.zeros((32, 6), np.int64)}, "int64"),
        ({"observations": rows(n=3)}, "3 rows only"),
        ({"observations": with_value(np.nan)}, "NaN or infinite"),
        ({"observations": with_value(np.inf)}, "NaN or infinite"),
        ({"observations": with_constant_column()}, "never change: pitch_rate"),
        ({"observations": np.array([object()] * 32)}, "plain arrays"),
    ],
)
def test_rows_that_cannot_calibrate_are_refused(tmp_path, spec, arrays, message):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ExportError, match=message):
        load_calibration(tmp_path / "mine.npz", spec, 0)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_npz_is_refused(tmp_path, spec, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ExportError, match=r"not an \.npz"):
        load_calibration(tmp_path / "mine.npz", spec, 0)


def test_a_plain_npy_is_refused(tmp_path, spec):
    np.save(tmp_path / "mine.npy", rows())
    with pytest.raises(ExportError, match=r"not an \.npz"):
        load_calibration(tmp_path / "mine.npy", spec, 0)


def test_a_missing_file_is_named(tmp_path, spec):
    with pytest.raises(ExportError, match="no such calibration file"):
        load_calibration(tmp_path / "mine.npz", spec, 0)
