"""Which recorded episodes a recipe clones from: the first `clone.demonstrations` successes of each task, in the order of files and of episodes in them.

The choice depends on the files alone, so that the same files and seed give the same policy.
"""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvla3.config import CloneConfig, Recipe, SimulatorConfig
from rlvla3.demonstrations.demonstration import FileDemonstration
from rlvla3.demonstrations.files import DemonstrationError, DemonstrationFile, Episode
from rlvla3.demonstrations.formats import open_file
from rlvla3.simulators.registry import describe_simulator, simulator_class
from rlvla3.types import Spaces

MOST_OUTSIDE = 0.01
"""Of the action numbers: where more are outside the simulator's bounds, they mean something else."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the recipe. wanted: what files call it. instruction: what the simulator tells a policy, None where that is not known before it runs.

    control_mode, mirrored: the simulator's options of these names, where it has them.
    """

    name: str
    wanted: str
    instruction: str | None
    spaces: Spaces
    control_mode: str | None
    mirrored: bool

    def matches(self, file: DemonstrationFile, episode: Episode) -> bool:
        """Whether an episode is of this task: by its name, or by its instruction within the same suite."""
        named = {_plain(name) for name in episode.tasks}
        if _plain(file.full_name(self.wanted)) in named:
            return True
        suites = [name.partition("/")[0] for name in episode.tasks if "/" in name]
        suite, slash, _ = self.wanted.partition("/")
        other_suite = slash and suites and not any(theirs.startswith(suite) for theirs in suites)
        sentences = {_plain(sentence) for sentence in (self.wanted, self.instruction) if sentence}
        return not other_suite and bool(episode.instruction) and _plain(episode.instruction) in sentences


def choose_demonstrations(recipe: Recipe) -> list[FileDemonstration]:
    """The demonstrations to clone from, checked as far as headers tell, none of them read. Raises RecipeError."""
    clone = recipe.clone
    assert clone is not None and clone.files
    tasks = [task for label, simulator in recipe.mixed.items() for task in _tasks(label, simulator, clone)]
    chosen: dict[str, list[FileDemonstration]] = {task.name: [] for task in tasks}
    failed, there = Counter[str](), dict[str, None]()
    for file, episode in _episodes(clone.files):
        there[episode.tasks[-1]] = None
        for task in tasks:
            if len(chosen[task.name]) < clone.demonstrations and task.matches(file, episode):
                failed[task.name] += not episode.success
                if episode.success:
                    chosen[task.name].append(_demonstration(file, episode, task, recipe))
        if all(len(found) == clone.demonstrations for found in chosen.values()):
            break
    for task in tasks:
        if len(chosen[task.name]) < clone.demonstrations:
            raise DemonstrationError(_too_few(task, len(chosen[task.name]), failed[task.name], clone, list(there)))
    return [demonstration for found in chosen.values() for demonstration in found]


def check_actions(demonstrations: Sequence[FileDemonstration]) -> str | None:
    """Read every action. What of them is clipped, in words; None where nothing is. Raises DemonstrationError where it is too much."""
    outside = {demonstration: demonstration.outside() for demonstration in demonstrations}
    total, count = sum(demonstration.recorded_actions.size for demonstration in demonstrations), sum(outside.values())
    if not count:
        return None
    worst = max(outside, key=outside.__getitem__)
    space, actions = worst.spaces.action, worst.recorded_actions
    allowed = f"0 to {space.choices - 1}" if space.kind == "discrete" else f"{space.low:g} to {space.high:g}"
    told = f"{count} of {total} action numbers ({count / total:.1%}) are outside {allowed}, most of them in {worst.file.place(worst.episode)} "
    told += f"({actions.min():.3g} to {actions.max():.3g})"
    if count > MOST_OUTSIDE * total:
        raise DemonstrationError(
            f"{told}, and at most {MOST_OUTSIDE:.0%} may be: these are not the simulator's actions. Give demonstrations of the controller that the simulator "
            f"uses, with actions scaled to {allowed}"
        )
    return f"{told}: they are clipped"


