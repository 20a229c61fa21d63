"""The robustness suite: named environment options under which policies are compared.

An environment may provide its own suite: attribute ``robustness_suite``, the path of a YAML file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balance_hil.bundle import MANIFEST, Bundle
from balance_hil.environment import open_environment, open_for
from balance_hil.envs import DEFAULT_ENVIRONMENT
from balance_hil.errors import ConfigError, UsageError
from balance_hil.files import read_yaml, require_known

_KEYS = ("title", "options", "together")
_HINT = "the form is: NAME: {title: ..., options: {...}}; docs/robustness.md has an example"


@dataclass(frozen=True)
class Condition:
    """One row of the table."""

    name: str
    title: str
    options: Mapping[str, Any]


def load_suite(path: Path) -> tuple[Condition, ...]:
    """The conditions of a YAML file, in its order.

    Raises:
        ConfigError: no such file, not YAML, an unknown key or condition.
    """
    values = read_yaml(path)
    if not values:
        raise ConfigError(f"{path} is not a table of conditions", _HINT)
    return suite_from_dict(values, str(path))


def own_suite(policy: Path, environment: str | None) -> tuple[Condition, ...]:
    """The suite that the environment provides: ``environment``, or the one that ``policy``, a bundle's folder, was made for.

    Raises:
        UsageError: it provides none.
        What ``Bundle.load`` and ``open_environment`` raise.
    """
    made_for = Bundle.load(policy).spec if (policy / MANIFEST).is_file() else None
    with open_for(made_for, environment) if made_for else open_environment(environment or DEFAULT_ENVIRONMENT) as env:
        path = getattr(env.env.unwrapped, "robustness_suite", None)
    if path is None:
        raise UsageError(f"{env.spec.environment} has no robustness suite", "name one: --suite conditions.yaml")
    return load_suite(Path(path))


def suite_from_dict(values: Mapping[str, Any], name: str = "conditions") -> tuple[Condition, ...]:
    """Conditions from plain types. Raises ConfigError, naming condition and key."""
    for key, content in values.items():
        if not isinstance(content, Mapping):
            raise ConfigError(f"the condition {key!r} of {name} is {content!r}, it must be a table of keys and values", _HINT)
        for inner in content:
            require_known(inner, _KEYS, "key", f" of the condition {key!r} in {name}")
        if ("options" in content) == ("together" in content):
            raise ConfigError(f"the condition {key!r} of {name} needs either 'options' or 'together'", _HINT)
    return tuple(
        Condition(str(key), str(content.get("title", key)), _options(values, key, name)) for key, content in values.items()
    )


def _options(values: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    content = values[key]
    if "options" in content:
        options = content["options"] or {}
        if not isinstance(options, Mapping):
            raise ConfigError(f"the options of the condition {key!r} of {name} are {options!r}, they must be a table", _HINT)
        return dict(options)
    joined: dict[str, Any] = {}
    parts = content["together"] or ()
    if not isinstance(parts, Sequence) or isinstance(parts, str):
        raise ConfigError(f"'together' of the condition {key!r} of {name} must be a list of conditions", _HINT)
    for part in parts:
        require_known(part, values, "condition", f" in {key!r} of {name}")
        if "options" not in values[part]:
            raise ConfigError(f"the condition {key!r} of {name} joins {part!r}, which itself joins others", "name those instead")
        for group, quantities in _options(values, part, name).items():
            before = joined.get(group, {})
            mergeable = isinstance(quantities, Mapping) and isinstance(before, Mapping)
            joined[group] = {**before, **quantities} if mergeable else quantities
    return joined
