"""Checkpoints: what is written, and what is refused when it is read."""

import io
import json
import pickle
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from balance_hil.errors import CheckpointError, EnvironmentMismatchError
from balance_hil.training.checkpoints import Checkpoint, load, require_same_task, save


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished training's result."""
    return shutil.copytree(finished[1].output, tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "training.json"
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_the_record_survives_the_file(finished):
    _, result, _ = finished
    assert load(result.output).record == load(result.output / "policy.zip").record
    assert load(result.output).record.to_json() == result.record.to_json()


def test_stable_baselines_reads_it_too(finished):
    from stable_baselines3 import PPO

    from balance_hil.checkpoint import read_checkpoint

    path = finished[1].output / "policy.zip"
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 6)).astype(np.float32)
    expected, _ = PPO.load(path, device="cpu").predict(observations, deterministic=True)
    np.testing.assert_allclose(read_checkpoint(path).act_batch(observations), expected, atol=1e-6)


def test_it_tells_nothing_about_the_machine_or_the_process(finished):
    with zipfile.ZipFile(finished[1].output / "policy.zip") as archive:
        assert b" at 0x" not in archive.read("data")
        assert "system_info.txt" not in archive.namelist()
        contents = b"".join(archive.read(name) for name in archive.namelist())
    assert str(finished[1].output.parent).encode() not in contents


def test_saving_keeps_other_files_and_leaves_no_rest(folder):
    (folder / "note.txt").write_text("mine")
    save(load(folder), folder)
    assert sorted(p.name for p in folder.iterdir()) == ["note.txt", "policy.zip", "training.json"]
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_a_save_that_fails_leaves_the_old_checkpoint(folder, monkeypatch):
    before = load(folder)
    record = replace(before.record, spec=object())  # cannot be written as JSON
    with pytest.raises(TypeError):
        save(Checkpoint(b"new", record), folder)
    assert load(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["copy"]


def test_a_folder_that_cannot_be_written_is_named(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(load(finished[1].output), tmp_path / "file" / "model")


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="not a checkpoint of hil train"):
        load(tmp_path / "none")


def test_a_foreign_policy_without_record_is_refused(folder):
    (folder / "training.json").unlink()
    with pytest.raises(CheckpointError, match=r"training\.json"):
        load(folder)


def test_a_policy_that_the_record_is_not_of_is_refused(folder):
    with (folder / "policy.zip").open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match=r"policy\.zip is not the policy"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "format"),
        ({"algorithm": None}, "algorithm"),
        ({"surprise": 1}, "surprise"),
        ({"spec": {"environment": "x"}}, "observation"),
    ],
)
def test_a_garbled_record_is_named(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_a_record_that_is_not_json_is_named(folder):
    (folder / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load(folder)


class _Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def with_member(checkpoint, name, data):
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint.policy)) as source, zipfile.ZipFile(packed, "w") as target:
        for member in source.namelist():
            target.writestr(member, data if member == name else source.read(member))
    return Checkpoint(packed.getvalue(), checkpoint.record)


@pytest.mark.parametrize("name", ["policy.pth", "policy.optimizer.pth"])
def test_code_in_the_weights_is_refused_and_not_run(finished, tmp_path, name):
    marker = tmp_path / "ran"
    evil = with_member(load(finished[1].output), name, pickle.dumps(_Bomb(marker), protocol=2))
    with pytest.raises(CheckpointError, match="cannot be read"):
        evil.parameters()
    assert not marker.exists()


def test_code_beside_the_weights_is_not_even_looked_at(finished, tmp_path):
    marker = tmp_path / "ran"
    evil = with_member(load(finished[1].output), "pytorch_variables.pth", pickle.dumps(_Bomb(marker), protocol=2))
    assert set(evil.parameters()) == {"policy", "policy.optimizer"}
    assert not marker.exists()


def test_another_task_is_refused(finished):
    record = finished[1].record
    require_same_task(record, "ppo", record.spec)
    with pytest.raises(CheckpointError, match="is of ppo, not of sac"):
        require_same_task(record, "sac", record.spec)
    with pytest.raises(EnvironmentMismatchError, match="trained on balance/Balance-v0, not on balance/BalanceRandomized-v0"):
        require_same_task(record, "ppo", replace(record.spec, environment="balance/BalanceRandomized-v0"))
    with pytest.raises(EnvironmentMismatchError, match="other observations"):
        require_same_task(record, "ppo", replace(record.spec, control_period_s=0.01))
