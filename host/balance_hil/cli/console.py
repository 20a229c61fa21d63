"""Where messages go: data to stdout, everything else to stderr. NO_COLOR is honored by rich."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


def print_error(message: str, hint: str) -> None:
    """Prints the two lines of an error to stderr."""
    stderr.print("[bold red]error:[/] ", end="")
    stderr.print(message, markup=False, soft_wrap=True)
    stderr.print("[bold cyan]hint:[/]  ", end="")
    stderr.print(hint, markup=False, soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """Prints the one JSON document of a ``--json`` run to stdout."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
