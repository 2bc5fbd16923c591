"""What the commands do: find where to start, refuse what cannot be run, and hand a recipe and a run directory to the session.

The command line (cli.py) and the Python API (api/) both call these functions. Nothing here imports torch before a recipe is known to be good: a mistake is
answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from rlvla3.config import Overrides, Recipe, load_recipe, make_recipe, path_of, recipe_text
from rlvla3.demonstrations.writing.dataset_folder import dataset_folder
from rlvla3.demonstrations.writing.encodings import Encoding
from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import POLICY, continuation, policy_folder, whole_checkpoint
from rlvla3.observability.events import Watcher
from rlvla3.observability.mending import mend
from rlvla3.observability.progress_line import progress
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError, default_path, find_run, version_of
from rlvla3.observability.run_record import RunRecord
from rlvla3.observability.run_watchers import Show, watched
from rlvla3.observability.trackers.sending import watchers_of
from rlvla3.observability.trust import check_trust
from rlvla3.page.beside import PageBeside
from rlvla3.page.watching import check_packages
from rlvla3.parts import collecting_capacity, training_capacity
from rlvla3.preflight import check_data_plane, preflight
from rlvla3.scheduling.recorded_run import RecordedRun
from rlvla3.signals import heard
from rlvla3.types import Purpose

EpisodesOf = Literal["policy", "evaluation", "training"]
"""Which episodes `record` writes."""

Start = Path | Recipe
"""What a command starts from: a recipe, or the path of one, of a run directory or of a checkpoint.

