"""Asynchronous reinforcement learning for vision-language-action robot policies.

    import rlvla3

    run = rlvla3.train("recipes/cartpole.yaml", {"training.updates": 20})
    print(run.metrics["mean_return"])
    action_chunk = run.policy().act(observation)

docs/python.md explains all names that `rlvla3.__all__` lists.

Invariant: this import stays light. Every worker process imports `rlvla3` when it starts, and the command line answers at once. So a name is imported from its
module when it is first used, and torch only where a policy is built.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlvla3.version import __version__

if TYPE_CHECKING:
    from rlvla3.api.policy import LoadedPolicy, load_policy
    from rlvla3.api.recipes import load_recipe
    from rlvla3.api.run import Evaluation, Run
    from rlvla3.api.running import clone, evaluate, record, train
    from rlvla3.config import Recipe
    from rlvla3.errors import ExplainedError, RecipeError, WorkerError
    from rlvla3.observability.run_directory import RunDirectoryError
    from rlvla3.types import Observation

__all__ = [
    "Evaluation",
    "ExplainedError",
    "LoadedPolicy",
    "Observation",
    "Recipe",
    "RecipeError",
    "Run",
    "RunDirectoryError",
    "WorkerError",
    "__version__",
    "clone",
    "evaluate",
    "load_policy",
    "load_recipe",
    "record",
    "train",
]

_MODULES = {
    "Evaluation": "rlvla3.api.run",
    "ExplainedError": "rlvla3.errors",
    "LoadedPolicy": "rlvla3.api.policy",
    "Observation": "rlvla3.types",
    "Recipe": "rlvla3.config",
    "RecipeError": "rlvla3.errors",
    "Run": "rlvla3.api.run",
    "RunDirectoryError": "rlvla3.observability.run_directory",
    "WorkerError": "rlvla3.errors",
    "clone": "rlvla3.api.running",
    "evaluate": "rlvla3.api.running",
    "load_policy": "rlvla3.api.policy",
    "load_recipe": "rlvla3.api.recipes",
    "record": "rlvla3.api.running",
    "train": "rlvla3.api.running",
}
"""Where each name of the API is defined."""


if not TYPE_CHECKING:  # or a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        """Import a name of the API when it is first used."""
        if name not in _MODULES:
            raise AttributeError(f"module 'rlvla3' has no attribute {name!r}: it offers {', '.join(__all__)}")
        found = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
