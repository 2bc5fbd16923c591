"""What `rlvla3 check` does with simulators."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvla3.checking.evidence import Evidence, Examination
from rlvla3.checking.findings_report import as_json, lines, total, write_frames
from rlvla3.checking.simulator_process import SimulatorProcess, limit_of
from rlvla3.checking.specification import run_checks
from rlvla3.config import SimulatorConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.progress_line import progress
from rlvla3.simulators.description import described
from rlvla3.simulators.drawing import place_simulator


def simulator_config(name: str, settings: Sequence[str], chunk: int) -> SimulatorConfig:
    """The config of the simulator `name`. settings: as in a recipe's simulator section, such as options.image_size=64. Raises RecipeError if one is wrong."""
    for setting in settings:
        if setting.startswith("simulator."):
            raise RecipeError(f"{setting}: with --simulator, a setting has no `simulator.` in front: write {setting.removeprefix('simulator.')}")
    return make_recipe(
        {"simulator": {"name": name}, "policy": {"chunk": chunk}}, [f"simulator.{setting}" for setting in settings], source=f"--simulator {name}"
    ).simulator


def check_simulators(
    simulators: Mapping[str, SimulatorConfig],
    chunk: int,
    timeout_s: float | None,
    frames: Path | None,
    figures: Path | None,
    strict: bool = False,
    before: str = "",
) -> bool:
    """Examine each simulator and print what was found. Returns whether all passed. Raises RecipeError if settings are refused.

    timeout_s: the limit of a call (None: as in a run). frames: a folder for frames. figures: a file for the findings. strict: warnings fail too.
    before: each line begins with it.
    """
    findings: dict[str, Any] = {}
    wrong = ("failed", "warning") if strict else ("failed",)
    for name, config in simulators.items():
        print(f"{before}{_name_and_settings(name, config)}", flush=True)
        placed, drawing = _placed(config, timeout_s)
        if drawing:
            print(f"{before}{drawing}", flush=True)
        with progress(f"examining {name} in processes of its own"):
            evidence = examine(placed, chunk, timeout_s)
        results = run_checks(evidence)
        for line in "\n".join([*lines(results), total(results)]).splitlines():
            print(f"{before}{line}")
        if frames is not None:
            print(f"{before}{write_frames(evidence, frames / name.replace(':', '_').replace('/', '_'))} frames in {frames}: are they the right way up?")
        findings[name] = {"passed": not any(result.verdict in wrong for result in results), "checks": as_json(results)}
    if figures is not None:
        write_figures(findings, figures)
    return all(simulator["passed"] for simulator in findings.values())


def _placed(config: SimulatorConfig, timeout_s: float | None) -> tuple[SimulatorConfig, str]:
    """The simulator where it draws, and the sentence for the user. One that cannot be described stays as it is, and the checks find out why."""
    try:
        described(config.model_copy(update={"build_timeout_s": limit_of("describe", config, timeout_s)}))
    except RecipeError:
        return config, ""
    return place_simulator(config)


def examine(config: SimulatorConfig, chunk: int, timeout_s: float | None = None) -> Evidence:
    """The evidence of an examination. The simulator runs in processes of its own, on the first of its devices."""
    return asyncio.run(_examine(config.model_copy(update={"devices": config.devices[:1]}), chunk, timeout_s))


async def _examine(config: SimulatorConfig, chunk: int, timeout_s: float | None) -> Evidence:
    with tempfile.TemporaryDirectory() as folder:
        return await Examination(config, chunk, lambda name: SimulatorProcess(name, config, chunk, timeout_s, Path(folder))).run()


def _name_and_settings(name: str, config: SimulatorConfig) -> str:
    """The simulator's name, and the settings that are not the default."""
    given = config.model_dump(exclude_defaults=True, exclude={"shards", "timeout_s", "build_timeout_s", "cores", "weight", "task_weights"})
    settings = ", ".join(f"{key}={value}" for key, value in given.items() if value != name)
    return f"{name}: {settings}" if settings else name
