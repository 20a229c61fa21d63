"""What the training tests share: a request for a training of seconds, and one finished run of it."""

from dataclasses import replace

import pytest

from balance_hil.checkpoint import keep_tensorflow_out
from balance_hil.training import train
from balance_hil.training.request import TrainingRequest

keep_tensorflow_out()  # before anything imports stable_baselines3: saves seconds

# What every algorithm's training of about a second has in common; the policy will fall.
SHORT = """
steps: 1024
n_envs: 8
episode_steps: 100
policy_layers: [8]
value_layers: [8]
checkpoint_every_steps: 256
evaluation: {every_steps: 512, from_steps: 0, check_episodes: 2, episodes: 3, limits: {action_rate: 9, speed_error_rms_rad_s: 99,
  wheel_speed_difference_error_rms_rad_s: 99}}
"""
TINY = {
    "ppo": SHORT + "n_steps: 32\nbatch_size: 64\nn_epochs: 2\n",
    "a2c": SHORT + "n_steps: 8\n",
    **dict.fromkeys(
        ("sac", "td3", "ddpg"), SHORT + "learning_starts: 128\nbatch_size: 32\ngradient_steps: 2\nbuffer_size: 2048\n"
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY["ppo"])
    return path


@pytest.fixture
def tiny_of(tmp_path):
    """Makes a request for a training of about a second with any algorithm."""

    def make(algorithm, more=""):
        config = tmp_path / f"{algorithm}.yaml"
        config.write_text(TINY[algorithm] + more)
        return TrainingRequest(
            algorithm=algorithm,
            environment="balance/Balance-v0",
            output=tmp_path / "models" / algorithm,
            config=config,
            runs=tmp_path / "runs",
            threads=1,
            force=True,
        )

    return make


@pytest.fixture
def tiny(tmp_path, tiny_config):
    """A request whose training takes about a second; the policy will fall."""
    return TrainingRequest(
        algorithm="ppo",
        environment="balance/Balance-v0",
        output=tmp_path / "models" / "tiny",
        config=tiny_config,
        runs=tmp_path / "runs",
        force=True,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config):
    """One finished tiny training, not to be changed: the request, the result and its progress reports."""
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")
    folder = tmp_path_factory.mktemp("finished")
    request = TrainingRequest(
        algorithm="ppo",
        environment="balance/Balance-v0",
        output=folder / "models" / "tiny",
        config=tiny_config,
        runs=folder / "runs",
        seed=7,
    )
    progress = []
    return request, train(request, progress.append), progress


@pytest.fixture
def resumable(finished, tmp_path):
    """A request that continues the finished training for another 512 steps."""
    request, result, _ = finished
    return replace(
        request,
        config=None,
        seed=None,
        resume=result.output,
        steps=result.record.steps + 512,
        output=tmp_path / "continued",
        runs=tmp_path / "runs",
    )
