"""vecnormalize.pkl and the folders of rl-baselines3-zoo."""

import pickle

import gymnasium as gym
import numpy as np
import pytest

from balance_hil.checkpoint import import_sb3
from balance_hil.checkpoint.vecnormalize import read_surroundings, read_vecnormalize
from balance_hil.errors import CheckpointError, MissingExtraError

try:
    import_sb3()
except MissingExtraError as exc:
    pytest.skip(f"{exc.message}: {exc.hint}", allow_module_level=True)

from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


def wrapped(**options):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), **options)
    env.seed(0)
    env.reset()
    for _ in range(50):
        env.step(np.array([env.action_space.sample()]))
    return env


@pytest.fixture(scope="module")
def saved():
    return pickle.dumps(wrapped(clip_obs=2.5, epsilon=1e-3))


@pytest.fixture
def folder(tmp_path, saved):
    (tmp_path / "policy.zip").write_bytes(b"")
    (tmp_path / "vecnormalize.pkl").write_bytes(saved)
    return tmp_path


def test_it_normalizes_as_stable_baselines_does(folder):
    env = pickle.loads((folder / "vecnormalize.pkl").read_bytes())
    normalization = read_vecnormalize(folder / "vecnormalize.pkl", 3)
    observations = np.random.default_rng(0).uniform(-8, 8, (500, 3)).astype(np.float32)
    assert np.max(np.abs(normalization.apply(observations) - env.normalize_obs(observations))) < 1e-6
    assert np.max(np.abs(normalization.apply(observations))) == 2.5


def test_one_that_normalizes_rewards_alone_changes_nothing(tmp_path):
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(wrapped(norm_obs=False)))
    assert read_vecnormalize(tmp_path / "vecnormalize.pkl", 3) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (pickle.dumps([1, 2]), "holds no VecNormalize: list"),
        (pickle.dumps(np.float32(1)), "holds no VecNormalize: numpy"),
    ],
)
def test_another_pickle_is_refused(tmp_path, content, message):
    (tmp_path / "vecnormalize.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_vecnormalize(tmp_path / "vecnormalize.pkl", 3)


def test_another_number_of_observations_is_refused(folder):
    with pytest.raises(CheckpointError, match="it is of 3 observations, the policy takes 6"):
        read_vecnormalize(folder / "vecnormalize.pkl", 6)


def test_it_is_found_beside_the_checkpoint_and_where_callbacks_put_it(folder, saved):
    assert read_surroundings(folder / "policy.zip", 3).normalization is not None
    (folder / "vecnormalize.pkl").rename(folder / "rl_model_vecnormalize_500_steps.pkl")
    assert read_surroundings(folder / "policy.zip", 3).normalization is None
    assert read_surroundings(folder / "rl_model_500_steps.zip", 3).normalization is not None


ORDERED = "!!python/object/apply:collections.OrderedDict\n- - - n_envs\n    - 4\n  - - {key}\n    - {value}\n"


def zoo(folder, key, value):
    """Moves the normalization to where the zoo keeps it, and writes its two files."""
    inner = folder / "Pendulum-v1"
    inner.mkdir()
    (folder / "policy.zip").rename(folder / "Pendulum-v1.zip")
    (folder / "vecnormalize.pkl").rename(inner / "vecnormalize.pkl")
    (inner / "config.yml").write_text(ORDERED.format(key=key, value=value))
    (inner / "args.yml").write_text(ORDERED.format(key="env", value="Pendulum-v1"))
    return folder / "Pendulum-v1.zip"


@pytest.mark.parametrize("value", ["true", "dict(norm_obs=True, norm_reward=False)", "{norm_obs: true}"])
def test_a_zoo_folder_says_what_it_normalizes(folder, value):
    found = read_surroundings(zoo(folder, "normalize", value), 3)
    assert found.normalization is not None
    assert found.environment == "Pendulum-v1"


@pytest.mark.parametrize("value", ["false", "dict(norm_obs=False, norm_reward=True)", "{norm_obs: false}"])
def test_a_zoo_folder_says_when_it_does_not(folder, value):
    assert read_surroundings(zoo(folder, "normalize", value), 3).normalization is None


def test_a_normalization_that_is_not_there_is_an_error(folder):
    checkpoint = zoo(folder, "normalize", "true")
    (folder / "Pendulum-v1" / "vecnormalize.pkl").unlink()
    with pytest.raises(CheckpointError, match=r"there is no vecnormalize\.pkl"):
        read_surroundings(checkpoint, 3)


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("env_wrapper", "[sb3_contrib.common.wrappers.TimeFeatureWrapper]", "TimeFeatureWrapper"),
        ("env_wrapper", "[{mine.Skip: {n: 2}}]", "mine.Skip"),
        ("frame_stack", "4", "frame_stack 4"),
    ],
)
def test_wrappers_that_change_the_observations_are_named(folder, key, value, name):
    with pytest.raises(CheckpointError, match=name):
        read_surroundings(zoo(folder, key, value), 3)


def test_a_configuration_runs_no_code(folder, tmp_path):
    checkpoint = zoo(folder, "normalize", "true")
    (folder / "Pendulum-v1" / "config.yml").write_text(f"!!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']")
    with pytest.raises(CheckpointError, match=r"config\.yml is not YAML"):
        read_surroundings(checkpoint, 3)
    assert not (tmp_path / "ran").exists()
