"""What viewers get of a run, read with the plain mcap package."""

import json

import jsonschema
import mujoco
import numpy as np
import pytest
from mcap.reader import make_reader

from balance_hil.environment import open_environment
from balance_hil.envs import balance as envs
from balance_hil.recording import RecordingWriter, Step, read_recording
from balance_hil.recording.folder import keep_last
from balance_hil.running import RunConfig, run
from balance_hil.scene import MujocoScene


@pytest.fixture
def messages(board, firmware, linear_bundle, tmp_path):
    """(topic, schema, log time in ns, message) of a lockstep run with a lost reply."""
    firmware.lose = {17}
    config = RunConfig(
        seeds=[3, 4], clock="lockstep", max_steps=48, check_tflm=False, reply_timeout_s=0.01, recording=tmp_path / "run.mcap"
    )
    run(board, linear_bundle, config)
    with config.recording.open("rb") as file:
        reader = make_reader(file)
        rows = list(reader.iter_messages(log_time_order=False))
        (attachment,) = reader.iter_attachments()
        (end,) = [record.metadata for record in reader.iter_metadata() if record.name == "end"]
    assert json.loads(end["verdict"]) == "PASS"
    assert attachment.name == "foxglove-layout.json"
    return [(channel.topic, schema, message.log_time, json.loads(message.data)) for schema, channel, message in rows]


def of(messages, wanted):
    return [(time, message) for topic, _, time, message in messages if topic == wanted]


def test_every_message_fits_its_schema_and_the_one_time_base(messages):
    validators = {schema.id: jsonschema.Draft202012Validator(json.loads(schema.data)) for _, schema, _, _ in messages}
    for _, schema, time, message in messages:
        validators[schema.id].validate(message)
        instants = [message["timestamp"]] if "timestamp" in message else []
        instants += [each["timestamp"] for key in ("entities", "transforms") for each in message.get(key, ())]
        assert {each["sec"] * 10**9 + each["nsec"] for each in instants} <= {time}
    assert {topic for topic, *_ in messages} == {"/step", "/fault", "/episode", "/scene", "/tf", "/log"}
    times = [time for _, _, time, _ in messages]
    assert times == sorted(times)


def test_the_bodies_are_where_the_episode_has_them(messages):
    transforms = of(messages, "/tf")
    assert np.diff([time for time, _ in transforms]).min() >= 20_000_000
    steps = [message for _, message in of(messages, "/step")]
    env = envs.make("balance/Balance-v0").unwrapped
    env.reset(seed=3)
    exact = mujoco.MjData(env.model)
    for step in steps[:48]:
        if step["step"] % 4 == 0:
            exact.qpos[:] = env.data.qpos
            mujoco.mj_kinematics(env.model, exact)
            (message,) = [each for time, each in transforms if time == round(step["t_s"] * 1e9)]
            assert [each["child_frame_id"] for each in message["transforms"]] == ["robot", "wheel_left", "wheel_right"]
            for body, each in enumerate(message["transforms"], start=1):
                assert np.allclose([each["translation"][name] for name in "xyz"], exact.xpos[body], atol=1e-5)
                assert np.allclose([each["rotation"][name] for name in "wxyz"], exact.xquat[body], atol=1e-5)
        action = None if step["held"] else np.array(list(step["action"].values()), np.float32)
        env.step_substeps(action, lambda: None)
    assert len(transforms) == 24


def test_the_scene_is_recorded_once_with_an_entity_for_each_body(messages):
    ((time, scene),) = of(messages, "/scene")
    assert time == 0
    entities = {entity["frame_id"]: entity for entity in scene["entities"]}
    assert set(entities) == {"world", "robot", "wheel_left", "wheel_right"}
    assert all(entity["frame_locked"] for entity in entities.values())
    assert (len(entities["robot"]["cubes"]), len(entities["robot"]["cylinders"])) == (7, 6)  # with what is only seen
    tyre, *_ = entities["wheel_left"]["cylinders"]
    assert tyre["size"] == {"x": 0.068, "y": 0.068, "z": 0.024}
    assert tyre["pose"]["orientation"] == pytest.approx({"w": 0.707107, "x": 0.707107, "y": 0, "z": 0})  # on its side
    assert entities["world"]["cubes"][0]["size"]["x"] == 40


