"""A robot package of somebody else's, written into a folder: own MJCF, own signal table, own metrics."""

from pathlib import Path

MJCF = """<mujoco model="cart">
  <option timestep="0.002" integrator="{integrator}"/>
  <worldbody>
    <body name="cart"><joint name="slide" type="slide" axis="1 0 0" damping="0.5"/><geom type="box" size=".1 .1 .1" mass="1"/>
      <body name="pole"><joint name="hinge" type="hinge" axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 0.5" size=".02" mass="0.1"/></body></body>
  </worldbody>
  <actuator><motor joint="slide" gear="10" ctrlrange="-2 2"/></actuator>
</mujoco>
"""

PACKAGE = '''
import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

SIGNALS = {{
    "observation": [
        {{"name": "position", "unit": "m"}},
        {{"name": "angle", "unit": "rad"}},
        {{"name": "velocity", "unit": "m/s"}},
        {{"name": "angle_rate", "unit": "rad/s"}},
    ],
    "action": [{{"name": "force", "unit": "N"}}],
}}


class Common:
    policy_spec = SIGNALS
    policy_metrics = ({{"name": "angle_rms_rad", "unit": "rad", "source": "angle_rad", "reduction": "rms", "better": "lower"}},)

    def failed(self, terminated, truncated, info):
        return terminated

    def excite(self, rng):
        return {{"angle_rad": float(rng.uniform(-0.2, 0.2))}}

    def _observe(self):
        return np.concatenate([self.data.qpos, self.data.qvel])

    def _result(self, action):
        angle = float(self.data.qpos[1])
        reward = 1.0 - angle * angle - 0.01 * float(np.square(action).sum())
        return self._observe(), reward, abs(angle) > 0.5, False, {{"angle_rad": angle}}


class CartEnv(Common, MujocoEnv):
    """Steps as Gymnasium's own do."""

    metadata = {{"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"], "render_fps": 50}}

    def __init__(self, gain=1.0, **kwargs):
        box = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        super().__init__({model!r}, 10, observation_space=box, **kwargs)
        self.start_rad, self.gain = 0.0, gain

    def reset(self, *, seed=None, options=None):
        self.start_rad = (options or {{}}).get("angle_rad", 0.0)
        return super().reset(seed=seed, options=options)

    def reset_model(self):
        self.set_state(np.array([0.0, self.start_rad]), self.np_random.uniform(-0.01, 0.01, 2))
        return self._observe()

    def step(self, action):
        self.do_simulation(action * self.gain, self.frame_skip)
        return self._result(action)


class OwnLoopEnv(Common, gym.Env):
    """Steps the physics in a loop of its own."""

    control_period_s = 0.02
    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    frame_skip = 10

    def __init__(self, render_mode=None):
        self.model = mujoco.MjModel.from_xml_path({model!r})
        self.data = mujoco.MjData(self.model)
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[1] = (options or {{}}).get("angle_rad", 0.0)
        self.data.qvel[:] = self.np_random.uniform(-0.01, 0.01, 2)
        return self._observe(), {{}}

    def step(self, action):
        self.data.ctrl[:] = action
        for _ in range(self.frame_skip):
            mujoco.mj_step(self.model, self.data)
        return self._result(action)


gym.register("{name}/Cart-v0", CartEnv, max_episode_steps=200)
gym.register("{name}/OwnLoop-v0", OwnLoopEnv, max_episode_steps=200)
'''


def write_robot(folder: Path, name: str, integrator: str = "Euler") -> str:
    """Writes the package ``name`` into ``folder`` and returns its name; ``folder`` has to be on the path."""
    package = folder / name
    package.mkdir(parents=True)
    model = package / "cart.xml"
    model.write_text(MJCF.format(integrator=integrator))
    (package / "__init__.py").write_text(PACKAGE.format(model=str(model), name=name))
    return name


REFERENCE = '''
"""Of the public project's shape: the same ids as ours of version 1, Box(6) to Box(2), other scales, no word about itself."""

import gymnasium as gym
import numpy as np

import balance_hil.envs

OURS = np.array([0.35, 4.0, 80.0, 80.0, 60.0, 40.0], np.float32)
THEIRS = np.array([1.5707964, 10.0, 150.0, 150.0, 200.0, 200.0], np.float32)


class Env(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_modes": [], "render_fps": 200}
    dt = 0.005

    def __init__(self, render_mode=None):
        self.inner = gym.make("balance/Balance-v0").unwrapped
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        observation, info = self.inner.reset(seed=seed, options=options)
        return observation * OURS / THEIRS, info

    def step(self, action):
        observation, *rest = self.inner.step(action)
        return (observation * OURS / THEIRS, *rest)


for name in ("Env01-v1", "Env01-v2", "Env01-v3", "Env03-v1"):
    gym.register(name, Env, max_episode_steps=1000)
'''


def write_reference_project(folder: Path, name: str, ours: Path) -> Path:
    """Writes a package of the public project's shape, and beside it a ``best_model.zip`` that balances there.

    Args:
        folder: of the package.
        name: of the package.
        ours: a ``policy.zip`` that balances in ``balance/Balance-v0``.

    Returns:
        The checkpoint: the same network, its first layer scaled to their observations.
    """
    import io
    import zipfile

    import torch

    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(REFERENCE)
    scales: dict[str, list[float]] = {}
    for line in REFERENCE.splitlines():
        if line.startswith(("OURS", "THEIRS")):
            scales[line.split()[0]] = [float(v) for v in line.split("[")[1].split("]")[0].split(",")]
    ratio = torch.tensor(scales["THEIRS"]) / torch.tensor(scales["OURS"])
    target = folder / "best_model.zip"
    with zipfile.ZipFile(ours) as source, zipfile.ZipFile(target, "w") as copy:
        for member in source.namelist():
            data = source.read(member)
            if member == "policy.pth":
                state = torch.load(io.BytesIO(data), weights_only=True)
                for key in state:
                    if key.endswith("_net.0.weight") and state[key].shape[1] == len(ratio):
                        state[key] = state[key] * ratio
                buffer = io.BytesIO()
                torch.save(state, buffer)
                data = buffer.getvalue()
            copy.writestr(member, data)
    return target
