"""Pickles are looked at and never run."""

import contextlib
import pickle
import pickletools

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balance_hil.checkpoint.inert import array_of, path_of, read_pickle
from balance_hil.checkpoint.spaces import pickled_space, space_of
from balance_hil.errors import CheckpointError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        gym.spaces.Box(np.float32([-1, -2]), np.float32([1, 2])),
        gym.spaces.Box(-2, 2, (), np.float32),
        gym.spaces.Box(0, 255, (2, 3, 3), np.uint8),
        gym.spaces.Discrete(5, start=2),
        gym.spaces.Dict({"a": gym.spaces.Discrete(2)}),
    ],
)
def test_spaces_come_back_exactly(space, protocol):
    found = pickled_space(read_pickle(pickle.dumps(space, protocol), "it"))
    expected = space_of(space)
    assert found.difference(expected) is None
    assert (found.kind, str(found)) == (expected.kind, str(expected))
    if expected.low is not None:
        assert found.low.dtype == expected.low.dtype


def test_spaces_that_differ_say_where():
    a, b = space_of(gym.spaces.Box(-1, 1, (3,))), space_of(gym.spaces.Box(np.float32([-1, -2, -1]), np.float32([1, 1, 1])))
    assert a.difference(b) == "limits of element 1, -1..1 and -2..1"
    assert a.difference(space_of(gym.spaces.Box(-1, 1, (4,)))) == "shape (3,) and (4,)"
    assert a.difference(space_of(gym.spaces.Discrete(3))) == "Box(3,) and Discrete(3)"


@given(st.sampled_from(["<f4", ">f4", "<f8", "<i8", "|u1", "|b1"]), st.lists(st.integers(0, 3), max_size=3), st.booleans())
def test_arrays_come_back_exactly(dtype, shape, fortran):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = np.asfortranarray(array) if fortran else array
    for protocol in (0, 2, 5):
        found = array_of(read_pickle(pickle.dumps(array, protocol), "it"))
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype.newbyteorder("=")


class Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("function", [open, exec, eval, __import__])
def test_no_function_is_called(tmp_path, function):
    made = read_pickle(pickle.dumps(Reduced(function, (str(tmp_path / "made"), "w"))), "it")
    assert path_of(made).endswith(function.__name__)
    assert made.args == (str(tmp_path / "made"), "w")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1 << 43,), (-1,), (2, 1 << 60), ("2",), None])
def test_a_false_shape_is_refused_before_memory_is_taken(shape):
    read = read_pickle(pickle.dumps(np.zeros(2)), "it")
    if read.args and len(read.args) == 4:  # numpy's _frombuffer
        read.args = (read.args[0], read.args[1], shape, read.args[3])
    else:
        read.state = (read.state[0], shape, *read.state[2:])
    with pytest.raises(ValueError, match="shape"):
        array_of(read)


def test_an_array_of_objects_is_refused():
    with pytest.raises(ValueError, match=r"not read|no numpy type"):
        array_of(read_pickle(pickle.dumps(np.array([{}], object)), "it"))


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_or_harmless(data):
    with contextlib.suppress(CheckpointError):
        read_pickle(data, "it")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_altered_pickles_are_refused_or_harmless(data):
    whole = bytearray(pickle.dumps(gym.spaces.Box(-1, 1, (3,))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError, ValueError, TypeError):
        pickled_space(read_pickle(bytes(whole), "it"))


def test_a_class_whose_code_is_in_the_file_is_named_and_not_made():
    cloudpickle = pytest.importorskip("cloudpickle")

    class Mine:
        evidence = 1

    found = read_pickle(cloudpickle.dumps([Mine, Mine()]), "it")
    assert [path_of(each) for each in found] == ["Mine, a class whose code is in the file"] * 2
    assert not hasattr(found[1], "evidence")


def test_references_out_of_the_file_are_refused():
    assert any(op.name == "PERSID" for op, _, _ in pickletools.genops(b"Pname\n."))
    with pytest.raises(CheckpointError):
        read_pickle(b"Pname\n.", "it")
