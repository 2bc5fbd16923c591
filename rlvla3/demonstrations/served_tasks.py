"""Which task of the recipe a recorded episode serves.

A file names its task (LIBERO: SUITE/NAME, ManiSkill: the environment's id), or an episode has only sentences (LeRobot). A sentence is not a name: in libero_90,
12 sentences serve 28 tasks.

Invariants:
- an episode whose file names its task serves that task alone, whatever its sentence is. Only a sentence that the recipe itself writes under clone.layout.tasks
  goes beyond the name;
- one sentence serves one task of the recipe. If it fits several, the recipe is refused with the way out, and none is chosen;
- the closest fit counts: see `_fits`. An episode with several sentences serves the task of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlvla3.demonstrations.demonstration_file import DemonstrationError, DemonstrationFile, RecordedEpisode
from rlvla3.simulators.action_meaning import ActionMeaning
from rlvla3.simulators.libero.suites import NEW_SENTENCES, SUITES, VARIANTS, suite_of_folder
from rlvla3.types import Spaces

LONG_SUITES, RECORDED_AS = ("libero_10", "libero_90"), "libero_100"
"""LIBERO's authors recorded these two suites under one name. Some of their files still have it."""


@dataclass(frozen=True, slots=True)
class DemonstrationTask:
    """A task of the recipe.

    written: its name or its sentence in the files, as clone.layout.tasks says it. It replaces `name` and `instruction`. Empty where the recipe says nothing.
    instruction: the simulator's instruction, None where it is not known before the simulator runs.
    control_mode, mirrored: the simulator's options with these names, if it has them. meaning: of the simulator's actions.
    """

    name: str
    written: str
    instruction: str | None
    spaces: Spaces
    control_mode: str | None
    mirrored: bool
    meaning: ActionMeaning


@dataclass(frozen=True, slots=True)
class ServedTask:
    """A task that an episode serves. sentence: that of the episode's sentences which is of this task. notice: what the user should know, None for nothing."""

    task: DemonstrationTask
    sentence: str
    notice: str | None = None


def served_tasks(file: DemonstrationFile, episode: RecordedEpisode, tasks: Sequence[DemonstrationTask]) -> list[ServedTask]:
    """The tasks of the recipe that an episode serves. Raises DemonstrationError where it cannot be known which of them."""
    found: dict[str, ServedTask] = {}
    for sentence in episode.sentences or (episode.instruction,):
        for fitting in _fits(file, episode, sentence, tasks):
            if len(fitting) > 1:
                raise DemonstrationError(_ambiguous(file, episode, sentence, fitting))
            if fitting:
                (task,) = fitting
                _check_one_name(file, episode, task)
                found.setdefault(task.name, ServedTask(task, sentence, _by_sentence_alone(file, episode, sentence, task)))
                break
    return list(found.values())


def as_compared(name: str) -> str:
    """A name or a sentence, as two of them are compared: without case, underscores, a full stop and spaces that are too many."""
    return " ".join(name.casefold().replace("_", " ").rstrip(". ").split())


def _fits(file: DemonstrationFile, episode: RecordedEpisode, sentence: str, tasks: Sequence[DemonstrationTask]) -> Iterator[list[DemonstrationTask]]:
    """The tasks that fit, the closest fit first: with suite or folder, by the name alone, by the recipe's own sentence, by the simulator's sentence."""
    said, names = as_compared(sentence), [as_compared(name) for name in episode.tasks]
    in_folder = {as_compared(f"{file.folder}/{short}") for short in (names[-1:] or [said]) if short}
    full = {name for name in names if "/" in name}
    yield [task for task in tasks if _full_names(file, task) & (full | in_folder if task.written or not full else full)]
    yield [task for task in tasks if _short_name(file, task) in names and not _other_suite(file, episode, task)]
    yield [task for task in tasks if said and as_compared(task.written) == said]
    if said and not names:
        yield [task for task in tasks if not task.written and said in _sentences(task) and not _other_suite(file, episode, task)]