Each command has a parameter `trust`: whether names of code that come with somebody else's run directory may be loaded (observability/trust.py). Without it,
they are refused with RunDirectoryError.
"""


@heard()
def clone(start: Start, overrides: Overrides, run_dir: Path | None, show: Show, trust: bool = False) -> RunDirectory:
    """Make a policy by behaviour cloning, in a new run directory."""
    recipe = recipe_of(start, overrides, trust)
    if recipe.clone is None:
        raise RecipeError(f"{_named(start)} says nothing of cloning: give it a clone: section, or a setting such as clone.demonstrations=10")
    preflight(recipe, clones=True, evaluates=True)
    run = _new_run(run_dir, _default_path(start), recipe)
    with run.locked(), watched(run, recipe, f"clone {_stem(start)}", show=show, also=watchers_of(recipe, run)) as watchers:
        from rlvla3.runtimes import session

        session.clone(recipe, run, watchers)
    return run


@heard()
def train(start: Start, overrides: Overrides, run_dir: Path | None, show: Show, trust: bool = False, page: bool = False) -> RunDirectory:
    """Train in a new run directory, or continue a run from a checkpoint: in its own directory, or from there on in another. page: show it in the browser."""
    if page:
        check_packages("--watch")
    if found := _find_run(start):
        return _continue(*found, recipe_of(start, overrides, trust), run_dir, show, named=start != found[0].path, page=page)
    recipe = recipe_of(start, overrides, trust)
    preflight(recipe, clones=recipe.begins_by_cloning, trains=True, evaluates=recipe.evaluation.before or recipe.evaluation.after)
    run = _new_run(run_dir, _default_path(start), recipe)
    with run.locked(), watched(run, recipe, f"{run.path.name}, {recipe.engine.mode}", show=show, also=_also(recipe, run, page)) as watchers:
        from rlvla3.runtimes import session

        session.train(recipe, run, watchers)
    return run


def _continue(earlier: RunDirectory, checkpoint: Path | None, recipe: Recipe, run_dir: Path | None, show: Show, named: bool, page: bool) -> RunDirectory:
    """Continue a run. named: whether the user named the checkpoint. Its folder changes only when all workers are built: until then, anything may refuse."""
    with ExitStack() as stack:
        if run_dir is None:
            stack.enter_context(earlier.locked())
        whole = whole_checkpoint(earlier, checkpoint if named else None)
        if run_dir is None:
            _refuse_to_continue(earlier, whole.checkpoint, recipe, named)
        begins = recipe.resumed_from(whole.checkpoint) if whole.checkpoint else recipe
        clones, evaluates = recipe.begins_by_cloning and whole.checkpoint is None, recipe.evaluation.before or recipe.evaluation.after
        preflight(begins, clones=clones, trains=True, evaluates=evaluates, resumes=whole.checkpoint)
        continued = continuation(earlier, whole)
        if run_dir is None:
            run, said = earlier, mend(earlier)
        else:
            run, said = RunDirectory.create(run_dir, recipe, whole.checkpoint, continued.lines), []
            stack.enter_context(run.locked())
            continued = replace(continued, checkpoint=run.latest_checkpoint())
        with watched(run, recipe, f"{run.path.name}, {recipe.engine.mode}", continued, show, said, also=_also(recipe, run, page)) as watchers:
            from rlvla3.runtimes import session

            session.train(recipe, run, watchers, continued)
    return run


def _also(recipe: Recipe, run: RunDirectory, page: bool) -> Mapping[str, Callable[[Callable[[str], None]], Watcher]]:
    """The watchers of a run for its trackers, and the one that has a page beside it, where it is wanted."""
    pages = {"the page": lambda tell: PageBeside(run.path, tell)} if page else {}
    return {**watchers_of(recipe, run), **pages}


@heard()
def evaluate(start: Start, overrides: Overrides, run_dir: Path | None, show: Show, trust: bool = False, protocol: str | None = None) -> RunDirectory:
    """Measure a policy, in a run directory of its own: that of the policy's run may be at work. protocol: the name of a published one that is to be
    applied. None: the recipe's own, if it names one, which is only compared."""
    from rlvla3.evaluation.applying import protocol_of
    from rlvla3.evaluation.results import RESULTS, ResultsFile

    recipe, place, said = _of_policy(start, overrides, "evaluate", "evaluations", trust)
    about = None
    if applied := protocol_of(recipe, overrides, protocol):
        recipe, about, said = applied.recipe, applied.json(), [*said, *applied.sentences()]
    preflight(recipe, evaluates=True)
    run = _new_run(run_dir, place, recipe)
    title = f"eval {_stem(start) if isinstance(start, Recipe) else start}"
    also = {RESULTS: lambda tell: ResultsFile(run, recipe, about, tell)}
    with run.locked(), watched(run, recipe, title, show=show, said=said, protocol=about, also=also) as watchers:
        from rlvla3.runtimes import session

        session.evaluate(recipe, run, watchers)
    return run


@heard()
def replay(start: Path, run_dir: Path | None, show: Show, trust: bool = False) -> None:
    """Repeat a recorded run up to a checkpoint, in a run directory of its own, and compare the weights."""
    repeated = _repeated(start, "replays", trust)
    from rlvla3.runtimes import replay_session

    run = _new_run(run_dir, repeated.place, repeated.recipe)
    with run.locked(), watched(run, repeated.recipe, f"replay {repeated.original.name}", show=show, said=repeated.said) as watchers:
        replay_session.replay(repeated.recipe, run, watchers, repeated.recorded, repeated.checkpoint)


