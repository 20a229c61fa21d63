import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer

from balance_hil.errors import CableUnpluggedError, RecordingError
from balance_hil.files import write_atomically
from balance_hil.recording import RecordingWriter, Step, read_recording
from balance_hil.recording.format import STEP, schemas, step_encoder
from balance_hil.spec import PolicySpec, Signal

SPEC = PolicySpec(
    environment="balance/Balance-v0",
    observation=tuple(Signal(index=i, name=name, unit="rad", min=-1, max=1) for i, name in enumerate(("pitch", "rate", "speed"))),
    action=tuple(Signal(index=i, name=name, unit="rad/s", min=-1, max=1, scale=2.0) for i, name in enumerate(("left", "right"))),
    control_period_s=0.005,
)
TRACE = ("tilt_rad", "current_A")
META = {"bundle": "0123456789ab", "clock": "lockstep", "seed": 1, "board": {"board": "fake", "engine": "none"}}


def a_step(index, *, timed=False, held=False):
    values = np.random.default_rng(index).uniform(-1, 1, 5).astype(np.float32).tolist()
    raw = (None, None) if held else ((index % 128, -128, 127), (-(index % 128), 3))
    timings = (412.5, 17.0, 3.25) if timed else ()
    return Step(index * 0.005, index // 50, index % 50, values[:3], values[3:], held, (0.1, -2.0), 0.75, *raw, *timings)


def write(path, steps, meta=META, **options):
    with RecordingWriter(path, meta, SPEC, TRACE, **options) as writer:
        for step in steps:
            writer.step(step.t_s, step)
    return path


def test_everything_comes_back(tmp_path):
    steps = [a_step(i, timed=True, held=i == 7) for i in range(1000)]
    with RecordingWriter(tmp_path / "sub" / "run.mcap", META, SPEC, TRACE, start_ns=10**18) as writer:
        for step in steps:
            writer.step(step.t_s, step)
        writer.fault(0.035, 0, 7, "lost", "request 8")
        writer.episode(5.0, {"episode": 0, "seed": 10_000, "steps": 1000, "failed": False})
    back = read_recording(tmp_path / "sub" / "run.mcap")
    assert len(back) == 1000
    assert back.spec == SPEC
    assert back.meta["board"] == META["board"]
    assert back.meta["ended"] == "complete"
    assert np.allclose(back.t_s, [step.t_s for step in steps], rtol=1e-8, atol=0)
    assert np.array_equal(back.observation, np.array([step.observation for step in steps], np.float32))
    assert back.observation.dtype == np.float32
    assert np.array_equal(back.action, np.array([step.action for step in steps], np.float32))
    assert back.held.nonzero()[0].tolist() == [7]
    assert back.input_int8[7].tolist() == [0, 0, 0]
    assert back.input_int8[8].tolist() == [8, -128, 127]
    assert back.output_int8[8].tolist() == [-8, 3]
    assert back.output_int8.dtype == np.int8
    assert {name: set(values) for name, values in back.plant.items()} == {"tilt_rad": {0.1}, "current_A": {-2.0}}
    assert set(back.round_trip_us) == {412.5}
    assert set(back.inference_us) == {17.0}
    assert back.episode[[0, 49, 50]].tolist() == [0, 0, 1]
    assert back.faults == [{"t_s": 0.035, "episode": 0, "step": 7, "kind": "lost", "detail": "request 8"}]
    assert back.episodes[0]["failed"] is False


def test_lockstep_bytes_are_the_same_and_hold_no_timing(tmp_path):
    steps = [a_step(i) for i in range(600)]
    first = write(tmp_path / "a.mcap", steps)
    second = write(tmp_path / "b.mcap", steps)
    assert first.read_bytes() == second.read_bytes()
    back = read_recording(first)
    assert np.isnan(back.round_trip_us).all()
    assert np.isnan(back.jitter_us).all()
    steps[300] = a_step(301)
    assert write(tmp_path / "c.mcap", steps).read_bytes() != first.read_bytes()


def test_it_is_what_viewers_expect(tmp_path):
    path = write(tmp_path / "a.mcap", [a_step(i) for i in range(3)], start_ns=5)
    with path.open("rb") as file:
        reader = make_reader(file)
        rows = list(reader.iter_messages())
        summary = reader.get_summary()
    schema, channel, message = rows[1]
    assert (channel.topic, channel.message_encoding, schema.encoding) == ("/step", "json", "jsonschema")
    assert message.log_time == 5 + 5_000_000
    properties = json.loads(schema.data)["properties"]
    document = json.loads(message.data)
    assert set(document) <= set(properties)
    assert set(document["observation"]) == set(properties["observation"]["properties"]) == {"pitch", "rate", "speed"}
    assert summary.statistics.message_count == 3 + 1  # how it ended, in the log


def test_time_never_runs_backwards(tmp_path):
    with RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE) as writer:
        writer.step(1.0, a_step(0))
        writer.fault(0.5, 0, 0, "late")
    with (tmp_path / "a.mcap").open("rb") as file:
        times = [message.log_time for _, _, message in make_reader(file).iter_messages(log_time_order=False)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (ValueError("boom"), "ValueError: boom"),
        (CableUnpluggedError("it is gone", "plug it in"), "it is gone"),
    ],
)
def test_whatever_happens_the_file_is_whole(tmp_path, error, ended):
    def fail(writer):
        with writer:
            writer.step(0.0, a_step(0))
            assert not (tmp_path / "a.mcap").exists()
            raise error

    writer = RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE)
    with pytest.raises(type(error)):
        fail(writer)
    back = read_recording(tmp_path / "a.mcap")
    assert len(back) == 1
    assert back.meta["ended"] == ended
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]
    assert writer.close() == tmp_path / "a.mcap"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole") / "a.mcap", [a_step(i, held=i == 20) for i in range(300)])


