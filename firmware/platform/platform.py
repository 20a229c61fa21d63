"""PlatformIO development platform of balance_hil: system compilers, nothing from PlatformIO's registry."""

from platformio.public import PlatformBase


class BalancehilPlatform(PlatformBase):
    """Boards are in ``boards/``; ``builder/main.py`` picks the toolchain by the board's ``build.toolchain``."""