@heard()
def record(
    start: Start,
    overrides: Overrides,
    run_dir: Path | None,
    show: Show,
    trust: bool = False,
    *,
    folder: Path | None = None,
    episodes_of: EpisodesOf = "policy",
    episodes: int | None = None,
    failures: bool = False,
    frames: Encoding = "h264",
    fps: float | None = None,
) -> Path:
    """Write episodes as a LeRobotDataset, into a new folder (None: one in the run directory). Returns it.

    episodes_of: new episodes of the policy, those of its evaluation, or those of training, repeated. episodes: how many are run; of training, how many of the
    last ones are looked at. failures: whether episodes without success are written too. frames: how they are kept. fps: actions a second (None: as the
    simulator says).
    """
    from rlvla3.runtimes.recorder import Recorder, Wanted, check_wanted, on_this_host

    if episodes_of not in get_args(EpisodesOf):
        raise RecipeError(f"episodes_of={episodes_of!r} is unknown: choose among {', '.join(get_args(EpisodesOf))}")
    if episodes is not None and episodes < 1:
        raise RecipeError(f"episodes={episodes}: record 1 or more")
    wanted = Wanted(failures, frames, fps)
    repeated = None
    if episodes_of == "training":
        if isinstance(start, Recipe) or overrides:
            raise RecipeError("episodes of training are repeated as they were: give a run directory, and no settings")
        repeated = _repeated(start, "recordings", trust)
        recipe, place, said = repeated.recipe, repeated.place, repeated.said
    else:
        recipe, place, said = _of_policy(start, overrides, "record", "recordings", trust)
        if episodes_of == "evaluation":
            from rlvla3.evaluation.applying import protocol_of

            if applied := protocol_of(recipe, overrides):
                recipe, said = applied.recipe, [*said, *applied.sentences()]
        recipe = on_this_host(recipe, episodes)
        preflight(recipe)
    check_wanted(recipe, wanted, folder, place, training_capacity(recipe) if repeated else collecting_capacity(recipe))
    run = _new_run(run_dir, place, recipe)
    with run.locked(), dataset_folder(folder or run.path / "dataset") as new, watched(run, recipe, f"record {_stem(start)}", show=show, said=said) as watchers:
        if repeated is not None:
            from rlvla3.runtimes import replay_session

            first = max(repeated.recorded.end * recipe.training.batch - episodes, 0) if episodes else 0
            with closing(Recorder(recipe, new, wanted, Purpose.TRAIN, first)) as recorder:
                replay_session.replay(recipe, run, watchers, repeated.recorded, repeated.checkpoint, recorder)
        else:
            from rlvla3.runtimes import record_session

            with closing(Recorder(recipe, new, wanted, Purpose.EVALUATE if episodes_of == "evaluation" else Purpose.RECORD)) as recorder:
                record_session.record(recipe, run, watchers, recorder)
    return new.folder


def check_policy(name: str, settings: Sequence[str], simulator: str | None, chunk: int, figures: Path | None, trust: bool = False) -> bool:
    """Put a policy on trial: one of a name, or that of a folder. Returns whether all checks passed. Raises RecipeError where it cannot be built."""
    from rlvla3.checking import policy_commands

    return policy_commands.check_policy(name, settings, simulator, chunk, figures, trust)


def check(
    words: Sequence[str],
    simulator: str | None,
    chunk: int,
    timeout_s: float | None,
    frames: Path | None,
    figures: Path | None,
    strict: bool = False,
    trust: bool = False,
) -> bool:
    """Print a recipe as it would be run and examine its simulators, or examine one alone. words: the recipe, if it is one, and settings. strict: whether a
    warning fails too. Returns whether all passed. Raises RecipeError where it cannot be run."""
    from rlvla3.checking.commands import check_simulators, simulator_config

    if simulator is not None:
        return check_simulators({simulator: simulator_config(simulator, words, chunk)}, chunk, timeout_s, frames, figures, strict)
    if not words or "=" in words[0]:
        raise RecipeError("nothing to check: name a recipe, for example recipes/quickstart.yaml, or a simulator, for example --simulator metaworld")
    start = path_of(words[0])
    recipe = recipe_of(start, words[1:], trust)
    spaces = preflight(recipe, clones=recipe.begins_by_cloning, trains=True, evaluates=recipe.evaluation.before or recipe.evaluation.after)
    print(recipe_text(recipe), end="")
    from rlvla3.checking.model_memory import check_model
    from rlvla3.inference.choice import way_in_words
    from rlvla3.parts import beside_capacity, left_out_in_words, splits_in_words, training_capacity
    from rlvla3.runtimes.sharing.measuring import share_in_words

    print(f"# inference: {way_in_words(recipe)}")
    if shared := share_in_words(recipe):
        print(f"# devices: {shared}")
    if recipe.begins_by_cloning and recipe.clone is not None and recipe.clone.files:
        from rlvla3.demonstrations.selection import notices, select_demonstrations

        for said in notices(select_demonstrations(recipe)):
            print(f"# demonstrations: {said}")
    for words_of_tasks in (*splits_in_words(recipe, spaces), *left_out_in_words(recipe, trains=True)):
        print(f"# {words_of_tasks}")
    for needed in (check_data_plane(recipe, training_capacity(recipe) + beside_capacity(recipe)), *check_model(recipe, spaces)):
        print(f"# memory: {needed}", flush=True)
    return check_simulators(recipe.mixed, recipe.policy.chunk, timeout_s, frames, figures, strict, before="# ")