def test_the_log_tells_faults_episodes_and_the_verdict(messages):
    log = [(message["level"], message["message"]) for _, message in of(messages, "/log")]
    assert (3, "lost: no reply to the observation of step 17 (episode 1, step 17)") in log
    assert (2, "episode 2, seed 4: 48 steps") in log
    assert log[-1] == (2, "PASS")


def supported(schema):
    """Whether Foxglove reads a schema: its parser takes one type for each field, and no array of arrays."""
    if schema.get("type") == "object":
        return isinstance(schema["properties"], dict) and all(map(supported, schema["properties"].values()))
    if schema.get("type") == "array":
        return schema["items"].get("type") != "array" and supported(schema["items"])
    return schema.get("type") in ("boolean", "string", "number", "integer")


def test_foxglove_reads_every_schema(messages):
    assert not supported({"type": ["number", "null"]})
    for topic, schema, *_ in messages:
        assert supported(json.loads(schema.data)), topic


MODEL = """<mujoco><worldbody>
  <geom type="plane" size="1 2 .1" pos="0 0 .5"/>
  <body name="shelf" pos="0 0 1"><geom type="box" size=".1 .2 .3" pos="0 0 1"/></body>
  <body name="arm"><joint/><geom type="capsule" size=".1 .5" euler="90 0 0"/><geom type="sphere" size=".1" group="3"/></body>
  <body name="target" mocap="true"><geom type="ellipsoid" size=".1 .2 .3"/></body>
</worldbody></mujoco>"""


class Robot:
    def __init__(self, xml=MODEL):
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)


def test_shapes_of_any_model():
    scene = MujocoScene(Robot())
    scene.begin_episode()
    assert scene.frames == ["arm", "target"]
    plane, box = scene.shapes["world"]
    assert (plane.kind, plane.size_m) == ("cubes", (2, 4, 0.001))
    assert box.position_m == (0, 0, 2)
    cylinder, *ends = scene.shapes["arm"]
    assert (cylinder.kind, cylinder.size_m) == ("cylinders", (0.2, 0.2, 1.0))
    assert np.allclose([end.position_m for end in ends], [(0, -0.5, 0), (0, 0.5, 0)])
    (target,) = scene.shapes["target"]
    assert (target.kind, target.size_m) == ("spheres", (0.2, 0.4, 0.6))


def test_the_scene_follows_the_geometry_of_the_episode():
    with open_environment("balance/Balance-v0", {"physics": {"ground_slope_rad": 0.1}}) as env:
        env.reset(1)
        env.scene.begin_episode()
        shapes = env.scene.shapes
        assert shapes["world"][0].quaternion == pytest.approx((np.cos(0.05), 0, -np.sin(0.05), 0))
        env.scene.begin_episode()
        assert env.scene.shapes is shapes


def test_an_environment_without_a_model_has_no_scene(linear_bundle, tmp_path):
    with open_environment("CartPole-v1") as env:
        assert env.scene is None
    with RecordingWriter(tmp_path / "a.mcap", {}, linear_bundle.spec) as writer:
        writer.step(0.0, Step(0.0, 0, 0, [0.0] * 6, [0.0] * 2, True, (), 1.0, state=np.zeros(1)))
    with (tmp_path / "a.mcap").open("rb") as file:
        assert [channel.topic for _, channel, _ in make_reader(file).iter_messages()] == ["/step", "/log"]


def test_the_same_steps_with_and_without_a_scene(board, linear_bundle, tmp_path, monkeypatch):
    def once(name):
        config = RunConfig(seeds=[5], clock="lockstep", max_steps=40, check_tflm=False, recording=tmp_path / name)
        return read_recording(run(board, linear_bundle, config).recording)

    seen = once("a.mcap")
    monkeypatch.setattr("balance_hil.environment.Environment.scene", None)
    assert np.array_equal(once("b.mcap").observation, seen.observation)


def test_the_last_seconds_of_a_recording_keep_the_scene(board, linear_bundle, tmp_path):
    config = RunConfig(seeds=[3], clock="lockstep", max_steps=48, check_tflm=False, recording=tmp_path / "run.mcap")
    run(board, linear_bundle, config)
    keep_last(config.recording, tmp_path / "last.mcap", 0.1)
    with (tmp_path / "last.mcap").open("rb") as file:
        rows = list(make_reader(file).iter_messages(log_time_order=False))
    assert rows[0][1].topic == "/scene"
    assert rows[0][2].log_time == rows[-1][2].log_time - 100_000_000
    assert len([channel for _, channel, _ in rows if channel.topic == "/step"]) == 20
