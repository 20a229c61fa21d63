import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import Writer

from balance_hil.errors import RecordingError
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
    assert summary.statistics.message_count == 3


def test_time_never_runs_backwards(tmp_path):
    with RecordingWriter(tmp_path / "a.mcap", META, SPEC, TRACE) as writer:
        writer.step(1.0, a_step(0))
        writer.fault(0.5, 0, 0, "late")
    with (tmp_path / "a.mcap").open("rb") as file:
        times = [message.log_time for _, _, message in make_reader(file).iter_messages(log_time_order=False)]
    assert times == sorted(times)


@pytest.mark.parametrize(("error", "ended"), [(KeyboardInterrupt(), "interrupted"), (ValueError("boom"), "ValueError: boom")])
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


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.9, -1, -8, -30])
def test_a_cut_off_file_is_refused(tmp_path, keep):
    whole = write(tmp_path / "a.mcap", [a_step(i) for i in range(300)]).read_bytes()
    size = int(keep * len(whole)) if isinstance(keep, float) else keep % len(whole)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[:size])
    with pytest.raises(RecordingError, match=r"cut\.mcap") as caught:
        read_recording(cut)
    assert "hil run" in caught.value.hint


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
    with pytest.raises(RecordingError, match="not a whole MCAP file"):
        read_recording(tmp_path / "text")
    with (tmp_path / "other.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start()
        writer.finish()
    with pytest.raises(RecordingError, match="not a recording of a run"):
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
    assert set(document) <= set(schemas(SPEC, TRACE)[STEP]["properties"])


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
