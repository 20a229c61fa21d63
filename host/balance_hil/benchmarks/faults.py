"""Policies under injected faults, on the native board in simulated time: survival and metrics against the rate of each fault.

Every policy runs the same episodes under every condition; the faults of an episode have its seed. See docs/faults.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from balance_hil.boards import connect
from balance_hil.bundle import Bundle
from balance_hil.environment import require_control_steps
from balance_hil.evaluating.robustness import Condition
from balance_hil.evaluating.robustness_run import RobustnessConfig, Work, policy_name, require_names, run_work
from balance_hil.evaluating.robustness_table import RobustnessTable, SuitePolicy
from balance_hil.farm.campaign import HERE, Campaign
from balance_hil.metrics import EpisodeMetrics
from balance_hil.running import RunConfig, open_plant, run

BOARD, ENGINE = "native", "int8"
_BATCH = 4  # episodes of one piece of work
_UNLIMITED = 10**9


@dataclass(frozen=True)
class Axis:
    """One kind of fault with growing severity; the condition "none" is the origin of all of them."""

    title: str
    fault: str  # with {} for the value
    values: tuple[float, ...]
    shown: str  # a value with its unit
    scale: float = 1.0  # from a value to what is shown

    def conditions(self) -> list[Condition]:
        """One for each value."""
        return [
            Condition(fault, f"{self.title} {self.shown.format(value * self.scale)}", {"faults": [fault]})
            for value, fault in ((value, self.fault.format(value)) for value in self.values)
        ]


NONE = Condition("none", "no faults", {"faults": []})
AXES = (
    Axis("byte error rate", "corrupt-byte:rate={}", (1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.03), "{:g}"),
    Axis("lost replies", "drop:rate={},direction=rx", (0.05, 0.2, 0.5, 0.8), "{:g} %", 100),
    Axis("added latency", "delay:s={},direction=rx", (0.01, 0.03, 0.05, 0.08), "{:g} ms", 1000),
    Axis("reboot of 0.1 s every", "reboot:every_s={},boot_s=0.1", (2.0, 0.5, 0.15), "{:g} s"),
)


def conditions() -> tuple[Condition, ...]:
    """Those of the suite; the faults of each are its ``options``."""
    return (NONE, *(condition for axis in AXES for condition in axis.conditions()))


def run_fault_suite(
    config: RobustnessConfig,
    on_progress: Callable[[float, str], None] = lambda done, what: None,
    campaign: Campaign = HERE,
) -> RobustnessTable:
    """Every policy under every fault of ``config.conditions``, in the same episodes, on the native board.

    ``on_progress`` gets the completed share, 0..1, and the last task.

    Raises:
        UsageError: two policies have one name.
        And what ``Campaign.run``, ``open_plant``, ``connect`` and ``run`` raise.
    """
    require_names(config.policies)
    policies = []
    for path in config.policies:
        bundle = Bundle.load(path)
        with open_plant(bundle, RunConfig(seeds=config.seeds, environment=config.environment, max_steps=config.max_steps)) as env:
            environment, steps = env, require_control_steps(env, config.max_steps)
        policies.append(SuitePolicy(name=policy_name(path), path=str(path), id=bundle.id))
    return RobustnessTable(
        runtime=f"board ({BOARD})",
        environment=environment.spec.environment,
        metrics=environment.metrics,
        max_steps=steps,
        policies=tuple(policies),
        conditions=config.conditions,
        episodes=run_work(_run, config, on_progress, campaign, _BATCH),
    )


def _run(work: Work) -> list[EpisodeMetrics]:
    """Runs in a worker process."""
    bundle = Bundle.load(work.policy)
    config = RunConfig(
        seeds=work.seeds,
        clock="lockstep",
        max_steps=work.config.max_steps,
        environment=work.config.environment,
        max_lost=_UNLIMITED,
        check_tflm=False,
    )
    faults: list[str] = list(work.condition.options["faults"])
    with connect(BOARD, bundle, engine=ENGINE, faults=faults, fault_seed=work.seeds[0]) as board:
        return list(run(board, bundle, config).episodes)
