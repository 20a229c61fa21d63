"""Boards of a Jumpstarter farm: a kind that lends boards, inside of `jmp shell`, which holds the lease.
Entry point of the group "balance_hil.boards": jumpstarter = "jumpstarter_farm". The place is the serial driver's NAME:
    jmp shell --selector board=native -- hil run ppo --board jumpstarter:NAME
"""

import contextlib

from balance_hil.boards.place import Place
from balance_hil.errors import FarmError, UnknownBoardError


@contextlib.contextmanager
def acquired(place, wait_s, progress):
    from jumpstarter.common.exceptions import EnvironmentVariableNotSetError
    from jumpstarter.utils.env import env_with_metadata
    from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

    with contextlib.ExitStack() as stack:
        try:
            client, exporter = stack.enter_context(env_with_metadata())
        except EnvironmentVariableNotSetError as exc:
            raise FarmError("there is no lease of a Jumpstarter board", "jmp shell --selector board=native -- hil ...") from exc
        if place not in client.children:
            raise UnknownBoardError(f"{exporter.name} has no {place}", f"it has: {', '.join(client.children)}")
        host, port = stack.enter_context(TcpPortforwardAdapter(client=client.children[place], method="connect"))
        yield Place(name=f"jumpstarter:{place}", kind=exporter.labels.get("board", "serial"), port=f"socket://{host}:{port}")


def places():
    return []  # jmp get exporters lists them
