"""Hyper-parameters: what a file may say."""

import json
import re
from pathlib import Path

import pytest

from balance_hil.envs.balance.env import BalanceEnv
from balance_hil.errors import ConfigError, UsageError
from balance_hil.settings import settings_from_dict
from balance_hil.training.algorithms import ALGORITHMS, algorithm_for
from balance_hil.training.config import CONFIGS, PpoConfig, read_layers


def load(override=None, name="ppo", folders=(CONFIGS,)):
    return settings_from_dict(ALGORITHMS[name].config_type, read_layers(name, folders, override))


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_shipped_file_is_complete_and_survives_json(name):
    for folders in ((CONFIGS,), (CONFIGS, BalanceEnv.training_configs)):
        config = load(name=name, folders=folders)
        assert settings_from_dict(ALGORITHMS[name].config_type, json.loads(json.dumps(config.to_dict()))) == config


def test_a_file_replaces_what_it_names_and_nothing_else(write):
    config = load(write("n_epochs: 3\nlearning_rate: 1e-4\nevaluation: {episodes: 9}\npolicy_layers: [16]"))
    shipped = load()
    assert (config.n_epochs, config.learning_rate, config.policy_layers) == (3, 1e-4, (16,))
    assert (config.evaluation.episodes, config.evaluation.every_steps) == (9, shipped.evaluation.every_steps)
    assert config.gamma == shipped.gamma


def test_an_environments_own_file_lies_between_everybodys_and_the_users(write):
    own = load(write("n_envs: 3\nn_steps: 512"), folders=(CONFIGS, BalanceEnv.training_configs))
    everybodys = load()
    assert (own.n_envs, own.policy_layers, own.ent_coef) == (3, (32, 32), everybodys.ent_coef)
    assert own.evaluation.limits["action_rate"] == 0.05
    assert everybodys.evaluation.limits == {}


def test_a_shipped_file_is_found_by_its_bare_name(write):
    folders = (CONFIGS, BalanceEnv.training_configs)
    assert load(Path("ppo-robust"), folders=folders).curriculum
    with pytest.raises(ConfigError, match="no-such"):
        load(Path("no-such"), folders=folders)


def test_an_empty_file_changes_nothing(write):
    assert load(write("# nothing\n")) == load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n_epoch: 3", "unknown hyper-parameter 'n_epoch', did you mean 'n_epochs'?"),
        ("color: red", "unknown hyper-parameter 'color'"),
        ("evaluation: {episode: 3}", "unknown hyper-parameter 'evaluation.episode', did you mean 'evaluation.episodes'?"),
        ("evaluation: 3", "'evaluation' is 3"),
        ("n_envs: 2.5", "'n_envs' is 2.5, it must be a whole number"),
        ("n_envs: true", "'n_envs' is True"),
        ("n_envs: 0", "'n_envs' is 0, it must be 1 or more"),
        ("n_steps: -1", "'n_steps' is -1"),
        ("gamma: high", "'gamma' is 'high', it must be a number"),
        ("gamma: 1.5", "'gamma' is 1.5, it must be within 0..1"),
        ("learning_rate: .nan", "'learning_rate' is nan"),
        ("policy_layers: 32", "'policy_layers' is 32"),
        ("policy_layers: [32, 0]", "'policy_layers' is (32, 0)"),
        ("activation: gelu", "'activation' is 'gelu', it must be one of relu, tanh"),
        ("normalize_reward: 1", "'normalize_reward' is 1, it must be true or false"),
        ("evaluation: {check_episodes: 0}", "'check_episodes' is 0"),
        ("evaluation: {limits: {return: high}}", "'evaluation.limits.return' is 'high', it must be a number"),
        ("evaluation: {limits: 3}", "'evaluation.limits' is 3, it must be a table"),
        ("batch_size: 500", "batch_size 500 does not divide"),
        ("- a\n- b", "is not a table"),
        ("a: [", "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(write, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(write(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load(tmp_path / "nothing.yaml")


def test_a_missing_key_is_named():
    values = load().to_dict()
    del values["n_steps"]
    with pytest.raises(ConfigError, match="'n_steps' is missing"):
        settings_from_dict(PpoConfig, values)


@pytest.mark.parametrize(("name", "guess"), [("pppo", ", did you mean 'ppo'?"), ("PPO", ", did you mean 'ppo'?"), ("dqnx", "")])
def test_an_unknown_algorithm_is_named(name, guess):
    with pytest.raises(UsageError, match=re.escape(f"unknown algorithm {name!r}{guess}")):
        algorithm_for(name)
