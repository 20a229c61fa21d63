"""Whole files or none, YAML from outside, and what a misspelled name may have meant."""

import contextlib
import json
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import ConfigError
from balance_hil.files import MAX_YAML_BYTES, did_you_mean, parse_json, read_yaml, replacing, require_known, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "x.txt"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    other = tmp_path / "plain"
    other.write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.png"
    path.write_text("old")

    def write_half_of_it():
        with replacing(path) as partial:
            partial.write_text("half")
            assert partial.suffix == ".png"
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_half_of_it()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_did_you_mean():
    assert did_you_mean("natvie", ["native", "qemu-m4"]) == ", did you mean 'native'?"
    assert did_you_mean("speed", ["motor.speed", "sped"], "motor.") == ", did you mean 'motor.sped'?"
    assert did_you_mean("zzz", ["native"]) == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "is not a table"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"a: !!python/object/apply:os.system [true]", "is not YAML"),
        (b"[" * 5000, "is not YAML"),
        (b"a: " + b"x" * MAX_YAML_BYTES, "larger than 128 KiB"),
        (b"a: " + "\u00e4".encode() * (MAX_YAML_BYTES // 2), "larger than 128 KiB"),
    ],
    ids=["list", "garbled", "bytes", "code", "deep", "large", "large in bytes"],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path, "the hint")
    assert str(path) in caught.value.message
    assert caught.value.hint == "the hint"


def test_a_missing_file_an_empty_one_and_one_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(path)
    path.write_bytes(b"")
    assert read_yaml(path) == {}
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}


def test_a_tag_that_the_caller_knows(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: !twice 3")
    assert read_yaml(path, tags={"!twice": lambda loader, node: 2 * int(node.value)}) == {"a": 6}
    with pytest.raises(ConfigError, match="!twice"):
        read_yaml(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    with contextlib.suppress(ConfigError):
        assert isinstance(read_yaml(path), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a\n'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"\\', max_size=3), inner, max_size=3),
)


@given(JSON)
def test_json_from_outside_is_read_as_it_is(value):
    assert parse_json(json.dumps(value)) == parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("text", ["[" * 101, '{"a":' * 100_000, '["' + "[" * 200, "\udcff", b"\xff", "", "[1,"])
def test_json_that_is_too_deep_or_none_is_refused(text):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)  # as some packages do: then json itself overflows the stack
    try:
        with pytest.raises(ValueError):  # noqa: PT011 - each of these has a text of its own
            parse_json(text)
    finally:
        sys.setrecursionlimit(limit)


def test_brackets_in_strings_do_not_count():
    assert parse_json('["' + "[{" * 500 + '"]') == ["[{" * 500]


def test_an_integer_of_thousands_of_digits_is_refused_and_names_may_be_of_any_kind(tmp_path):
    path = tmp_path / "bomb.yaml"
    path.write_text("seed: 0x" + "f" * 6000)
    with pytest.raises(ConfigError, match="an integer of more than 64 bits"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="unknown thing") as caught:
        require_known(b"x", {b"y": 1, 3: 2}, "thing")
    assert "3" in caught.value.hint


def test_json_of_more_values_than_asked_for_is_refused_before_it_is_built():
    assert parse_json("[0, 0, 0]", 3) == [0, 0, 0]
    with pytest.raises(ValueError, match="more than 3 values"):
        parse_json("[[], [], []]", 3)