def notices(demonstrations: Sequence[FileDemonstration]) -> list[str]:
    """What the user should know of how the demonstrations are read, a sentence each."""
    told = {notice: None for file in {demonstration.file: None for demonstration in demonstrations} if (notice := file.notice())}
    for demonstration in demonstrations:
        for camera, recorded in demonstration.frame_sizes.items():
            wanted = demonstration.spaces.cameras[camera]
            if recorded != wanted[:2]:
                told[f"frames of {camera} are resized from {recorded[0]}x{recorded[1]} to {wanted[0]}x{wanted[1]}"] = None
    if late := sum(demonstration.decisions > demonstration.spaces.max_steps for demonstration in demonstrations):
        told[
            f"{late} of {len(demonstrations)} demonstrations are longer than simulator.max_steps: evaluation may end before a policy as slow as they succeeds"
        ] = None
    return list(told)


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files and folders that `patterns` name, each once: in the order of the patterns, and by name within one. Raises DemonstrationError."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207  # Path.glob refuses absolute patterns
        if not paths:
            raise DemonstrationError(f"clone.files: nothing is at {pattern} (from {Path.cwd()}): give the path of a file or of a LeRobot dataset's folder")
        found.update(dict.fromkeys(map(Path, paths)))
    return list(found)


def _episodes(patterns: Sequence[str]) -> Iterator[tuple[DemonstrationFile, Episode]]:
    for path in find_files(patterns):
        file = open_file(path)
        for episode in file.episodes():
            yield file, episode


def _demonstration(file: DemonstrationFile, episode: Episode, task: Task, recipe: Recipe) -> FileDemonstration:
    """An episode as a demonstration of `task`. Raises DemonstrationError where it cannot be one."""
    assert recipe.clone is not None
    _check_control_mode(file, task)
    instruction = episode.instruction if task.instruction is None else task.instruction
    found = FileDemonstration(file, episode, task.name, instruction, task.spaces, task.mirrored, recipe.policy.chunk, recipe.clone.layout)
    found.check()
    return found


def _tasks(label: str, simulator: SimulatorConfig, clone: CloneConfig) -> Iterator[Task]:
    """The tasks of one simulator of the recipe. label: of its only task, where none are named."""
    spaces = describe_simulator(simulator)
    options = simulator_class(simulator.name).Options.model_validate(simulator.options)
    for name in simulator.share(label).tasks:
        told = describe_simulator(simulator.model_copy(update={"tasks": [name], "task_weights": []})) if len(simulator.tasks) > 1 else spaces
        yield Task(
            name,
            wanted=clone.layout.tasks.get(name, name),
            instruction=told.instructions[0] if len(told.instructions) == 1 else None,
            spaces=spaces,
            control_mode=getattr(options, "control_mode", None),
            mirrored=getattr(options, "mirrored", False),
        )


def _check_control_mode(file: DemonstrationFile, task: Task) -> None:
    here = task.control_mode or file.usual_control_mode()
    if file.control_mode and here and file.control_mode != here:
        raise DemonstrationError(
            f"{file.path} was recorded with control mode {file.control_mode}, and the simulator of {task.name} takes {here}: "
            f"set simulator.options.control_mode={file.control_mode}, or replay the file in the simulator's"
        )


def _too_few(task: Task, found: int, failed: int, clone: CloneConfig, there: Sequence[str]) -> str:
    what = f"{found} of {clone.demonstrations} demonstrations of {task.name} are in clone.files"
    if found:
        return f"{what} ({failed} more failed): set clone.demonstrations={found}, or give more files"
    if failed:
        return f"{what}: there are {failed} episodes of it, none of them a success"
    shown = ", ".join(repr(name) for name in there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
    return f"{what}: they are of {shown or 'nothing'}. Where that is another name for it, write clone: {{layout: {{tasks: {{{task.name}: NAME}}}}}}"


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").rstrip(".").split())
