"""Whole files or none, YAML from outside, and what a misspelled name may have meant."""

import contextlib
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balance_hil.errors import ConfigError
from balance_hil.files import MAX_YAML_BYTES, did_you_mean, read_yaml, replacing, write_atomically


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
        (b"a: " + b"x" * MAX_YAML_BYTES, "larger than 1 MiB"),
        (b"a: " + "\u00e4".encode() * (MAX_YAML_BYTES // 2), "larger than 1 MiB"),
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
