"""What holds for each algorithm: a training of about a second, its files, its resumption, its refusals."""

import io
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.envs.balance.batch import BalanceBatch
from balance_hil.errors import CheckpointError, ConfigError, TrainingError
from balance_hil.training import train
from balance_hil.training.checkpoints import Checkpoint, load
from balance_hil.training.plan import plan

pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed: pip install 'balance-hil[train]'")

NEW = ("a2c", "sac", "td3", "ddpg")  # what holds for ppo is in test_train
OFF_POLICY = ("sac", "td3", "ddpg")


@pytest.fixture(params=NEW)
def request_of(request, tiny_of):
    return tiny_of(request.param)


def test_the_checkpoint_is_read_by_ours_and_by_stable_baselines(request_of):
    import stable_baselines3

    from balance_hil.checkpoint import read_checkpoint

    result = train(request_of)
    assert load(result.output).record.algorithm == request_of.algorithm
    assert sorted(p.name for p in result.output.iterdir()) == ["policy.zip", "training.json"]  # no replay buffer
    path = result.output / "policy.zip"
    actor = read_checkpoint(path)
    assert actor.algorithm == request_of.algorithm
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    model = getattr(stable_baselines3, request_of.algorithm.upper()).load(path, device="cpu")
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_allclose(actor.act_batch(observations), expected, atol=1e-6)


def test_the_same_seed_gives_the_same_policy(request_of):
    short = replace(request_of, steps=256)
    first, again, other = train(short), train(short), train(replace(short, seed=8))
    assert first.record.policy_sha256 == again.record.policy_sha256 != other.record.policy_sha256


def test_resuming_goes_on_from_weights_optimizers_and_buffer(request_of, tmp_path):
    from balance_hil.training.session import TrainingSession

    result = train(replace(request_of, steps=512))
    stored = load(result.checkpoint)
    again = replace(request_of, config=None, resume=result.checkpoint, steps=768, runs=tmp_path / "more")
    session = TrainingSession(plan(again), tmp_path / "session", lambda progress: None)
    live = session._model.get_parameters()
    for name, value in stored.parameters()["policy"].items():
        np.testing.assert_array_equal(live["policy"][name].numpy(), value.numpy())
    optimizers = [name for name in live if name.endswith("optimizer")]
    assert optimizers
    assert all(live[name]["state"][0]["step"] > 0 for name in optimizers)
    if request_of.algorithm in OFF_POLICY:
        buffer = session._model.replay_buffer
        assert buffer.pos == 512 // 8
        assert np.logical_or(buffer.timeouts[buffer.pos - 1], buffer.dones[buffer.pos - 1]).all()  # new episodes follow
        with np.load(io.BytesIO(stored.replay)) as arrays:
            np.testing.assert_array_equal(buffer.observations[:64], arrays["observations"])
    assert load(train(again).checkpoint).record.steps == 768


def test_sac_resumes_with_its_entropy_coefficient(tiny_of, tmp_path):
    from balance_hil.training.session import TrainingSession

    request = tiny_of("sac")
    result = train(replace(request, steps=512))
    again = replace(request, config=None, resume=result.checkpoint, steps=768)
    session = TrainingSession(plan(again), tmp_path / "session", lambda progress: None)
    assert session._model.log_ent_coef.item() == load(result.checkpoint).variables()["log_ent_coef"].item()
    assert session._model.log_ent_coef.item() != pytest.approx(np.log(float(plan(request).config.ent_coef.split("_")[1])))


def test_a_result_without_its_buffer_is_resumed_with_an_empty_one(tiny_of, tmp_path):
    from balance_hil.training.session import TrainingSession

    request = tiny_of("td3")
    result = train(request)
    again = replace(request, config=None, resume=result.output, steps=result.record.steps + 512)
    session = TrainingSession(plan(again), tmp_path / "session", lambda progress: None)
    assert session._model.replay_buffer.pos == 0
    assert session._model.learning_starts == result.record.steps + 128  # filled anew before the first update


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not the file"),
    ],
)
def test_a_missing_or_altered_buffer_is_refused(tiny_of, spoil, message):
    result = train(replace(tiny_of("td3"), steps=256))
    spoil(result.checkpoint / "replay.npz")
    with pytest.raises(CheckpointError, match=message):
        load(result.checkpoint)


