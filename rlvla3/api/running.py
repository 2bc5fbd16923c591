"""Training, cloning, evaluating and recording from Python. Each call returns when the work is done and every process that it started has ended."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlvla3 import commands
from rlvla3.api.recipes import PathName, Source, start_of, trusted
from rlvla3.api.run import Evaluation, Run
from rlvla3.config import Overrides, path_of
from rlvla3.demonstrations.writing.encodings import Encoding
from rlvla3.errors import ExplainedError
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_watchers import Show

Result = TypeVar("Result")
Command = Callable[[commands.Start, Overrides, Path | None, Show, bool], Result]


def train(source: Source, overrides: Overrides = (), *, run_dir: PathName | None = None, progress: bool = True, trust: bool = False) -> Run:
    """Train in a new run directory, or continue a run. Where the recipe has a `clone` section, a new run begins by cloning.

    source: a recipe, as `load_recipe` takes it, starts a new run. A run, or the path of its directory, is continued from its newest checkpoint. The path of a
    checkpoint starts a run in another directory, `run_dir`, from there. overrides: settings that win over the source's, such as {"training.updates": 20}.
    run_dir: where the run is kept (default: runs/NAME-DATE-TIME). progress: whether to show how it is getting on. trust: whether the run or policy of somebody
    else may name code that is no part of rlvla3 (docs/security.md).

    Raises RecipeError or RunDirectoryError, before anything starts, for what cannot be run; WorkerError if a worker fails; KeyboardInterrupt after Ctrl-C or a
    notebook's stop button: the first one finishes the present update and keeps its checkpoint, the second one ends the run at once.
    """
    return _run(commands.train, source, overrides, run_dir, progress, trust)


def clone(source: Source, overrides: Overrides = (), *, run_dir: PathName | None = None, progress: bool = True, trust: bool = False) -> Run:
    """Make a policy by behaviour cloning alone, as the recipe's `clone` section says, and evaluate it. Parameters and errors are those of `train`."""
    return _run(commands.clone, source, overrides, run_dir, progress, trust)


def evaluate(
    source: Source,
    overrides: Overrides = (),
    *,
    run_dir: PathName | None = None,
    progress: bool = True,
    trust: bool = False,
    protocol: str | None = None,
) -> Evaluation:
    """Measure a policy: its success for each task, without exploration noise.

    source: a run or the path of its directory, for its newest checkpoint; the path of a checkpoint; or a recipe with policy.checkpoint.
    overrides: such as {"evaluation.episodes": 96}. run_dir: where the evaluation is kept (default: RUN_DIR/evaluations/DATE-TIME). protocol: the
    name of a published protocol (docs/evaluation.md). The parameters `progress` and `trust` and the errors are those of `train`.
    """
    return _run(partial(commands.evaluate, protocol=protocol), source, overrides, run_dir, progress, trust).evaluations[-1]


def record(
    source: Source,
    overrides: Overrides = (),
    *,
    folder: PathName | None = None,
    episodes_of: commands.EpisodesOf = "policy",
    episodes: int | None = None,
    failures: bool = False,
    frames: Encoding = "h264",
    fps: float | None = None,
    run_dir: PathName | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Path:
    """Write episodes as a LeRobotDataset v3.0, and return its folder (docs/recording.md).

    source: as `evaluate` takes it. overrides: such as {"seed": 1}. folder: a new one (default: `dataset` in run_dir).
    episodes_of: "policy", new episodes that begin as those of training do; "evaluation", those that `evaluate` runs; or "training", those of training, which
    is repeated: source is a run then, without overrides. episodes: how many are run (default: evaluation.episodes); of training, the last so many (default:
    all). failures: whether episodes without success are written too. frames: "h264", "av1", or "png", which loses nothing. fps: actions a second (default: as
    the simulator says, or 20). run_dir: where logs are kept (default: RUN_DIR/recordings/DATE-TIME).

    The parameters `progress` and `trust` and the errors are those of `train`. After Ctrl-C, `folder` has the episodes that had ended.
    """
    command = partial(
        commands.record,
        folder=None if folder is None else path_of(folder),
        episodes_of=episodes_of,
        episodes=episodes,
        failures=failures,
        frames=frames,
        fps=fps,
    )
    return _call(command, source, overrides, run_dir, progress, trust)


def _run(command: Command[RunDirectory], source: Source, overrides: Overrides, run_dir: PathName | None, progress: bool, trust: bool) -> Run:
    return Run(_call(command, source, overrides, run_dir, progress, trust).path, trust=True)  # this process has just made it


def _call(command: Command[Result], source: Source, overrides: Overrides, run_dir: PathName | None, progress: bool, trust: bool) -> Result:
    try:
        place = None if run_dir is None else path_of(run_dir)
        show: Show = "progress" if progress else "nothing"
        return command(start_of(source), overrides, place, show, trusted(source, trust))
    except (ExplainedError, KeyboardInterrupt) as error:  # others are mistakes of ours, and a debugger wants their frames
        _let_go(error)
        raise


def _let_go(error: BaseException | None) -> None:
    """Delete the variables of the frames that `error` and the errors before it came through: they hold the data plane, and a notebook keeps its last error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
