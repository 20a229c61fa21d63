"""Settings: frozen dataclasses from plain tables. An unknown key, a wrong type or range is an error that names it."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from balance_hil.errors import ConfigError
from balance_hil.files import require_known

S = TypeVar("S")
_KINDS = {int: "a whole number", bool: "true or false", str: "text", float: "a number", dict: "a table of keys and values"}


def number(low: float = -math.inf, high: float = math.inf, default: Any = MISSING) -> Any:
    """A field of ``Settings`` whose number, or each of whose numbers, lies within ``low``..``high``."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base class: checks the ranges that ``number`` declares. Raises ConfigError."""

    def __post_init__(self) -> None:
        for each in fields(self):
            low, high = each.metadata.get("range", (-math.inf, math.inf))
            value = getattr(self, each.name)
            for one in value if isinstance(value, tuple) else (value,):
                if "range" in each.metadata and one is not None and not low <= one <= high:
                    wanted = f"{low:g} or more" if high == math.inf else f"within {low:g}..{high:g}"
                    raise refused(each.name, value, f"be {wanted}")


def refused(name: str, value: Any, wanted: str) -> ConfigError:
    """The error of a setting that must do something else: ``wanted`` completes "it must ..."."""
    return ConfigError(f"hyper-parameter {name!r} is {value!r}, it must {wanted}", "correct the file given to --config")


def merged(base: Mapping[str, Any], *more: Mapping[str, Any] | None) -> dict[str, Any]:
    """``base`` with what each of ``more`` names in its place, tables within tables as well."""
    result = dict(base)
    for table in more:
        for key, value in (table or {}).items():
            nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if nested else value
    return result


def settings_from_dict(kind: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """Makes ``kind``, a dataclass, from plain types. Raises ConfigError, naming the key."""
    made: Any = kind
    hints = typing.get_type_hints(made)
    names = [each.name for each in fields(made)]
    for key in values:
        require_known(key, names, "hyper-parameter", prefix=prefix)
    for each in fields(made):
        if each.name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"hyper-parameter {prefix + each.name!r} is missing", "give it in the file for --config")
    result: S = made(**{name: _convert(hints[name], values[name], prefix + name) for name in names if name in values})
    return result


def _convert(kind: Any, value: Any, key: str) -> Any:
    if isinstance(kind, types.UnionType):
        kinds = [each for each in typing.get_args(kind) if each is not types.NoneType]
        return None if value is None else _convert(kinds[0], value, key)
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise refused(key, value, "be a table of keys and values")
        return settings_from_dict(typing.cast(type[Any], kind), value, f"{key}.")
    origin = typing.get_origin(kind) or kind
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise refused(key, value, "be a list")
        return tuple(_convert(typing.get_args(kind)[0], item, key) for item in value)
    if origin is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-3, without a point, as text
        except (TypeError, ValueError):
            raise refused(key, value, "be a number") from None
    if type(value) is not origin:
        raise refused(key, value, f"be {_KINDS[origin]}")
    return value