def test_a_buffer_of_another_shape_or_with_pickles_is_refused(tiny_of, tmp_path):
    from balance_hil.training.session import TrainingSession

    request = tiny_of("td3")
    result = train(replace(request, steps=256))
    checked = plan(replace(request, config=None, resume=result.checkpoint, steps=512))
    wrong, pickled = io.BytesIO(), io.BytesIO()
    with np.load(io.BytesIO(checked.checkpoint.replay)) as stored:
        arrays = dict(stored)
    np.savez(wrong, **(arrays | {"actions": np.zeros((32, 8, 3), np.float32)}))
    np.savez(pickled, **(arrays | {"actions": np.array([object()], dtype=object)}))
    for data in (wrong.getvalue(), pickled.getvalue(), b"no archive"):
        spoilt = replace(checked, checkpoint=Checkpoint(checked.checkpoint.policy, checked.checkpoint.record, data))
        with pytest.raises(CheckpointError, match="replay buffer cannot be read"):
            TrainingSession(spoilt, tmp_path / "session", lambda progress: None)


@pytest.mark.parametrize("algorithm", ["sac", "ddpg"])
@pytest.mark.parametrize("what", ["observation", "weights"])
def test_a_divergence_ends_training_with_the_checkpoint_intact(tiny_of, monkeypatch, algorithm, what):
    import torch
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

    request = replace(tiny_of(algorithm, "\n"), steps=4096)
    step, collect, calls = BalanceBatch.step, OffPolicyAlgorithm.collect_rollouts, iter(range(10**9))

    def poisoned_step(batch, actions, indices=None):
        outcomes = step(batch, actions, indices)
        return [(np.full(6, np.nan, np.float32), *o[1:]) for o in outcomes] if next(calls) > 45 else outcomes

    def poisoned_weights(model, *args, **kwargs):
        if next(calls) == 45:
            with torch.no_grad():
                next(model.actor.parameters())[0] = float("nan")
        return collect(model, *args, **kwargs)

    request = replace(request, config=_without_checks(request.config))
    if what == "observation":
        monkeypatch.setattr(BalanceBatch, "step", poisoned_step)
    else:
        monkeypatch.setattr(OffPolicyAlgorithm, "collect_rollouts", poisoned_weights)
    with pytest.raises(TrainingError, match=r"^training diverged after \d+ steps") as caught:
        train(request)
    run = request.runs / f"{algorithm}_1"
    assert str(run / "checkpoint") in caught.value.hint
    assert (run / "diverged.npz").is_file()
    stored = load(run / "checkpoint")
    assert stored.record.steps == 256
    assert all(np.isfinite(value.numpy()).all() for value in stored.parameters()["policy"].values())
    assert not request.output.exists()


def _without_checks(config):
    config.write_text(config.read_text().replace("from_steps: 0", "from_steps: 90000"))
    return config


@pytest.mark.parametrize("algorithm", NEW)
def test_another_algorithms_checkpoint_is_refused(finished, tiny_of, algorithm):
    with pytest.raises(CheckpointError, match=f"is of ppo, not of {algorithm}"):
        plan(replace(tiny_of(algorithm), config=None, resume=finished[1].output))


@pytest.mark.parametrize(
    ("algorithm", "text", "message"),
    [
        ("td3", "policy_delay: 1", "'policy_delay' is 1, it must be 2 or more"),
        (
            "td3",
            "smoothness: {spatial: 1}",
            "unknown hyper-parameter 'smoothness.spatial', did you mean 'smoothness.spatial_weight'?",
        ),
        ("ddpg", "policy_delay: 2", "unknown hyper-parameter 'policy_delay'"),
        ("sac", "tau: 2", "'tau' is 2.0"),
        ("sac", "buffer_size: 10", "buffer_size 10 holds less"),
        ("sac", "ent_coef: a_lot", "'ent_coef' is 'a_lot'"),
        ("a2c", "n_epochs: 3", "unknown hyper-parameter 'n_epochs'"),
    ],
)
def test_what_is_wrong_is_named(tiny_of, algorithm, text, message):
    with pytest.raises(ConfigError) as caught:
        plan(tiny_of(algorithm, text + "\n"))
    assert message in str(caught.value)