def inspect(name: str, recipe: Path | None, overrides: Overrides, instruction: str | None, figures: Path | None, trust: bool = False) -> None:
    """Print what a pretrained policy will be fed, and what is made of its answers. Raises RecipeError where a recipe does not fit its checkpoint."""
    from rlvla3.checking.inspection_report import inspect_and_print

    for given in (path_of(name), recipe):
        if given is not None:
            check_trust(given, overrides, trust)
    inspect_and_print(name, recipe, overrides, instruction, figures)


def export(start: Path, out: Path, layout: str | None, adapters: str, precision: str, trust: bool = False) -> None:
    """Write a run's policy as a checkpoint that its authors' code loads, and print what was written. Raises RecipeError, before anything is written."""
    check_trust(start, trust=trust)
    folder = policy_folder(start)
    found = _find_run(start) or find_run(folder.parent)
    given = found[0].recipe().policy if found else None
    base = str(given.checkpoint) if given and given.is_pretrained else None
    from rlvla3.policies.vla.export import export_policy

    with progress(f"writing {out} from the checkpoint {folder}"):
        exported = export_policy(folder, out, layout, adapters, precision, base)  # type: ignore[arg-type]  # the command line knows the words
    print("\n".join([f"{exported.folder}: {exported.layout}'s layout", *(f"  {sentence}" for sentence in exported.said)]))


def recipe_of(start: Start, overrides: Overrides, trust: bool = False) -> Recipe:
    """The recipe that a command is to start from, with `overrides`. Raises RecipeError, and RunDirectoryError where its names are not to be trusted."""
    if isinstance(start, Recipe):
        return make_recipe(start.model_dump(mode="json"), overrides)
    check_trust(start, overrides, trust)
    found = find_run(start)
    return load_recipe(found[0].config if found else start, overrides)


def _find_run(start: Start) -> tuple[RunDirectory, Path | None] | None:
    return None if isinstance(start, Recipe) else find_run(start)


@dataclass(frozen=True)
class _Repeated:
    """A recorded run that is repeated: its settings, its folder, the place of the new one, its record, and the checkpoint whose weights must come out."""

    recipe: Recipe
    original: Path
    place: Path
    recorded: RecordedRun
    checkpoint: Path
    said: list[str]


def _repeated(start: Path, folder: str, trust: bool) -> _Repeated:
    """folder: of the run directory, where the new one goes."""
    check_trust(start, trust=trust)
    found = find_run(start) or (RunDirectory.open(start), None)
    original = found[0]
    checkpoint, said = _whole_policy(*found, start, "compare a replay with")
    recording = RunRecord(original.record)
    recipe = recording.recipe()
    preflight(recipe, clones=recipe.begins_by_cloning, trains=True)
    recorded = recording.recorded_run(version_of(checkpoint))
    from rlvla3.runtimes import replay_session

    place = original.path / folder / f"{datetime.now():%Y%m%d-%H%M%S}"
    return _Repeated(replay_session.replay_recipe(recipe), original.path, place, recorded, checkpoint, said)


