"""A custom environment with names, units and a metric: hil train ppo -e own_environment:Hover-v0 (in this folder)."""

import gymnasium as gym
import numpy as np


class Hover(gym.Env):
    """A drone on a vertical rail."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(0.0, 20.0, (1,), np.float32)
    control_period_s = 0.02
    policy_spec = {"observation": [{"name": "error", "unit": "m"}, {"name": "climb", "unit": "m/s"}]}
    policy_metrics = [{"name": "error_rms_m", "unit": "m", "source": "error_m", "reduction": "rms", "better": "lower"}]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-1, 1), 0.0])
        return self.state.astype(np.float32), {}

    def step(self, action):
        self.state += self.control_period_s * np.array([self.state[1], action[0] - 9.81])
        error = self.state[0]
        return self.state.astype(np.float32), -(error**2), abs(error) > 3, False, {"error_m": error}

    def failed(self, terminated, truncated, info):
        return terminated


gym.register("Hover-v0", Hover, max_episode_steps=500)
