import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mcap.reader import make_reader

from balance_hil.cli import hil, main
from balance_hil.errors import RecordingError
from balance_hil.recording import RecordingWriter, Step, read_recording
from balance_hil.spec import PolicySpec, Signal

SPEC = PolicySpec(
    environment="balance/Balance-v0",
    observation=(Signal(index=0, name="pitch", unit="rad", min=-1, max=1),),
    action=(Signal(index=0, name="wheel", unit="rad/s", min=-1, max=1),),
    control_period_s=0.005,
)
META = {
    "bundle": "0123456789ab", "clock": "lockstep", "environment": "balance/Balance-v0", "seeds": [1, 2],
    "board": {"definition": "native", "board": "fake"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A whole recording, one that was killed, one that was cut off, and a file that is none."""
    with RecordingWriter(tmp_path / "a.mcap", META, SPEC) as writer:
        for i in range(300):
            writer.step(i * 0.005, Step(i * 0.005, 0, i, [i / 300], [0.5], False, (), 1.0, [i % 100], [3]))
        writer.episode(1.5, {"episode": 0, "seed": 1, "steps": 300, "failed": False})
    data = (tmp_path / "a.mcap").read_bytes()
    (tmp_path / "b.mcap.partial").write_bytes(data[: len(data) // 2])
    (tmp_path / "c.mcap").write_bytes(data[:-1])
    (tmp_path / "d.mcap").write_text("nothing of the kind")
    (tmp_path / "e.html").write_text("a report")
    return tmp_path


def recordings(*arguments):
    return CliRunner().invoke(hil, ["recordings", *map(str, arguments)])


def test_what_is_there_is_listed(folder):
    document = json.loads(recordings(folder, "--json").stdout)
    a, b, c, d = document["recordings"]
    same = {"bundle": "0123456789ab", "board": "native", "environment": "balance/Balance-v0", "clock": "lockstep", "error": ""}
    assert a == same | {"file": str(folder / "a.mcap"), "steps": 300, "ended": "complete", "whole": True}
    assert b == same | {"file": str(folder / "b.mcap.partial"), "steps": b["steps"], "ended": "cut off", "whole": False}
    assert b["steps"] == len(read_recording(folder / "b.mcap.partial"))
    assert 0 < b["steps"] < 300
    assert c == same | {"file": str(folder / "c.mcap"), "steps": 300, "ended": "complete", "whole": False}
    assert "MCAP" in d["error"]
    name = "2026-11-28T195157-ppo-native-realtime-2.mcap"
    (folder / "a.mcap").rename(folder / name)
    table = " ".join(recordings(folder).stdout.split())
    assert all(words in table for words in (name, "complete", "cut off"))


@pytest.mark.parametrize(
    ("name", "target", "ended"),
    [("b.mcap.partial", "b.mcap", "cut off"), ("c.mcap", "c-repaired.mcap", "complete")],
)
def test_a_repaired_recording_is_whole_and_equal(folder, name, target, ended):
    before, content = read_recording(folder / name), (folder / name).read_bytes()
    assert recordings("repair", folder / name).stdout.strip() == str(folder / target)
    after = read_recording(folder / target)
    assert after.missing == ""
    assert after.meta == before.meta
    assert after.meta["ended"] == ended
    assert np.array_equal(after.observation, before.observation)
    assert np.array_equal(after.output_int8, before.output_int8)
    assert after.episodes == before.episodes
    assert (folder / name).read_bytes() == content


def test_repairing_never_writes_over_a_file(folder):
    (folder / "b.mcap").write_text("mine")
    assert recordings("repair", folder / "b.mcap.partial").stdout.strip() == str(folder / "b-repaired.mcap")
    assert isinstance(recordings("repair", folder / "b.mcap.partial").exception, RecordingError)
    assert (folder / "b.mcap").read_text() == "mine"


@pytest.mark.parametrize("name", ["a.mcap", "d.mcap", "none.mcap"])
def test_what_cannot_be_repaired(folder, name):
    names = sorted(folder.iterdir())
    assert isinstance(recordings("repair", folder / name).exception, RecordingError)
    assert sorted(folder.iterdir()) == names


def test_escape_sequences_of_a_recording_do_not_reach_the_terminal(tmp_path):
    with RecordingWriter(tmp_path / "a.mcap", META | {"clock": "\x1b[2J\nrealtime"}, SPEC):
        pass
    listed = recordings(tmp_path).stdout
    assert "realtime" in listed
    assert "\x1b[2J" not in listed
    assert len(listed.splitlines()) == 2


def test_mistakes(tmp_path):
    assert recordings("repair").exit_code == 2
    assert recordings("a", "b").exit_code == 2
    assert isinstance(recordings(tmp_path / "none").exception, RecordingError)
    assert "no recordings" in recordings(tmp_path).stderr


def test_a_report_says_what_is_missing(folder):
    done = CliRunner().invoke(hil, ["report", str(folder / "b.mcap.partial"), "-o", str(folder / "b.html"), "--no-frames"])
    assert "FAIL: it is cut off after" in done.stderr
    assert "cut off after" in (folder / "b.html").read_text().split("<section>")[0]


def csv_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_recording_as_csv(tmp_path):
    with RecordingWriter(tmp_path / "a.mcap", META, SPEC, ("tilt_rad",)) as writer:
        writer.step(0.0, Step(0.0, 0, 0, [0.1], [0.5], False, (float("nan"),), 1.0, [-128], [3], 412.5, 17.0, 3.0, 2))
        writer.step(0.005, Step(0.005, 0, 1, [0.2], [0.5], True, (0.25,), 1.0))
        writer.fault(0.005, 0, 1, "late", "by 1 ms")
        writer.fault(0.005, 0, 1, "damaged")
    done = recordings("export", tmp_path / "a.mcap", "--to", "csv")
    assert done.stdout.strip() == str(tmp_path / "a.csv")
    assert done.stderr == ""
    first, second = csv_rows(tmp_path / "a.csv")
    assert first == {
        "t_s": "0", "episode": "0", "step": "0", "held": "0", "reward": "1", "observation.pitch": "0.100000001",
        "action.wheel": "0.5", "input_int8.pitch": "-128", "output_int8.wheel": "3", "plant.tilt_rad": "",
        "round_trip_us": "412.5", "inference_us": "17", "jitter_us": "3", "substep": "2", "faults": "",
    }  # fmt: skip
    assert (second["step"], second["held"], second["plant.tilt_rad"], second["faults"]) == ("1", "1", "0.25", "late damaged")
    assert {second[name] for name in ("input_int8.pitch", "output_int8.wheel", "round_trip_us", "substep")} == {""}


def test_of_an_incomplete_recording_what_is_readable_is_exported(folder):
    done = recordings("export", folder / "b.mcap.partial", "--to", "csv", "-o", folder / "b.csv")
    assert done.exit_code == 0
    assert "cut off after" in done.stderr
    assert len(csv_rows(folder / "b.csv")) == len(read_recording(folder / "b.mcap.partial"))


def test_parquet_has_the_same_rows(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    for to in ("csv", "parquet"):
        assert recordings("export", folder / "a.mcap", "--to", to).exit_code == 0
    table, rows = parquet.read_table(folder / "a.parquet"), csv_rows(folder / "a.csv")
    assert table.column_names == list(rows[0])
    assert str(table.schema.field("observation.pitch").type) == "float"
    assert table["input_int8.pitch"].to_pylist() == [int(row["input_int8.pitch"]) for row in rows]
    assert table["round_trip_us"].null_count == 300


def test_protobuf_has_the_same_rows_and_describes_itself(folder):
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf.message_factory import GetMessages

    for to in ("csv", "protobuf"):
        assert recordings("export", folder / "a.mcap", "--to", to).exit_code == 0
    rows = csv_rows(folder / "a.csv")
    with (folder / "a.protobuf.mcap").open("rb") as file:
        found = list(make_reader(file).iter_messages())
    described = descriptor_pb2.FileDescriptorSet.FromString(found[0][0].data)
    step = GetMessages(described.file)["balance_hil.Step"]
    messages = [step.FromString(message.data) for _, _, message in found]
    assert [field.name for field in step.DESCRIPTOR.fields] == [re.sub(r"\W", "_", name) for name in rows[0]]
    assert [message.input_int8_pitch for message in messages] == [int(row["input_int8.pitch"]) for row in rows]
    assert [f"{message.observation_pitch:.9g}" for message in messages] == [row["observation.pitch"] for row in rows]
    assert [message.HasField("round_trip_us") for message in messages] == [row["round_trip_us"] != "" for row in rows]
    times = [message.log_time for _, _, message in found]
    assert times == sorted(times)
    assert len(set(times)) == len(rows), "episodes follow each other"
    listed = json.loads(recordings(folder, "--json").stdout)["recordings"]
    assert "a.protobuf.mcap" not in {Path(entry["file"]).name for entry in listed}, "it is no recording of this program"


@pytest.mark.skipif(
    not shutil.which("rerun"), reason="rerun-sdk needs another numpy: install it elsewhere, with rerun on the PATH"
)
def test_rerun_reads_the_fields_of_protobuf_messages(folder):
    assert recordings("export", folder / "a.mcap", "--to", "protobuf").exit_code == 0
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = {}
    for name in ("a", "a.protobuf"):
        convert = ["rerun", "mcap", "convert", f"{name}.mcap", "-o", f"{name}.rrd"]
        subprocess.run(convert, cwd=folder, env=environment, check=True, capture_output=True)
        show = ["rerun", "rrd", "print", "-vv", f"{name}.rrd"]
        printed[name] = subprocess.run(show, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout
    assert "balance_hil.Step:message" in printed["a.protobuf"]
    for field in ('"observation_pitch": Float64', '"input_int8_pitch": Int64', '"held": Boolean'):
        assert field in printed["a.protobuf"]
    assert '"observation_pitch"' not in printed["a"], "Rerun reads JSON now: is the export still needed?"


def test_exports_that_cannot_be_made(folder):
    assert recordings("export", folder / "a.mcap").exit_code == 2
    assert recordings("export", folder / "a.mcap", "--to", "xlsx").exit_code == 2
    (folder / "file").touch()
    for arguments in (("d.mcap", "a.csv"), ("a.mcap", "file/a.csv")):
        done = recordings("export", folder / arguments[0], "--to", "csv", "-o", folder / arguments[1])
        assert isinstance(done.exception, RecordingError)
    assert not list(folder.glob("*.csv"))


def test_parquet_without_its_package_names_the_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(sys, "argv", ["hil", "recordings", "export", str(folder / "a.mcap"), "--to", "parquet"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    assert "'pyarrow', which is not installed" in capsys.readouterr().err
    assert sorted(path.name for path in folder.glob("*parquet*")) == []


def test_the_layout_plots_the_signals_of_the_recording(folder):
    printed = recordings("layout", folder / "a.mcap").stdout
    assert recordings("layout", folder / "a.mcap", "-o", folder / "layout.json").stdout.strip() == str(folder / "layout.json")
    layout = (folder / "layout.json").read_text()
    assert json.loads(printed) == json.loads(layout)
    assert '"/step.observation.pitch"' in layout
    assert '"/log"' in layout
    recordings("repair", folder / "b.mcap.partial")
    assert recordings("layout", folder / "b.mcap").stdout == printed
    assert isinstance(recordings("layout", folder / "d.mcap").exception, RecordingError)
    assert recordings("layout", folder / "a.mcap", "-o", folder / "none" / "a.json").exit_code == 1  # HarnessError, status 3
