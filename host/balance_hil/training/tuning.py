"""A search for hyper-parameters with Optuna: what is searched and what counts stand in a YAML file, the study in SQLite.

Trials are chosen ``at_once`` at a time, and each group is finished before the next one is chosen, with a random generator of
its own for each trial. So the study is the same however many processes run it, and however often it was interrupted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from balance_hil import __version__
from balance_hil.errors import ConfigError, UsageError, first_line, require
from balance_hil.files import read_yaml, require_known
from balance_hil.rollout import EVALUATION_SEED_BASE
from balance_hil.settings import Settings, number, settings_from_dict

if TYPE_CHECKING:
    import optuna

SEARCH_SEED_BASE = 3 * EVALUATION_SEED_BASE  # of the episodes that trials are compared in
JUDGE_SEED_BASE = 4 * EVALUATION_SEED_BASE  # of those that the search never saw
STUDY = "study.db"
FAILED = "failed"  # in an objective: the share of the episodes that failed
_NAME = "tune"
_ABOUT = "about"
_HINT = "the form is NAME: {low: 1e-5, high: 1e-3, log: true} or NAME: {choices: [...]}: docs/campaigns.md"


@dataclass(frozen=True, kw_only=True)
class Search(Settings):
    """The contents of a file for ``--space``."""

    space: dict[str, Any]  # by dotted name of a hyper-parameter: a range or choices
    objective: dict[str, Any]  # what is minimized: metric: weight, and ``failed``; summed over the conditions
    against_start: bool = False  # minimize the worst change from the policy of --init-from instead of the sum
    conditions: tuple[str, ...] = ()  # of the robustness suite; none: all of it, or the environment as it is
    episodes: int = number(1, default=25)  # of a trial under each condition
    judge_episodes: int = number(1, default=100)  # of the policies that are judged at the end
    episode_steps: int | None = number(1, default=None)  # control steps of these episodes; None: the environment's own
    at_once: int = number(1, default=2)  # trials that are chosen together, and run side by side
    trial: dict[str, Any] = field(default_factory=dict)  # hyper-parameters that differ in a trial: fewer steps, for example


def read_search(path: Path) -> Search:
    """Raises ConfigError, naming the key: no such file, an unknown key, a wrong value, nothing to search."""
    try:
        search = settings_from_dict(Search, read_yaml(path, _HINT))
    except ConfigError as exc:
        raise ConfigError(
            f"{path}: {exc.message}", "correct the file given to --space; docs/campaigns.md has an example"
        ) from exc
    if not search.space:
        raise ConfigError(f"{path} names nothing to search", _HINT)
    if not search.objective:
        raise ConfigError(f"{path} names nothing to minimize", "name metrics and weights: docs/campaigns.md has an example")
    for name, weight in search.objective.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ConfigError(f"the weight of {name} in the objective of {path} is {weight!r}, it must be a number", _HINT)
    return search


def distributions(space: Mapping[str, Any]) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's, by name. Choices may be any JSON: they are compared as text. Raises ConfigError, MissingExtraError."""
    require("optuna", "farm")
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, Any] = {}
    for name, entry in space.items():
        if not isinstance(entry, Mapping) or not ({"low", "high"} <= set(entry) or "choices" in entry):
            raise ConfigError(f"the range of {name} is {entry!r}", _HINT)
        for key in entry:
            require_known(key, ("choices",) if "choices" in entry else ("low", "high", "log"), "key", f" of {name}")
        try:
            if "choices" in entry:
                made[name] = CategoricalDistribution([json.dumps(choice) for choice in entry["choices"]])
            elif isinstance(entry["low"], int) and isinstance(entry["high"], int):
                made[name] = IntDistribution(entry["low"], entry["high"], bool(entry.get("log", False)))
            else:
                made[name] = FloatDistribution(float(entry["low"]), float(entry["high"]), bool(entry.get("log", False)))
        except (TypeError, ValueError) as exc:
            raise ConfigError(f"the range of {name} is {dict(entry)}: {first_line(exc)}", _HINT) from exc
    return made


@dataclass(frozen=True)
class Trial:
    """One set of hyper-parameters."""

    number: int
    values: Mapping[str, Any]  # by dotted name
    state: str  # "running", "complete", "fail"
    objective: float | None = None  # None: not known, or the training failed

    def settings(self) -> dict[str, Any]:
        """The values as a table within tables, as a file of hyper-parameters has them."""
        nested: dict[str, Any] = {}
        for name, value in self.values.items():
            *parents, last = name.split(".")
            table = nested
            for parent in parents:
                table = table.setdefault(parent, {})
            table[last] = value
        return nested


