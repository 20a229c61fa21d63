"""``python -m balance_hil.protocol.generate [--check]``: writes everything that is derived from ``schema.toml``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from balance_hil.errors import ConfigError, HarnessError, require
from balance_hil.files import write_atomically
from balance_hil.protocol.generate_cpp import messages_header, status_header
from balance_hil.protocol.generate_markdown import fill_tables
from balance_hil.protocol.generate_python import python_source
from balance_hil.protocol.schema import Schema, load_schema

REPOSITORY = Path(__file__).resolve().parents[3]
MESSAGES = REPOSITORY / "host/balance_hil/protocol/messages.py"
STATUS_HEADER = REPOSITORY / "firmware/lib/status/include/status/status.h"
HEADER = REPOSITORY / "firmware/lib/frame/include/frame/messages.h"
DOCUMENT = REPOSITORY / "firmware/PROTOCOL.md"


def outputs(schema: Schema) -> dict[Path, str]:
    """Every derived file with the text it should have.

    Raises:
        MissingExtraError: the formatter is not installed.
    """
    require("ruff", "dev")
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--quiet", "--stdin-filename", str(MESSAGES), "-"],
        input=python_source(schema),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {
        MESSAGES: formatted,
        STATUS_HEADER: status_header(schema),
        HEADER: messages_header(schema),
        DOCUMENT: fill_tables(schema, DOCUMENT.read_text()),
    }


def stale(schema: Schema) -> list[Path]:
    """Derived files that are missing or differ."""
    return [path for path, text in outputs(schema).items() if not path.exists() or path.read_text() != text]


@click.command()
@click.option("--check", is_flag=True, help="write nothing; fail when a file is stale")
def main(check: bool) -> None:
    """Writes the derived files, or checks them."""
    try:
        schema = load_schema()
        if check:
            if names := [str(path.relative_to(REPOSITORY)) for path in stale(schema)]:
                raise ConfigError(
                    f"not generated from this schema.toml: {', '.join(names)}",
                    "write them again: python -m balance_hil.protocol.generate",
                )
            return
        for path, text in outputs(schema).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
    except HarnessError as exc:
        click.echo(f"error: {exc.message}\nhint:  {exc.hint}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