@pytest.mark.slow
def test_a_file_cut_off_anywhere_is_read_to_its_last_whole_record(tmp_path, whole):
    data, full = whole.read_bytes(), read_recording(whole)
    assert full.missing == ""
    cut = tmp_path / "cut.mcap"
    counts = []
    for size in [*range(0, len(data), 100), len(data) - 1]:
        cut.write_bytes(data[:size])
        if size < data.index(b"\x28\xb5\x2f\xfd") - 53:  # the head of the first chunk, after the metadata
            with pytest.raises(RecordingError, match=r"cut\.mcap") as caught:
                read_recording(cut)
            assert "hil run" in caught.value.hint
            continue
        back = read_recording(cut)
        assert back.observation.tobytes() == full.observation[: len(back)].tobytes()
        assert "cut off" in back.missing
        assert len(back) in (0, 300) or f"after {len(back)} control steps" in back.missing
        counts.append(len(back))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == 300
    assert len(set(counts)) == 300 * 5 // 250 + 1  # a step takes 5 ms, what is lost is less than 250 ms
    assert "every control step is there" in back.missing


def test_what_follows_zeros_is_cut_off_and_anything_else_is_refused(tmp_path, whole):
    data = whole.read_bytes()
    end = data.index(b"\x28\xb5\x2f\xfd")
    start = data.rindex(b"\x06", 0, end - 30)  # opcode of the first chunk
    path = tmp_path / "zeros.mcap"
    path.write_bytes(data[:start] + bytes(3000))
    assert "before its first control step" in read_recording(path).missing
    path.write_bytes(data[:start] + bytes(3000) + b"x")
    with pytest.raises(RecordingError, match="no record at byte"):
        read_recording(path)


def test_what_is_written_is_in_the_file_half_a_second_later(tmp_path):
    writer = RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE, start_ns=10**18)
    partial = tmp_path / "a.mcap.partial"
    assert len(read_recording(partial)) == 0
    for i in range(300):
        writer.step(i * 0.005, a_step(i))
        assert len(read_recording(partial)) > i - 0.5 / 0.005
    assert read_recording(partial).meta["ended"] == "cut off"
    writer.close()


