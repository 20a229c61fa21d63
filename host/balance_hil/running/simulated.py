"""The lockstep clock with injected faults: a run in real time, in simulated time, so that it is fast and repeats bit for bit.

An observation goes out at every control step, whatever became of the one before. Its reply takes effect in the first physics
substep that begins after it has arrived; until then the action in force is held. The latency is that of the injected faults
alone: the board's own computing counts as no time. An environment without substeps takes actions at control steps.
"""

from __future__ import annotations

from balance_hil.environment import Float32Array
from balance_hil.link import FaultyLink
from balance_hil.running.episode import Episode
from balance_hil.running.exchange import Exchange, Reply


def run_episode(episode: Episode, exchange: Exchange, link: FaultyLink) -> None:
    """Runs one episode. Raises what ``Exchange.poll`` raises."""
    env = episode.env
    observation = episode.begin()
    while episode.goes_on():
        episode.intervene()
        exchange.step = episode.step
        link.advance(episode.run_s)
        exchange.send(observation)
        substeps = _Substeps(episode, exchange, link)
        result = env.step(None, substeps.before)
        observation = episode.finish_step(observation, result, substeps.applied)
        exchange.pass_silence(env.spec.control_period_s)
        episode.report()
    exchange.forget()


class _Substeps:
    """The substeps of one control step."""

    def __init__(self, episode: Episode, exchange: Exchange, link: FaultyLink) -> None:
        self._begin_s, self._substep_s = episode.run_s, episode.env.substep_s
        self._exchange, self._link = exchange, link
        self._begun = 0
        self.applied: Reply | None = None  # the last reply that took effect

    def before(self) -> Float32Array | None:
        """The outputs that take effect in the next substep."""
        self._link.advance(self._begin_s + self._begun * self._substep_s)
        self._begun += 1
        latest: Reply | None = None
        while self._exchange.has_frames:
            latest = self._exchange.poll(0.0) or latest
        if latest is None:
            return None
        self.applied = latest
        return latest.outputs
