"""From a recipe's `runtime` setting to the runtime. Ray is imported only if it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlvla3.config import Recipe
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_record import RunRecord
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.runtimes.runtime import Runtime


def make_runtime(
    recipe: Recipe,
    run: RunDirectory,
    *,
    capacity: int,
    beside: int = 0,
    notify: Callable[[str], None],
    trainer: bool = True,
    resume: Path | None = None,
    record: RunRecord | None = None,
) -> Runtime:
    """The runtime that `recipe` asks for. Parameters as in LocalRuntime. Only a local run is recorded."""
    if recipe.runtime == "local":
        return LocalRuntime(recipe, run, capacity=capacity, beside=beside, notify=notify, trainer=trainer, resume=resume, record=record)
    from rlvla3.runtimes.ray.runtime import RayRuntime

    return RayRuntime(recipe, run, capacity=capacity, beside=beside, notify=notify, trainer=trainer, resume=resume)