def test_a_run_that_is_killed_leaves_what_it_did(tmp_path):
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_recording import META, SPEC, TRACE, RecordingWriter, a_step
writer = RecordingWriter(Path("a.mcap"), META, SPEC, TRACE)
for i in range(1000):
    writer.step(i * 0.005, a_step(i))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert 900 <= len(read_recording(tmp_path / "a.mcap.partial")) <= 1000


def test_a_signal_while_a_recording_is_closed_waits_until_it_is_whole(tmp_path):
    writer = RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE)
    finish = writer._writer.finish

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        finish()

    writer._writer.finish = interrupted
    with pytest.raises(KeyboardInterrupt), writer:
        writer.step(0.0, a_step(0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.mcap"]
    assert read_recording(tmp_path / "a.mcap").meta["ended"] == "complete"


def test_a_signal_before_a_recording_is_closed_closes_it(tmp_path, monkeypatch):
    writer = RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE)
    close = writer.close

    def interrupted(ended):
        monkeypatch.setattr(writer, "close", close)
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.step(0.0, a_step(0))
    assert read_recording(tmp_path / "a.mcap").meta["ended"] == "interrupted"


def test_a_full_disk_leaves_what_was_written(tmp_path):
    writer = RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        for i in itertools.count():
            try:
                writer.step(i * 0.005, a_step(i))
            except RecordingError as exc:
                error = exc
                break
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "a.mcap.partial" in error.hint
    with pytest.raises(RecordingError, match="cannot write"):  # there is room again: a gap must not follow
        writer.close()
    assert not (tmp_path / "a.mcap").exists()
    back = read_recording(tmp_path / "a.mcap.partial")
    assert i - 100 <= len(back) <= i + 1
    assert np.array_equal(back.observation[-1], np.array(a_step(len(back) - 1).observation, np.float32))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_mutated_file_is_read_or_refused(whole, tmp_path_factory, data):
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.mcap"
    path.write_bytes(content)
    try:
        back = read_recording(path)
    except RecordingError:
        return
    assert len(back) <= 300
    assert len(back) == 300 or back.missing


def hostile(path, *messages, meta=None):
    """A sound MCAP file with these messages of /step."""
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        run = {"format": 2, "spec": SPEC.to_dict(), "trace": [], **META, **(meta or {})}
        writer.add_metadata("run", {key: json.dumps(value) for key, value in run.items()})
        channel = writer.register_channel(STEP, "json", 0)
        for message in messages:
            writer.add_message(channel, 0, message, 0)
        writer.add_metadata("end", {"ended": '"complete"'})
        writer.finish()
    return path


@pytest.mark.parametrize(
    "message",
    [b" " * (1 << 25), b"[" * 50_000, b"1" * 4000, b"[]", b"null", b"{}", b'"\xff"', b'{"t_s":' + b"9" * 400 + b"}"],
    ids=lambda message: f"{message[:4]!r}x{len(message)}",
)
def test_hostile_messages_are_refused(tmp_path, message):
    with pytest.raises(RecordingError):
        read_recording(hostile(tmp_path / "a.mcap", message))


@pytest.mark.parametrize(("padding", "count"), [(1 << 25, 1), (1 << 20, 64)], ids=["one record", "all together"])
def test_a_file_that_decompresses_without_end_is_refused(tmp_path, padding, count):
    step = step_encoder(SPEC, ())(a_step(0)._replace(plant=()))
    assert len(read_recording(hostile(tmp_path / "a.mcap", *[step + b" " * 1000] * count))) == count
    with pytest.raises(RecordingError, match="decompresses to more"):
        read_recording(hostile(tmp_path / "b.mcap", *[step + b" " * padding] * count))


@pytest.mark.parametrize(
    ("key", "value"), [("episode", 1 << 70), ("episode", 1e400), ("t_s", "x"), ("input_int8", {"pitch": 300})]
)
def test_steps_out_of_range_are_refused(tmp_path, key, value):
    step = json.loads(step_encoder(SPEC, ())(a_step(0)._replace(plant=())))
    read_recording(hostile(tmp_path / "a.mcap", json.dumps(step).encode()))
    step[key] = step[key] | value if isinstance(value, dict) else value
    with pytest.raises(RecordingError):
        read_recording(hostile(tmp_path / "b.mcap", json.dumps(step).encode()))


def test_an_altered_file_is_refused(tmp_path):
    path = write(tmp_path / "a.mcap", [a_step(i) for i in range(300)])
    data = bytearray(path.read_bytes())
    data[data.index(b"\x28\xb5\x2f\xfd") + 200] ^= 0xFF  # inside the first zstd chunk
    path.write_bytes(data)
    with pytest.raises(RecordingError):
        read_recording(path)


def test_what_is_no_recording_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="no such recording"):
        read_recording(tmp_path / "none.mcap")
    with pytest.raises(RecordingError, match="cannot read"):
        read_recording(tmp_path)
    (tmp_path / "text").write_text("hello " * 100)
    with pytest.raises(RecordingError, match="not a sound MCAP file"):
        read_recording(tmp_path / "text")
    with (tmp_path / "other.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.finish()
    with pytest.raises(RecordingError, match="no metadata of a run"):
        read_recording(tmp_path / "other.mcap")
    write(tmp_path / "new.mcap", [], meta={**META, "format": 99})
    with pytest.raises(RecordingError, match="format 99"):
        read_recording(tmp_path / "new.mcap")


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match="cannot write") as caught:
        RecordingWriter(tmp_path / "file" / "a.mcap", META, SPEC)
    assert "--record" in caught.value.hint


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.lists(st.integers(-128, 127), min_size=5, max_size=5),
    st.booleans(),
)
def test_a_step_is_valid_json_and_exact(floats, raw, held):
    step = replace_step(a_step(0), floats, raw, held)
    document = json.loads(step_encoder(SPEC, TRACE)(step))
    assert np.array_equal(np.array(list(document["observation"].values()), np.float32), np.array(floats, np.float32))
    assert document["held"] is held
    assert ("input_int8" in document) is not held
    if not held:
        assert [*document["input_int8"].values(), *document["output_int8"].values()] == raw
    assert set(document) <= set(schemas(SPEC, TRACE)[STEP][1]["properties"])