class Study:
    """An Optuna study in ``folder``, made or continued.

    Args:
        folder: where its file lies.
        search: what is searched.
        about: whatever else the values depend on, as plain JSON types by name; a study of other contents is not continued.
        seed: of the choices.
        first: hyper-parameters that the search starts from, by dotted name; they are the first trial if the space covers them.

    Raises:
        UsageError: the file is damaged, or the study is of something else.
        ConfigError: the space is not one.
        MissingExtraError: Optuna is not installed.
    """

    def __init__(self, folder: Path, search: Search, about: Mapping[str, Any], seed: int, first: Mapping[str, Any]) -> None:
        self._search, self._seed, self._distributions = search, seed, distributions(search.space)
        self._file = folder / STUDY
        from optuna import create_study, logging
        from optuna.storages import RDBStorage
        from sqlalchemy import URL

        logging.set_verbosity(logging.ERROR)
        with self._readable():
            storage = RDBStorage(URL.create("sqlite", database=str(self._file)).render_as_string())
            self._study = create_study(storage=storage, study_name=_NAME, direction="minimize", load_if_exists=True)
            known = self._study.user_attrs.get(_ABOUT)
        mine = {"version of balance_hil": __version__, "search": vars(search), "seed": seed, **about}
        mine = json.loads(json.dumps(mine))
        with self._readable():
            if known is None:
                self._study.set_user_attr(_ABOUT, mine)
            elif different := [name for name in mine if known.get(name) != mine[name]]:
                raise UsageError(
                    f"the study {self._file} was made with another {different[0]}",
                    "repeat its command with --resume and the same version, or start a new study without --resume",
                )
            fits = set(first) == set(self._distributions) and all(map(self._covers, first, first.values()))
            if fits and not self._study.get_trials(deepcopy=False):
                self._study.enqueue_trial({name: self._stored(name, value) for name, value in first.items()})

    def next_trials(self, total: int) -> list[Trial]:
        """The trials that wait for their result: those that were left, or the next ones up to ``total``; empty: all are done."""
        import optuna

        running = [trial for trial in self.trials() if trial.state == "running"]
        asked = sum(each.state != optuna.trial.TrialState.WAITING for each in self._study.get_trials(deepcopy=False))
        # A group of which only a part was chosen before the end of an earlier command is completed first.
        full = -(-asked // self._search.at_once) * self._search.at_once if running else asked + self._search.at_once
        for n in range(asked, min(full, total)):
            with self._readable():
                self._study.sampler = optuna.samplers.TPESampler(
                    seed=int(np.random.SeedSequence([self._seed, n]).generate_state(1)[0])
                )
                self._study.ask(self._distributions)
        return [trial for trial in self.trials() if trial.state == "running"]

    def tell(self, trial: Trial, objective: float | None) -> None:
        """Notes a trial's result; None: its training failed."""
        import optuna

        with self._readable():
            state = optuna.trial.TrialState.FAIL if objective is None else optuna.trial.TrialState.COMPLETE
            self._study.tell(trial.number, objective, state=state)

    def trials(self) -> list[Trial]:
        """Every trial that was chosen."""
        with self._readable():
            found = self._study.get_trials(deepcopy=False)
        return [
            Trial(each.number, {name: self._read(name, value) for name, value in each.params.items()}, each.state.name.lower(),
                  each.value)
            for each in found
            if each.state.name != "WAITING"
        ]  # fmt: skip

    def best(self) -> Trial | None:
        """The trial with the smallest objective, the first of equal ones; None: none was completed."""
        complete = [trial for trial in self.trials() if trial.objective is not None]
        return min(complete, key=lambda trial: (trial.objective, trial.number), default=None)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except UsageError:
            raise
        except (SQLAlchemyError, OptunaError, RuntimeError, KeyError, ValueError) as exc:
            reason = first_line(getattr(exc, "orig", None) or exc.__cause__ or exc)
            raise UsageError(
                f"the study {self._file} cannot be used: {reason}", "start a new one: the same command without --resume"
            ) from exc

    def _covers(self, name: str, value: Any) -> bool:
        entry = self._search.space[name]
        if "choices" in entry:
            return json.dumps(value) in map(json.dumps, entry["choices"])
        return isinstance(value, int | float) and float(entry["low"]) <= value <= float(entry["high"])

    def _stored(self, name: str, value: Any) -> Any:
        return json.dumps(value) if "choices" in self._search.space[name] else value

    def _read(self, name: str, value: Any) -> Any:
        return json.loads(value) if "choices" in self._search.space[name] else value


def value_at(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name in tables within tables. Raises KeyError."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(name)
        value = value[part]
    return value


def objective(
    search: Search, better: Mapping[str, str], cells: Sequence[Mapping[str, Any]], start: Sequence[Mapping[str, Any]] = ()
) -> float:
    """What is minimized, from the cells of a robustness table as plain types.

    Args:
        search: has the weights.
        better: that of each metric.
        cells: of a trial.
        start: those of the policy that the search starts from, for ``against_start``. The result is then the largest weighted
            change from it over conditions and metrics: of a metric in its own size, of ``failed`` in shares. At 0 or less
            the trial is at least as good in all of them.
    """
    signs = {name: -1.0 if which == "higher" else 1.0 for name, which in better.items()}

    def values(cell: Mapping[str, Any]) -> dict[str, float]:
        share = cell["failed"] / cell["episodes"]
        return {name: share if name == FAILED else signs[name] * cell[name] for name in search.objective}

    if not search.against_start:
        return math.fsum(search.objective[name] * value for cell in cells for name, value in values(cell).items())
    before = {cell["condition"]: values(cell) for cell in start}
    changes = []
    for cell in cells:
        for name, value in values(cell).items():
            old = before[cell["condition"]][name]
            changes.append(search.objective[name] * (value - old) / (1.0 if name == FAILED else abs(old) or 1.0))
    return float(np.max(changes))  # unlike max, not a number if one of them is not
