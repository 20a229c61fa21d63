import hashlib

import numpy as np
import pytest

from balance_hil.checkpoint import read_checkpoint
from balance_hil.envs.balance import config_for
from balance_hil.errors import ExportError
from balance_hil.exporting import calibration
from balance_hil.exporting.calibration import load_calibration, record_calibration, record_disturbed

SPEC = config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")


@pytest.fixture(scope="module")
def policy(ppo_bundle):
    return read_checkpoint(ppo_bundle.file("policy.zip")).act_batch


@pytest.fixture
def few_rows(monkeypatch):
    monkeypatch.setattr(calibration, "RECORDED_ROWS", 190)
    monkeypatch.setattr(calibration, "HELD_OUT_ROWS", 38)


def rows(n=32, n_obs=6, dtype=np.float32):
    return np.random.default_rng(0).uniform(-1, 1, (n, n_obs)).astype(dtype)


def test_the_seed_decides_every_row(policy, few_rows):
    first, again, other = (record_calibration(policy, SPEC, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.observations, again.observations)
    assert np.array_equal(first.held_out, again.held_out)
    assert first.origin == again.origin
    assert not np.array_equal(first.observations, other.observations)


def test_five_percent_of_the_rows_are_uniform_over_the_box(policy, few_rows):
    recorded = record_calibration(policy, SPEC, 0)
    assert (len(recorded.observations), len(recorded.held_out)) == (200, 40)
    assert recorded.origin["uniform_rows"] == 10
    uniform = recorded.observations[190:]
    assert np.all(uniform.max(axis=0) > 0.3)
    assert np.all(uniform.min(axis=0) < -0.3)


def test_held_out_rows_are_other_rows(policy, few_rows):
    recorded = record_calibration(policy, SPEC, 0)
    seen = {row.tobytes() for row in recorded.observations}
    assert not any(row.tobytes() in seen for row in recorded.held_out)


def test_the_origin_describes_the_rows(policy, few_rows):
    recorded = record_calibration(policy, SPEC, 0)
    assert recorded.origin["rows"] == 200
    assert recorded.origin["sha256"] == hashlib.sha256(recorded.observations.tobytes()).hexdigest()
    assert recorded.origin["min"] == pytest.approx(recorded.observations.min(axis=0))
    assert recorded.origin["max"] == pytest.approx(recorded.observations.max(axis=0))


def test_disturbances_widen_what_a_balancing_policy_sees(policy, monkeypatch):
    disturbed = record_disturbed(policy, "balance/Balance-v0", [0], 500)
    assert np.all(np.abs(disturbed) <= 1.0)
    for name in ("_TILT_RAD", "_SPEED_TARGET_RAD_S", "_WHEEL_SPEED_DIFFERENCE_TARGET_RAD_S", "_PUSH_M_S", "_PUSH_RAD_S"):
        monkeypatch.setattr(calibration, name, 1e-9)
    calm = record_disturbed(policy, "balance/Balance-v0", [0], 500)
    assert np.all(disturbed.std(axis=0) > 1.2 * calm.std(axis=0))


def test_pushes_reach_the_pitch_rate(policy, monkeypatch):
    for name in ("_TILT_RAD", "_SPEED_TARGET_RAD_S", "_WHEEL_SPEED_DIFFERENCE_TARGET_RAD_S"):
        monkeypatch.setattr(calibration, name, 1e-9)
    monkeypatch.setattr(calibration, "_STEPS_PER_ROW", 1)
    pushed = record_disturbed(policy, "balance/Balance-v0", [0], 900)
    monkeypatch.setattr(calibration, "_PUSH_INTERVAL_STEPS", 10**6)
    calm = record_disturbed(policy, "balance/Balance-v0", [0], 900)
    assert np.array_equal(pushed[:200], calm[:200])  # the first push comes after a second
    assert np.abs(pushed[200:, 1]).max() > 2 * np.abs(calm[200:, 1]).max()


def test_a_policy_that_falls_is_recorded_all_the_same():
    still = record_disturbed(lambda observations: np.zeros((len(observations), 2), np.float32), "balance/Balance-v0", [0], 100)
    assert still.shape == (100, 6)
    assert np.ptp(still[:, 0]) > 1.0  # from one side to the other


def test_rows_of_the_users_own_are_taken_as_they_are(tmp_path, policy, few_rows):
    np.savez(tmp_path / "mine.npz", observations=rows(dtype=np.float64))
    loaded = load_calibration(tmp_path / "mine.npz", policy, SPEC, 0)
    assert np.array_equal(loaded.observations, rows())
    assert loaded.observations.dtype == np.float32
    assert loaded.origin["source"] == "mine.npz"
    assert len(loaded.held_out) == 40


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
def test_rows_that_cannot_calibrate_are_refused(tmp_path, policy, arrays, message):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ExportError, match=message):
        load_calibration(tmp_path / "mine.npz", policy, SPEC, 0)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_no_npz_is_refused(tmp_path, policy, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(ExportError, match=r"no \.npz"):
        load_calibration(tmp_path / "mine.npz", policy, SPEC, 0)


def test_a_plain_npy_is_refused(tmp_path, policy):
    np.save(tmp_path / "mine.npy", rows())
    with pytest.raises(ExportError, match=r"no \.npz"):
        load_calibration(tmp_path / "mine.npy", policy, SPEC, 0)


def test_a_missing_file_is_named(tmp_path, policy):
    with pytest.raises(ExportError, match="no such calibration file"):
        load_calibration(tmp_path / "mine.npz", policy, SPEC, 0)
