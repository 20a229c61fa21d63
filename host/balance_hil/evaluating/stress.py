"""Stresses: named sets of options under which policies are compared. The shipped ones are in ``stresses.yaml``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from balance_hil.envs.balance.options import RobotOptions, options_from_dict
from balance_hil.errors import ConfigError, require

SHIPPED = "stresses.yaml"
_KEYS = ("title", "options", "together")
_HINT = f"compare with the shipped one, evaluating/{SHIPPED}"


@dataclass(frozen=True)
class Stress:
    """One row of the table."""

    name: str
    title: str
    options: RobotOptions


def load_stresses(path: Path | None = None) -> tuple[Stress, ...]:
    """The stresses of a YAML file, in its order; by default the shipped ones.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or stress, or options that are none.
        MissingExtraError: PyYAML is not installed.
    """
    require("yaml", "train")
    import yaml

    name = SHIPPED if path is None else str(path)
    try:
        source = resources.files("balance_hil.evaluating") / SHIPPED if path is None else path
        values = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read the stresses {name}: {exc}", "check the path given to --stresses") from exc
    except yaml.YAMLError as exc:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(exc).split())}", _HINT) from exc
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{name} is no table of stresses", _HINT)
    return stresses_from_dict(values, name)


def stresses_from_dict(values: Mapping[str, Any], name: str = "stresses") -> tuple[Stress, ...]:
    """Stresses from plain types. Raises ConfigError, naming stress and key."""
    for key, content in values.items():
        if not isinstance(content, Mapping):
            raise ConfigError(f"the stress {key!r} of {name} is {content!r}, it must be a table of keys and values", _HINT)
        for inner in content:
            _check_known(inner, _KEYS, f"key {inner!r} of the stress {key!r} in {name}")
        if ("options" in content) == ("together" in content):
            raise ConfigError(f"the stress {key!r} of {name} needs either 'options' or 'together'", _HINT)
    return tuple(
        Stress(
            str(key),
            str(content.get("title", key)),
            options_from_dict(_options(values, key, name), name=f"the stress {key!r} of {name}"),
        )
        for key, content in values.items()
    )


def _options(values: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    content = values[key]
    if "options" in content:
        options = content["options"] or {}
        if not isinstance(options, Mapping):
            raise ConfigError(f"the options of the stress {key!r} of {name} are {options!r}, they must be a table", _HINT)
        return dict(options)
    joined: dict[str, Any] = {}
    for part in content["together"] or ():
        _check_known(part, tuple(values), f"stress {part!r} in {key!r} of {name}")
        if "options" not in values[part]:
            raise ConfigError(f"the stress {key!r} of {name} joins {part!r}, which itself joins others", "name those instead")
        for group, quantities in _options(values, part, name).items():
            joined[group] = {**joined.get(group, {}), **quantities} if isinstance(quantities, Mapping) else quantities
    return joined


def _check_known(key: Any, known: tuple[str, ...], what: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(str(key), known, n=1)
        raise ConfigError(f"unknown {what}" + (f", did you mean {near[0]!r}?" if near else ""), f"known are: {', '.join(known)}")