def _full_names(file: DemonstrationFile, task: DemonstrationTask) -> set[str]:
    """The task's names with a suite or a folder. None for a task without both."""
    if task.written:
        names = [file.full_name(task.written)]
    else:
        suite = task.name.partition("/")[0]
        names = [file.full_name(task.name), f"{suite}/{task.instruction}"] if "/" in task.name else []
    return {as_compared(name) for name in names if "/" in name}


def _short_name(file: DemonstrationFile, task: DemonstrationTask) -> str:
    return as_compared(file.full_name(task.written or task.name).rpartition("/")[2])


def _sentences(task: DemonstrationTask) -> set[str]:
    suite, _, short = task.name.rpartition("/")
    named = () if suite in VARIANTS and suite.endswith(NEW_SENTENCES) else (task.name, short)  # there the name is the one of another task
    return {as_compared(sentence) for sentence in (*named, task.instruction) if sentence}


def _other_suite(file: DemonstrationFile, episode: RecordedEpisode, task: DemonstrationTask) -> bool:
    """Whether the episode is of another suite than the task. A suite inside the file is exact. A folder may have any name, such as libero_goal_no_noops.

    The suites of LIBERO-PRO have tasks with the names of LIBERO's. So a file that names a task and no suite is of LIBERO's own suite.
    """
    own = file.full_name(task.written or task.name).rpartition("/")[0]
    exact = {name.rpartition("/")[0] for name in episode.tasks if "/" in name}
    theirs = exact or _suites_of_folder(file.folder)
    if not exact and own not in SUITES:
        return bool(own and task.written)  # a folder that the recipe names, and that is not this one
    if not own or not theirs:
        return own in VARIANTS and bool(episode.tasks)
    recorded_together = own in LONG_SUITES and any(suite.startswith(RECORDED_AS) for suite in theirs)
    return own not in theirs and not recorded_together


def _suites_of_folder(folder: str) -> set[str]:
    suite = RECORDED_AS if folder.casefold().startswith(RECORDED_AS) else suite_of_folder(folder)
    return {suite} if suite else set()


def _check_one_name(file: DemonstrationFile, episode: RecordedEpisode, task: DemonstrationTask) -> None:
    """Raise DemonstrationError where a file that is chosen by its name says two names."""
    names = dict.fromkeys(name.rpartition("/")[2] for name in episode.tasks)
    if len(names) > 1 and _short_name(file, task) in map(as_compared, names):
        raise DemonstrationError(
            f"{file.path} says that its task is {' and also that it is '.join(names)} (its own name, and the one inside): which is right is not known. "
            f"Rename the file after its task and correct what it says inside, or leave it out of clone.files"
        )


def _by_sentence_alone(file: DemonstrationFile, episode: RecordedEpisode, sentence: str, task: DemonstrationTask) -> str | None:
    """What is said where the recipe's own sentence fits a file that names a task by another name."""
    if not episode.tasks or _short_name(file, task) in {as_compared(name.rpartition("/")[2]) for name in episode.tasks}:
        return None
    return f"demonstrations of {episode.tasks[0]} are used for {task.name}, because clone.layout.tasks gives it their sentence, {sentence!r}"


def _ambiguous(file: DemonstrationFile, episode: RecordedEpisode, sentence: str, fitting: Sequence[DemonstrationTask]) -> str:
    names = [task.name for task in fitting]
    said = episode.tasks[-1] if episode.tasks else sentence
    start = f"{file.location(episode)} is of the task {said!r}, and this fits {len(names)} tasks of the recipe: {' and '.join(names)}"
    exact = f"{file.folder}/{said}"
    if any(task.written for task in fitting):
        return f"{start}. clone.layout.tasks must name each of them in another way. The folder tells them apart: {names[0]}: {exact}"
    return (
        f"{start}. Write which of them it is, with the folder of its files: clone: {{layout: {{tasks: {{{names[0]}: {exact}}}}}}}. "
        f"If one folder holds several of them, use files that name their task, such as LIBERO's own"
    )