def _of_policy(start: Start, overrides: Overrides, purpose: str, folder: str, trust: bool) -> tuple[Recipe, Path, list[str]]:
    """What runs a policy without training it: the recipe, the default place of the run directory, and what the user should know. purpose: a verb, for messages.
    folder: of the policy's run directory, where the new one goes."""
    recipe, found = recipe_of(start, overrides, trust), _find_run(start)
    if found is None:
        if recipe.policy.checkpoint is None:
            raise RecipeError(f"{_named(start)} names no policy to {purpose}: give policy.checkpoint=FOLDER, or a run directory instead of the recipe")
        return recipe, _default_path(start), []
    checkpoint, said = _whole_policy(*found, start, purpose)
    return recipe.starting_from(checkpoint), found[0].path / folder / f"{datetime.now():%Y%m%d-%H%M%S}", said


def _default_path(start: Start) -> Path:
    return default_path(_stem(start), datetime.now())


def _named(start: Start) -> str:
    """For a message."""
    return "the recipe" if isinstance(start, Recipe) else str(start)


def _stem(start: Start) -> str:
    """What a run is called after: the recipe's file, or its simulators, such as CartPole-v1 for gymnasium:CartPole-v1."""
    if isinstance(start, Recipe):
        names = dict.fromkeys(simulator.name.rpartition(":")[2] for simulator in start.mixed.values())
        return "-".join(names)
    return start.stem


def _new_run(run_dir: Path | None, default: Path, recipe: Recipe) -> RunDirectory:
    """A new run directory where the user wants it, or else at its default place, with a number behind its name where there is one already."""
    return RunDirectory.create_beside(default, recipe) if run_dir is None else RunDirectory.create(run_dir, recipe)


def _whole_policy(run: RunDirectory, checkpoint: Path | None, start: Start, purpose: str) -> tuple[Path, list[str]]:
    """The checkpoint whose policy a command uses, and what the user should know: the newest whole one, or the one that `start` names."""
    whole = whole_checkpoint(run, None if start == run.path else checkpoint, POLICY)
    if whole.checkpoint is None:
        raise RunDirectoryError(f"{run.path} holds no checkpoint yet: there is nothing to {purpose}")
    return whole.checkpoint, list(whole.notices)


def _refuse_to_continue(run: RunDirectory, checkpoint: Path | None, recipe: Recipe, named: bool) -> None:
    """A run is continued in its own directory from its newest checkpoint alone, and only while there is something left to do."""
    if named and checkpoint != run.latest_checkpoint():
        raise RunDirectoryError(
            f"{run.path} has been trained past {checkpoint}: continue from its newest checkpoint with `rlvla3 train {run.path}`, "
            f"or from this one in another folder, with --run-dir"
        )
    if checkpoint is None and run.ended() == "finished":
        raise RunDirectoryError(
            f"{run.path} is finished and holds no checkpoint, so there is nothing to continue: start a new run with "
            f"`rlvla3 train {run.config} --run-dir FOLDER`"
        )
    made = max((line["update"] for line in run.metric_lines() if line["event"] == "update"), default=0) if checkpoint is None else 0
    if made > 2 * recipe.training.checkpoint_every:  # the second checkpoint is begun when the first one is there: an earlier end may have come before that
        raise RunDirectoryError(
            f"{run.path} has made {made} updates, and none of its checkpoints is there: put {run.checkpoints} back, or start a new run with "
            f"`rlvla3 train {run.config} --run-dir FOLDER`"
        )
    done = version_of(checkpoint) if checkpoint else 0
    if run.ended() == "finished" and done >= recipe.training.updates:
        raise RunDirectoryError(f"{run.path} is finished, after {done} updates: ask for more with training.updates={2 * done or 20}")
