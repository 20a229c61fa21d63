"""The lockstep clock: the plant waits for the board. Same seed, bundle and board, same episode bit for bit.

A step is recorded while the board computes the next one. Once in a hundred steps recording takes longer than the board, because
a chunk is compressed: the 99th percentile of a lockstep round trip measures this program, not the board.
"""

from __future__ import annotations

from balance_hil.environment import Float32Array
from balance_hil.errors import BoardRebootedError
from balance_hil.running.episode import Episode
from balance_hil.running.exchange import Exchange, Reply

MAX_ATTEMPTS = 3  # at one observation


def run_episode(episode: Episode, exchange: Exchange, reply_timeout_s: float) -> None:
    """Runs one episode. A step whose reply is lost or rejected holds the action in force."""
    env = episode.env
    observation = episode.begin()
    while episode.goes_on():
        episode.intervene()
        exchange.step = episode.step
        reply = _ask(episode, exchange, observation, reply_timeout_s)
        result = env.step(None if reply is None else reply.outputs)
        observation = episode.finish_step(observation, result, reply)
    episode.report()


def _ask(episode: Episode, exchange: Exchange, observation: Float32Array, timeout_s: float) -> Reply | None:
    """The reply to one observation, None if lost or rejected. After a reboot it is sent again, up to MAX_ATTEMPTS times."""
    for _ in range(MAX_ATTEMPTS):
        exchange.await_identified()
        reboots = exchange.reboots
        exchange.send(observation)
        episode.report()
        deadline = exchange.now_s() + timeout_s
        while exchange.is_waiting and (left_s := deadline - exchange.now_s()) > 0:
            reply = exchange.poll(left_s)
            if reply is not None:
                return reply
        if exchange.reboots == reboots:
            exchange.give_up()
            return None
    raise BoardRebootedError(
        f"the board restarted {MAX_ATTEMPTS} times over the same observation",
        "that observation crashes its firmware: see the recording",
    )
