"""``hil train --tune N``: a search for hyper-parameters, whose best trial is judged on episodes that it never saw."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from balance_hil.cli.console import make_table, print_json, print_warning, say, stdout
from balance_hil.cli.progress import CampaignBar
from balance_hil.errors import HarnessError, TrainingError, UsageError
from balance_hil.evaluating.robustness import Condition, load_suite
from balance_hil.evaluating.robustness_run import RobustnessConfig, policy_name, run_suite
from balance_hil.evaluating.robustness_table import RobustnessTable
from balance_hil.farm.campaign import Campaign, Task, content_hash
from balance_hil.files import locked, require_known, write_atomically
from balance_hil.settings import merged
from balance_hil.training import train
from balance_hil.training.algorithms import ALGORITHMS
from balance_hil.training.config import find_config, folders_of, read_layers
from balance_hil.training.plan import open_requested, plan
from balance_hil.training.request import TrainingRequest
from balance_hil.training.tuning import (
    FAILED,
    JUDGE_SEED_BASE,
    SEARCH_SEED_BASE,
    STUDY,
    Search,
    Study,
    Trial,
    objective,
    read_search,
    value_at,
)  # fmt: skip

SPACE = "-space"  # what the name of a file for --space ends in that belongs to a file for --config
TASKS = "tasks"
TRIAL = "trial-"


def tune(
    request: TrainingRequest, trials: int, space: Path | None, folder: Path, campaign: Campaign, *, as_json: bool
) -> NoReturn:
    """Runs the trials that are missing in ``folder``, judges the best one, prints, and exits.

    Exit status: 0 when the best trial is not worse than the settings it started from on the unseen episodes, 1 otherwise.
    """
    if request.algorithm not in ALGORITHMS:
        raise UsageError(f"{request.algorithm} is computed, not learned: there is nothing to tune", "hil train ppo --tune 20")
    if request.resume is not None and not (folder / STUDY).is_file():
        raise UsageError(f"{folder} is not the folder of a study", "name one of runs/: --resume runs/tune_1")
    request = replace(request, resume=None, force=True, output=folder / "trial", runs=folder / "runs").absolute()
    plan(request)  # raises the user's mistakes before anything starts
    with open_requested(request) as environment:
        folders, metrics = folders_of(environment), environment.metrics
        suite = getattr(environment.env.unwrapped, "robustness_suite", None)
    search = read_search(space or _shipped_space(request, folders))
    if search.against_start and request.init_from is None:
        raise UsageError("the file for --space compares with a policy to start from", "name it: --init-from models/lqr")
    if search.against_start and request.init_from and policy_name(request.init_from).startswith(TRIAL):
        raise UsageError(f"{request.init_from} has the name of a trial", "copy it to a folder of another name")
    settings = read_layers(request.algorithm, folders, request.config)
    options = request.read_options()
    conditions = load_suite(Path(suite)) if suite else (Condition("as it is", "as it is", {}),)
    conditions = tuple(replace(each, options=merged(options, each.options)) for each in conditions)
    for name in search.conditions:
        require_known(name, [each.name for each in conditions], "condition", " in the file for --space")
    for name in search.objective:
        require_known(name, [FAILED, *(metric.name for metric in metrics)], "metric", " in the file for --space")
    about = {
        "configuration": settings,
        "policy to start from": content_hash(request.init_from) if request.init_from else None,
        "training": [request.algorithm, request.environment, request.steps, options, request.period_s, request.terminated,
                     request.normalize_observations],
    }  # fmt: skip
    first = {}
    for name in search.space:
        try:
            first[name] = value_at(settings, name)
        except KeyError:  # not set where the search starts
            continue
    (folder / TASKS).mkdir(parents=True, exist_ok=True)
    with locked(folder / TASKS) as ours:  # saving a policy locks the folder itself
        if not ours:
            raise UsageError(f"another command works in {folder}", "wait for it, or search in another folder: leave out --resume")
        study = Study(folder, search, about, request.seed or 0, first)
        chosen = tuple(each for each in conditions if not search.conditions or each.name in search.conditions)
        better = {metric.name: metric.better for metric in metrics}
        start: list[dict[str, Any]] = []
        if search.against_start and request.init_from:
            say(f"evaluating {request.init_from.name}, which the trials are compared with")
            seeds = range(SEARCH_SEED_BASE, SEARCH_SEED_BASE + search.episodes)
            start = _plain(_table((request.init_from,), chosen, seeds, search.episode_steps, campaign))
        _search(study, trials, request, settings, search, chosen, better, campaign, about, start)
        best = study.best()
        if best is None:
            raise TrainingError("no trial could be trained", f"look at the reasons in {folder / TASKS}")
        say(f"judging trial {best.number} on {search.judge_episodes} unseen episodes of each condition")
        judged = _judge(folder, {0, best.number}, search, conditions, campaign, request.init_from)
    _finish(folder, study, search, best, judged, better, as_json=as_json)


def _shipped_space(request: TrainingRequest, folders: Sequence[Path]) -> Path:
    name = f"{request.config.name if request.config else request.algorithm}{SPACE}"
    found = find_config(name, folders)
    if found is None:
        raise UsageError(f"there is no search space {name}.yaml for {request.environment}", "write one: --space FILE.yaml")
    return found


def _search(
    study: Study, trials: int, request: TrainingRequest, settings: Mapping[str, Any], search: Search,
    conditions: tuple[Condition, ...], better: Mapping[str, str], campaign: Campaign, about: Mapping[str, Any],
    start: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    with CampaignBar() as bar:
        while waiting := study.next_trials(trials):
            tasks = [_task(trial, request, settings, search, conditions, about) for trial in waiting]
            by_name = {task.name: trial for task, trial in zip(tasks, waiting, strict=True)}
            _show(bar, study, trials)
            for task, result in campaign.run(run_trial, tasks):
                trial = by_name[task.name]
                study.tell(trial, objective(search, better, result["cells"], start) if result["cells"] else None)
                if result["reason"]:
                    print_warning(f"trial {trial.number} failed: {result['reason']}")
                _show(bar, study, trials)


def _show(bar: CampaignBar, study: Study, trials: int) -> None:
    done, best = sum(trial.state != "running" for trial in study.trials()), study.best()
    bar(
        min(done / trials, 1.0),
        f"{done} of {trials} trials" + (f", best: trial {best.number}, {best.objective:.4g}" if best else ""),
    )


def _task(
    trial: Trial, request: TrainingRequest, settings: Mapping[str, Any], search: Search,
    conditions: tuple[Condition, ...], about: Mapping[str, Any],
) -> Task:  # fmt: skip
    """The training of a trial as a task; its settings are beside its policy, as a file for --config."""
    own = merged(settings, trial.settings())
    folder = request.output.parent / f"{TRIAL}{trial.number}"
    config = folder.with_suffix(".yaml")
    # Through JSON: a tuple or a number of numpy would be written with a tag.
    write_atomically(config, yaml.safe_dump(json.loads(json.dumps(own)), sort_keys=False))
    trained = merged(own, search.trial)
    seeds = range(SEARCH_SEED_BASE, SEARCH_SEED_BASE + search.episodes)
    asked = replace(request, output=folder, config=None)
    tested = {each.name: dict(each.options) for each in conditions}
    depends_on = {"settings": trained, "about": dict(about), "conditions": tested, "search": vars(search)}
    return Task(folder.name, (asked, trained, conditions, seeds, search.episode_steps), depends_on)


def run_trial(
    request: TrainingRequest, settings: Mapping[str, Any], conditions: tuple[Condition, ...], seeds: range, steps: int | None
) -> dict[str, Any]:
    """Trains and evaluates one trial, in a worker: the cells of its robustness table, or none and the reason."""
    config = request.output.with_suffix(".trained.yaml")
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config, yaml.safe_dump(json.loads(json.dumps(dict(settings))), sort_keys=False))
        if train(replace(request, config=config)).interrupted:
            raise KeyboardInterrupt
    except HarnessError as exc:
        return {"cells": [], "reason": exc.message}
    table = _table((request.output,), conditions, seeds, steps, Campaign(jobs=1))
    return {"cells": _plain(table), "reason": ""}


def _judge(
    folder: Path, numbers: set[int], search: Search, conditions: tuple[Condition, ...], campaign: Campaign, start: Path | None
) -> RobustnessTable:
    policies = tuple(folder.absolute() / f"{TRIAL}{number}" for number in sorted(numbers))
    present = tuple(policy for policy in policies if (policy / "policy.zip").is_file())
    if policies[-1] not in present:
        raise UsageError(
            f"the policy of the best trial is not in {policies[-1]}", "let the workers of the cluster share this folder with it"
        )
    seeds = range(JUDGE_SEED_BASE, JUDGE_SEED_BASE + search.judge_episodes)
    compared = (start,) if search.against_start and start else ()
    return _table((*compared, *present), conditions, seeds, search.episode_steps, campaign)


def _table(
    policies: tuple[Path, ...], conditions: tuple[Condition, ...], seeds: range, steps: int | None, campaign: Campaign
) -> RobustnessTable:
    config = RobustnessConfig(
        policies=policies, conditions=conditions, runtime="torch", environment=None, seeds=seeds, max_steps=steps
    )
    return run_suite(config, campaign=campaign)


def _plain(table: RobustnessTable, policy: str | None = None) -> list[dict[str, Any]]:
    """The cells of one policy, by default of all."""
    return [cell.to_dict() for cell in table.cells() if policy in (None, cell.policy)]


def _finish(
    folder: Path, study: Study, search: Search, best: Trial, judged: RobustnessTable, better: Mapping[str, str], *, as_json: bool
) -> NoReturn:
    start = _plain(judged, judged.policies[0].name)  # counts only with against_start, where it is the one started from
    values = {policy.name: objective(search, better, _plain(judged, policy.name), start) for policy in judged.policies}
    document = {
        "schema": "balance_hil/train-tune@2",
        "study": str(folder / STUDY),
        "trials": [vars(trial) for trial in study.trials()],
        "best": vars(best),
        "config": str(folder / f"{TRIAL}{best.number}.yaml"),
        "judged": {"objective": values, **judged.to_dict()},
    }
    write_atomically(folder / "results.json", json.dumps(document, indent=2) + "\n")
    write_atomically(folder / "results.md", judged.to_markdown() + "\n")
    if as_json:
        print_json(document)
    else:
        table = make_table(">trial", ">objective", "settings")
        for trial in sorted(study.trials(), key=lambda each: (each.objective is None, each.objective))[:10]:
            what = ", ".join(f"{name} {_number(value)}" for name, value in trial.values.items())
            table.add_row(str(trial.number), trial.state if trial.objective is None else f"{trial.objective:.4g}", what)
        stdout.print(table)
        stdout.print(judged.to_markdown(), soft_wrap=True, markup=False)
    say("objective on the unseen episodes: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
    say(f"wrote {folder / 'results.md'}, {folder / 'results.json'} and the settings {document['config']}")
    mine, first = values[f"{TRIAL}{best.number}"], values.get(f"{TRIAL}0")
    if first is not None and mine > first:
        print_warning("the best trial of the search is worse than the first one on unseen episodes: search with more episodes")
        sys.exit(1)
    sys.exit(0)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
