"""A custom board kind: boards in the slots of a rack, behind a serial server.

A package registers it in its pyproject.toml; each board is then one file, such as boards/rack-7.toml:

    [project.entry-points."balance_hil.boards"]
    rack = "own_board_kind"

    name = "rack-7"
    kind = "rack"
    slot = 7
"""

import os

from balance_hil.errors import ConfigError

KEYS = {"slot": int}  # extra keys that a board file of this kind may have
FIRST_TCP_PORT = 4000


def check_definition(definition):
    """Called when a board's file is read."""
    if not 0 < definition.settings.get("slot", 0) <= 16:
        raise ConfigError(f"the board {definition.name} has no slot from 1 to 16", "add a line slot = 7")


def find_port(definition):
    """Returns the board's port: any pyserial device or URL."""
    return f"socket://{os.environ.get('RACK', 'localhost')}:{FIRST_TCP_PORT + definition.settings['slot']}"
