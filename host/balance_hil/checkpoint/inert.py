"""Reads a pickle without running anything that it names: no import, no constructor, no function.

Every class and function that a pickle names becomes a stand-in that stores its name and arguments. What comes out
is data to look at; ``array_of`` and ``dtype_of`` turn numpy's part of it into arrays.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balance_hil.errors import CheckpointError

MAX_BYTES = 64 << 20  # of one pickle
MAX_CODES, MAX_TUPLES, MAX_NAMES = 250_000, 10_000, 1000  # tuples: nested, they are hashed and printed by recursion
_ARRAY = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_BY_VALUE = ("_make_skeleton_class", "_make_skeleton_enum")  # cloudpickle: a class whose code is in the pickle itself


class Inert:
    """Stands for an object of a class that was not imported, or for what a function that was not called would have returned.

    ``path`` is the full name of the class or function; ``args`` what it was called with; ``state`` what was set afterwards.
    """

    path = ""

    args: tuple[Any, ...]
    state: Any
    items: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Takes any arguments: what the class would do with them is not known."""
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """A method, or a function that is pickled by value."""
        return Inert(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """What a list-like class is given."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """What a list-like class is given."""
        self.items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    @property
    def fields(self) -> Mapping[str, Any]:
        """Attributes of the object, as far as its pickle sets them by name."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {str(k): v for part in parts if isinstance(part, dict) for k, v in part.items()}


def _latin1(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("_codecs.encode of something else than latin-1 text")
    return text.encode("latin1")


def _reconstructor(made: Any, *rest: Any) -> Any:
    """How protocols 0 and 1 create an object of a class."""
    if not (isinstance(made, type) and issubclass(made, Inert)):
        raise pickle.UnpicklingError("an object of no class")
    return made()


def _skeleton(constructor: Any = None, name: Any = "?", *rest: Any) -> type[Inert]:
    return type("Stand-in", (Inert,), {"path": f"{name}, a class whose code is in the file"})


class _InertUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._known: dict[str, Any] = {"collections.OrderedDict": OrderedDict, "_codecs.encode": _latin1}
        self._known |= dict.fromkeys(("__builtin__.bytes", "builtins.bytes"), lambda: b"")  # how protocols 0 to 2 write b""
        self._known |= dict.fromkeys(("copy_reg._reconstructor", "copyreg._reconstructor"), _reconstructor)

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if name in _BY_VALUE:
            return _skeleton
        if path not in self._known:
            self._known[path] = type("Stand-in", (Inert,), {"path": path})
        return self._known[path]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside the file")


def read_pickle(data: bytes, what: str) -> Any:
    """The content of a pickle, with ``Inert`` in the place of everything that would need code.

    Raises:
        CheckpointError: more than 64 MiB, cut off or no pickle.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{what} is {len(data)} bytes long; at most {MAX_BYTES} are read", "save it without its buffers")
    try:
        _check_codes(data)
        return _InertUnpickler(data).load()
    except Exception as exc:  # pickle raises whatever the stand-ins and the garbled bytes lead to
        reason = str(exc) or type(exc).__name__
        raise CheckpointError(
            f"{what} is not a readable pickle: {reason}", "save it again with the program that made it"
        ) from exc


def _check_codes(data: bytes) -> None:
    """Raises for a pickle whose small code makes large or deep objects, before it is run."""
    tuples = names = 0
    for number, (code, argument, _) in enumerate(pickletools.genops(data)):
        tuples += "TUPLE" in code.name
        names += code.name in ("GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "NEWOBJ", "NEWOBJ_EX")
        if number >= MAX_CODES or tuples > MAX_TUPLES or names > MAX_NAMES:
            raise pickle.UnpicklingError("it has more parts than the settings and statistics of a policy")
        if "PUT" in code.name and int(argument or 0) > len(data):  # the unpickler makes room for as many
            raise pickle.UnpicklingError("it numbers its parts too high")


def path_of(value: Any) -> str:
    """Full name of a class or function that a pickle names, or of the class of an object; "" for plain data."""
    is_stand_in = isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert))
    return str(value.path) if is_stand_in else ""


def dtype_of(value: Any) -> np.dtype[Any]:
    """The numpy type that a stand-in means: numbers and booleans only. Raises ValueError."""
    if isinstance(value, type) and issubclass(value, Inert) and value.path.startswith("numpy."):
        code, swapped = value.path.rpartition(".")[2], False
    elif isinstance(value, Inert) and value.path == "numpy.dtype" and value.args and isinstance(value.args[0], str):
        code = value.args[0]
        state = value.state
        swapped = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
    else:
        raise ValueError("no numpy type")
    try:
        dtype = np.dtype(code).newbyteorder(">" if swapped else "<")
    except TypeError as exc:
        raise ValueError(f"no numpy type: {code!r}") from exc
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise ValueError(f"arrays of {dtype} are not read")
    return dtype


def array_of(value: Any) -> NDArray[Any]:
    """The array or number that a stand-in, a list or a plain number means. Raises ValueError."""
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if isinstance(value, list | tuple) and all(isinstance(v, bool | int | float) for v in value):
        return np.asarray(value)
    if not isinstance(value, Inert):
        raise ValueError("no array")
    if value.path in _ARRAY and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, fortran, raw = value.state
        order = "F" if fortran else "C"
    elif value.path in _BUFFER and len(value.args) == 4:
        raw, dtype, shape, order = value.args
    elif value.path in _SCALAR and len(value.args) == 2:
        dtype, raw = value.args
        shape, order = (), "C"
    else:
        raise ValueError(f"no array: {value.path or 'an object'}")
    if isinstance(raw, str):  # written by Python 2
        raw = raw.encode("latin1")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"no shape: {shape!r}")
    kind = dtype_of(dtype)
    if not isinstance(raw, bytes | bytearray) or len(raw) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"an array of shape {shape} whose data do not fill it")
    array = np.frombuffer(bytes(raw), kind).reshape(shape, order="F" if order == "F" else "C")
    return array.astype(kind.newbyteorder("="))
