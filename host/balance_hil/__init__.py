"""Train a policy, run it on a microcontroller, and prove that the board computes what the desktop computes.

    import balance_hil as hil

    bundle = hil.Bundle.load("ppo")
    with hil.connect("native", bundle) as board:
        print(hil.run(board, bundle, hil.RunConfig(seeds=[1], clock="lockstep")).verdict.line)

Every name is imported when it is first used. The environments are registered as soon as Gymnasium is imported, before or after
this module: ``gymnasium.make("balance_hil:balance/Balance-v0")``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balance_hil.boards import Board as Board
    from balance_hil.boards import connect as connect
    from balance_hil.bundle import Bundle as Bundle
    from balance_hil.comparing.compare import compare as compare
    from balance_hil.environment import open_environment as open_environment
    from balance_hil.errors import HarnessError as HarnessError
    from balance_hil.recording import Recording as Recording
    from balance_hil.running import RunConfig as RunConfig
    from balance_hil.running.run import run as run
    from balance_hil.runtimes import load_runtime as runtime

__version__ = "0.1.0"
_MODULES = {
    "Board": "boards",
    "Bundle": "bundle",
    "HarnessError": "errors",
    "Recording": "recording",
    "RunConfig": "running",
    "compare": "comparing.compare",
    "connect": "boards",
    "open_environment": "environment",
    "run": "running",
    "runtime": "runtimes",
}
__all__ = [
    "Board",
    "Bundle",
    "HarnessError",
    "Recording",
    "RunConfig",
    "compare",
    "connect",
    "open_environment",
    "run",
    "runtime",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'balance_hil' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"balance_hil.{_MODULES[name]}"), "load_runtime" if name == "runtime" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _RegisterWithGymnasium:
    """Registers the environments when Gymnasium is imported later: importing it here would take every program 0.1 s."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Gymnasium's own spec, whose loader registers the environments at its end; None for every other module."""
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("balance_hil.envs")

        spec.loader.__dict__["exec_module"] = exec_module  # of this one loader
        return spec


if "gymnasium" in sys.modules:
    importlib.import_module("balance_hil.envs")
else:
    sys.meta_path.insert(0, _RegisterWithGymnasium())