def replace_step(step, floats, raw, held):
    vectors = (None, None) if held else (raw[:3], raw[3:])
    return step._replace(observation=floats, held=held, input_int8=vectors[0], output_int8=vectors[1])


def test_what_an_environment_does_not_know_is_null_and_reads_as_nan(tmp_path):
    steps = [a_step(i)._replace(plant=(float("nan"), -2.0), reward=float("inf") if i else 1.0) for i in range(3)]
    back = read_recording(write(tmp_path / "a.mcap", steps))
    assert np.isnan(back.plant["tilt_rad"]).all()
    assert back.plant["current_A"].tolist() == [-2.0] * 3
    assert back.reward[0] == 1.0
    assert np.isnan(back.reward[1:]).all()


def test_two_runs_never_write_one_file(tmp_path):
    with RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE) as writer:
        writer.step(0.0, a_step(0))
        with pytest.raises(RecordingError, match=r"a\.mcap\.partial is there already") as caught:
            RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE)
        assert "--record" in caught.value.hint
    assert len(read_recording(tmp_path / "a.mcap")) == 1


def test_a_recording_never_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    pipe = tmp_path / "a.mcap"
    os.mkfifo(pipe)
    with pytest.raises(RecordingError, match="is not a regular file"):
        RecordingWriter(pipe, META, SPEC, TRACE)
    with pytest.raises(FileExistsError, match="is not a regular file"):
        write_atomically(pipe, "text")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_signal_names_may_not_break_the_format(tmp_path):
    name = 'duty "%d" in % (left)'
    odd = replace(SPEC, action=(Signal(index=0, name=name, unit="", min=0, max=None),))
    step = Step(0.0, 0, 0, [0.0, 0.0, 0.0], [1.0], False, [2.0], 0.0, [1, 2, 3], [4])
    with RecordingWriter(tmp_path / "a.mcap", META, odd, [name]) as writer:
        writer.step(0.0, step)
    back = read_recording(tmp_path / "a.mcap")
    assert back.output_int8.tolist() == [[4]]
    assert back.plant[name].tolist() == [2.0]
    assert back.spec == odd
