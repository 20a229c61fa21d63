import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from balance_hil import bundle as bundles
from balance_hil.bundle import (
    INT8_MODEL,
    MANIFEST,
    MODEL_CARD,
    MODEL_FILES,
    REQUIRED_FILES,
    Bundle,
    find_bundle,
    model_id,
    write_bundle,
)
from balance_hil.envs.balance import config_for
from balance_hil.errors import BundleError
from balance_hil.quantize import INT16X8, QuantParams

FILES = (INT8_MODEL, *REQUIRED_FILES)


def stage(target, content=b"model"):
    """A staging folder with every required file, and the bundle that goes with it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
    for name in FILES:
        (staging / name).write_bytes(content)
    (staging / MODEL_CARD).write_text("card\n")
    made = Bundle(
        path=target,
        id=model_id(content),
        algorithm="ppo",
        spec=config_for("balance/Balance-v0").policy_spec("balance/Balance-v0"),
        input_quant=QuantParams(0.007836868055164814, 3),
        output_quant=QuantParams(0.0078125, -1),
        calibration={"rows": 10},
        training={"seed": 0},
        versions={"numpy": "1"},
        metrics={"operators": {"TANH": 1}},
    )
    return staging, made


@pytest.fixture
def written(tmp_path):
    return write_bundle(*stage(tmp_path / "models" / "mine"))


def edit_manifest(folder, change):
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_bundle_survives_writing_and_loading(tmp_path, written):
    assert Bundle.load(written.path) == written == stage(tmp_path / "models" / "mine")[1]
    assert written.model() == b"model"
    assert written.id == "9372c470eead"  # sha256sum of "model"


def test_files_that_an_export_does_not_write_are_kept(tmp_path, written):
    (written.path / "notes.txt").write_text("mine")
    again = write_bundle(*stage(written.path, b"other"))
    assert (again.path / "notes.txt").read_text() == "mine"
    assert again.id == model_id(b"other")


def test_a_bundle_of_another_element_type_takes_the_place_of_the_model(written):
    staging, made = stage(written.path, b"wide")
    (staging / INT8_MODEL).rename(staging / MODEL_FILES["int16x8"])
    quant = QuantParams(0.5, 0, INT16X8)
    loaded = write_bundle(staging, replace(made, input_quant=quant, output_quant=quant))
    assert (loaded.kind, loaded.model_file.name, loaded.model()) == (INT16X8, "policy_int16x8.tflite", b"wide")
    assert loaded.id == model_id(b"wide")
    assert not (written.path / INT8_MODEL).exists()


def test_a_crash_between_two_renames_never_leaves_a_bundle_that_lies(written, monkeypatch):
    real = Path.replace
    for crash_at in range(len(FILES) + 2):
        write_bundle(*stage(written.path))
        count = 0

        def crash(source, target, *, at=crash_at):
            nonlocal count
            if count == at:
                raise KeyboardInterrupt
            count += 1
            real(source, target)

        staging, other = stage(written.path, b"other")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                write_bundle(staging, other)
        shutil.rmtree(staging)
        try:
            loaded = Bundle.load(written.path)
        except BundleError:
            continue
        assert {loaded.file(name).read_bytes() for name in FILES} == {loaded.model()}
        assert loaded.id == model_id(loaded.model())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        Bundle.load(tmp_path / "none")


def test_a_folder_without_a_manifest_was_not_exported(tmp_path):
    with pytest.raises(BundleError, match="nothing was exported") as caught:
        Bundle.load(tmp_path)
    assert caught.value.hint == f"export it: hil export {tmp_path}"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(written, name):
    (written.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(written.path)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(written, name):
    with (written.path / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match=f"{name} was altered") as caught:
        Bundle.load(written.path)
    assert "hil export" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("id"),
        lambda m: m.pop("spec"),
        lambda m: m["spec"].pop("observation"),
        lambda m: m["quantization"]["input"].update(color=1),
        lambda m: m.update(quantization={}),
        lambda m: m.update(format=99),
        lambda m: m.update(files=[]),
        lambda m: m["files"].pop("golden.npz"),
        lambda m: m.update(id="000000000000"),
    ],
)
def test_a_garbled_manifest_is_refused(written, change):
    edit_manifest(written.path, change)
    with pytest.raises(BundleError, match="incomplete or altered"):
        Bundle.load(written.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"'])
def test_a_manifest_that_is_no_table_is_refused(written, text):
    (written.path / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(written.path)


def test_the_model_card_may_be_edited(written):
    (written.path / MODEL_CARD).write_text("better prose\n")
    Bundle.load(written.path)


def test_the_shipped_bundle_is_whole(ppo_bundle):
    assert ppo_bundle.spec == config_for("balance/Balance-v0").policy_spec("balance/Balance-v0")
    assert ppo_bundle.id == model_id(ppo_bundle.model())
    assert all(ppo_bundle.file(name).is_file() for name in (*FILES, "policy.zip", "training.json", MODEL_CARD))


def test_a_bundle_is_found_by_its_id(tmp_path, written):
    models = tmp_path / "models"
    other = write_bundle(*stage(models / "other", b"other"))
    (models / "nothing").mkdir()
    (models / "damaged").mkdir()
    (models / "damaged" / MANIFEST).write_text("{")
    shutil.copytree(written.path, models / ".mine-unfinished")
    assert find_bundle(other.id, models).path == other.path
    assert find_bundle(written.id, models).path == written.path
    with pytest.raises(BundleError, match=f"mine .{written.id}., other .{other.id}.") as caught:
        find_bundle("0" * 12, models)
    assert ".mine-unfinished" not in caught.value.message
    assert "--bundle" in caught.value.hint


def test_a_bundle_that_is_found_but_altered_is_refused(tmp_path, written):
    written.file(FILES[0]).write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered after the export"):
        find_bundle(written.id, tmp_path / "models")


@pytest.fixture
def named(tmp_path, monkeypatch):
    """A shipped policy ``ppo``, policies ``ppo`` and ``own`` of the user's, and a folder ``plain`` that is not a bundle."""
    for folder in ("shipped/ppo", "shipped/sac", "policies/ppo", "policies/own", "plain"):
        (tmp_path / folder).mkdir(parents=True)
        if folder != "plain":
            (tmp_path / folder / MANIFEST).write_text("{}")
    (tmp_path / "model.tflite").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundles, "MODELS", tmp_path / "shipped")
    return tmp_path


def test_a_policy_is_found_by_its_name(named):
    assert bundles.locate("ppo") == Path("policies/ppo")
    assert bundles.locate("own") == Path("policies/own")
    assert bundles.locate("sac") == named / "shipped/sac"
    assert bundles.bundle_names() == ["own", "ppo", "sac"]


@pytest.mark.parametrize("path", ["shipped/ppo", "model.tflite", "plain", "not/there", "missing", "."])
def test_a_path_is_itself(named, path):
    assert bundles.locate(path) == Path(path)


def test_a_misspelled_policy(named):
    for name in ("pppo", "models/ppo"):
        with pytest.raises(BundleError, match=f"no such bundle: {name}") as caught:
            Bundle.load(name)
        assert caught.value.message.endswith("did you mean 'ppo'?")
    with pytest.raises(BundleError, match="no such bundle") as caught:
        Bundle.load("zzz")
    assert "policies are own, ppo, sac" in caught.value.hint
