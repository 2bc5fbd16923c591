"""Selects the recorded episodes that a recipe clones from: the first `clone.demonstrations` successes of each task, in the order of files and of episodes.

Invariant: the selection depends only on the files. So the same files and seed give the same policy.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rlvla3.config import CloneConfig, Recipe, SimulatorConfig
from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, RecordedEpisode
from rlvla3.demonstrations.file_demonstration import FileDemonstration
from rlvla3.demonstrations.formats import open_file
from rlvla3.demonstrations.meaning import check_meaning
from rlvla3.demonstrations.served_tasks import DemonstrationTask, ServedTask, as_compared, served_tasks
from rlvla3.errors import some_of
from rlvla3.simulators.description import all_described

MAX_SHARE_OUTSIDE = 0.01
"""The largest share of action numbers outside of the simulator's bounds. Where there are more, they are the actions of another controller."""


def select_demonstrations(recipe: Recipe) -> list[FileDemonstration]:
    """The demonstrations to clone from. Headers, states and actions are checked, and what the actions mean. No frames are read. Raises RecipeError.

    An episode that is too short for a chunk, or has numbers that are not finite, is left out, and `notices` says so.
    """
    clone = recipe.clone
    assert clone is not None and clone.files
    tasks = [task for label, simulator in recipe.mixed.items() for task in _tasks(label, simulator, clone)]
    _check_names(clone, tasks)
    selected: dict[str, list[FileDemonstration]] = {task.name: [] for task in tasks}
    failed, left_out, names_in_files = Counter[str](), dict[str, list[str]](), dict[str, None]()
    known: dict[tuple[object, ...], list[ServedTask]] = {}  # the episodes of a file have few names and sentences
    for file, episode in _episodes(clone):
        names_in_files[episode.task] = None
        names = file, episode.tasks, episode.instruction, episode.sentences
        if names not in known:
            known[names] = served_tasks(file, episode, tasks)
        all_served = known[names]
        told = {as_compared(served.sentence): served.task.instruction or served.sentence for served in all_served}
        for served in all_served:
            task = served.task
            if len(selected[task.name]) < clone.demonstrations:
                failed[task.name] += not episode.success
                if not episode.success:
                    continue
                demonstration = _demonstration(file, episode, served, told, recipe)
                if (why := demonstration.unusable) is None:
                    selected[task.name].append(demonstration)
                else:
                    file.left_out[episode.key] = f"{file.location(episode)} {why}"
                    left_out.setdefault(task.name, []).append(file.left_out[episode.key])
        if all(len(found) == clone.demonstrations for found in selected.values()):
            break
    for task in tasks:
        if len(selected[task.name]) < clone.demonstrations:
            raise DemonstrationError(_too_few(task, len(selected[task.name]), failed[task.name], left_out.get(task.name, []), clone, list(names_in_files)))
    demonstrations = [demonstration for found in selected.values() for demonstration in found]
    check_meaning(demonstrations)
    check_actions(demonstrations)
    return demonstrations


def check_actions(demonstrations: Sequence[FileDemonstration]) -> str | None:
    """Check all actions against the simulator's bounds. Returns a message about the actions that will be clipped, or None.

    Raises DemonstrationError where more than MAX_SHARE_OUTSIDE of the numbers are outside of the simulator's bounds.
    """
    outside = {demonstration: demonstration.count_outside_bounds() for demonstration in demonstrations}
    total, count = sum(demonstration.actions.size for demonstration in demonstrations), sum(outside.values())
    if not count:
        return None
    worst = max(outside, key=outside.__getitem__)
    (low, high), actions = worst.spaces.action.bounds, worst.actions
    text = f"{count} of {total} action numbers ({count / total:.1%}) are outside {low:g} to {high:g}, most of them in {worst.file.location(worst.episode)} "
    text += f"({actions.min():.3g} to {actions.max():.3g})"
    if count > MAX_SHARE_OUTSIDE * total:
        raise DemonstrationError(
            f"{text}. At most {MAX_SHARE_OUTSIDE:.0%} may be outside: these are not the simulator's actions. "
            f"Give demonstrations of the controller that the simulator uses. Where only the range is another, set clone.layout.action_ranges"
        )
    return f"{text}. They are clipped"


def notices(demonstrations: Sequence[FileDemonstration]) -> list[str]:
    """What the user should know about how the demonstrations are read: one sentence for each fact."""
    files = list({demonstration.file: None for demonstration in demonstrations})
    found = {notice: None for file in files if (notice := file.notice())}
    found |= {demonstration.notice: None for demonstration in demonstrations if demonstration.notice}
    if left_out := [why for file in files for why in file.left_out.values()]:
        others = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        found[f"{len(left_out)} successful episodes were left out: {left_out[0]}{others}"] = None
    found |= dict.fromkeys(check_meaning(demonstrations))
    if clipped := check_actions(demonstrations):
        found[clipped] = None
    for demonstration in demonstrations:
        for camera, recorded in demonstration.frame_sizes.items():
            shown = demonstration.spaces.cameras[camera]
            if recorded != shown[:2]:
                found[f"frames of {camera} are resized from {recorded[0]}x{recorded[1]} to {shown[0]}x{shown[1]}"] = None
    if too_long := sum(demonstration.decisions > demonstration.spaces.max_steps for demonstration in demonstrations):
        count = f"{too_long} of {len(demonstrations)} demonstrations"
        found[f"{count} are longer than simulator.max_steps: a policy that is as slow has no time to succeed in evaluation"] = None
    return list(found)


