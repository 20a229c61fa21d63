from __future__ import annotations

from importlib.resources import files

import pytest
from click.testing import CliRunner

from balance_hil.errors import ConfigError
from balance_hil.protocol import messages
from balance_hil.protocol.generate import main, stale
from balance_hil.protocol.generate_markdown import fill_tables
from balance_hil.protocol.schema import load_schema

SOURCE = files("balance_hil.protocol").joinpath("schema.toml").read_text()


def test_generated_files_are_up_to_date() -> None:
    assert stale(load_schema()) == []
    assert load_schema().crc() == messages.SCHEMA_CRC
    assert CliRunner().invoke(main, ["--check"]).exit_code == 0


def test_check_notices_a_changed_schema() -> None:
    changed = load_schema(SOURCE.replace("max_payload = 1024", "max_payload = 2048"))
    assert {path.name for path in stale(changed)} == {"messages.py", "messages.h", "PROTOCOL.md"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('["op", "u16", "", "index', '["op", "u32", "", "index'),
        ('["op", "u16", "", "index', '["operator", "u16", "", "index'),
        ("type = 0x88", "type = 0xA0"),
        ("max_text = 4352", "max_text = 128"),
        ('name = "no_model"', 'name = "model_missing"'),
    ],
)
def test_layout_changes_the_crc(old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert load_schema(SOURCE.replace(old, new)).crc() != messages.SCHEMA_CRC


def test_prose_does_not_change_the_crc() -> None:
    assert load_schema(SOURCE.replace('doc = "reboots the board"', 'doc = "restarts it"')).crc() == messages.SCHEMA_CRC


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type = 0x88", "type = 0x87"),
        ("type = 0x88", "type = 0x08"),
        ("type = 0x80", "type = 0x9F"),
        ('sender = "board"', 'sender = "bored"'),
        ('["op", "u16", "", "index', '["op", "u24", "", "index'),
        ('reply = "TENSOR_DATA"', 'reply = "TENSOR_DATE"'),
        ("value = 3\n", "value = 30\n"),
        ('["protocol", "u16", "", "protocol version"],\n', ""),
        ('doc = "reboots the board"', 'dog = "reboots the board"'),
    ],
)
def test_bad_schema_is_refused(old: str, new: str) -> None:
    assert old in SOURCE
    with pytest.raises(ConfigError):
        load_schema(SOURCE.replace(old, new))


def test_document_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ConfigError):
        fill_tables(load_schema(), "# Wire protocol\n")