def find_files(patterns: Sequence[str]) -> list[Path]:
    """The files and folders that match `patterns`, each once, in the order of the patterns and sorted by name within a pattern. Raises DemonstrationError.

    A file that is found by several names, through links or `..`, is one file: its episodes count once. Its first name is used.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        paths = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207  # Path.glob refuses absolute patterns
        if not paths:
            raise DemonstrationError(f"clone.files: nothing is at {pattern} (from {Path.cwd()}): give the path of a file or of a LeRobot dataset's folder")
        for path in map(Path, paths):
            found.setdefault(os.path.realpath(path), path)  # Path.resolve raises RuntimeError for links in a circle
    return list(found.values())


def _episodes(clone: CloneConfig) -> Iterator[tuple[DemonstrationFile, RecordedEpisode]]:
    for path in find_files(clone.files):
        file = open_file(path, clone.layout)
        for episode in file.episodes():
            yield file, episode


def _demonstration(file: DemonstrationFile, episode: RecordedEpisode, served: ServedTask, told: Mapping[str, str], recipe: Recipe) -> FileDemonstration:
    """An episode as a demonstration of a task. Raises DemonstrationError where its headers do not fit the simulator."""
    task = served.task
    _check_control_mode(file, task)
    spaces, chunk = task.spaces, recipe.policy.chunk
    found = FileDemonstration(file, episode, task.name, served.sentence, told, spaces, task.mirrored, chunk, task.meaning, served.notice)
    found.check()
    return found


def _tasks(label: str, simulator: SimulatorConfig, clone: CloneConfig) -> Iterator[DemonstrationTask]:
    """The tasks of one simulator of the recipe. label: the name of its only task, where the recipe names none."""
    names = simulator.share(label).tasks
    alone = [simulator.model_copy(update={"tasks": [name], "task_weights": []}) for name in names] if len(simulator.tasks) > 1 else [simulator]
    whole, *each = all_described([simulator, *alone])
    for name, one in zip(names, each, strict=True):
        described = one.spaces
        yield DemonstrationTask(
            name,
            written=clone.layout.tasks.get(name, ""),
            instruction=described.instructions[0] if len(described.instructions) == 1 else None,
            spaces=whole.spaces,
            control_mode=whole.control_mode,
            mirrored=whole.mirrored,
            meaning=whole.meaning,
        )


def _check_names(clone: CloneConfig, tasks: Sequence[DemonstrationTask]) -> None:
    names = [task.name for task in tasks]
    if unknown := [name for name in clone.layout.tasks if name not in names]:
        raise DemonstrationError(f"clone.layout.tasks names {unknown[0]}, which is no task of the recipe: its tasks are {', '.join(names)}")


def _check_control_mode(file: DemonstrationFile, task: DemonstrationTask) -> None:
    here = task.control_mode or file.default_control_mode()
    if file.control_mode and here and file.control_mode != here:
        raise DemonstrationError(
            f"{file.path} was recorded with control mode {file.control_mode}, and the simulator of {task.name} takes {here}: "
            f"set simulator.options.control_mode={file.control_mode}, or replay the file with control mode {here}"
        )


def _too_few(task: DemonstrationTask, found: int, failed: int, left_out: Sequence[str], clone: CloneConfig, there: Sequence[str]) -> str:
    """left_out: the successes that cannot be learned from, and why."""
    what = f"{found} of {clone.demonstrations} demonstrations of {task.name} are in clone.files"
    others = [f"{failed} more failed"] if failed else []
    if left_out:
        others.append(f"{len(left_out)} more cannot be used: {left_out[0]}" + (", and so on" if len(left_out) > 1 else ""))
    if found:
        return f"{what} ({'; '.join(others) or 'there are no others'}): set clone.demonstrations={found}, or give more files"
    if left_out:
        way_out = "Set a smaller policy.chunk, or give other files" if "policy.chunk" in left_out[0] else "Give other files"
        return f"{what}: {'; '.join(others)}. {way_out}"
    if failed:
        return f"{what}: there are {failed} episodes of it, none of them a success"
    shown = some_of(list(map(repr, there)), 10)
    return f"{what}: they are of {shown or 'nothing'}. Where that is another name for it, write clone: {{layout: {{tasks: {{{task.name}: NAME}}}}}}"
