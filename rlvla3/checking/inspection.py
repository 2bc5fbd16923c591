"""What `rlvla3 inspect` finds out: what a policy will be fed, and what is made of its answers.

What inspection_model.py adds needs torch. All else does not, so that a recipe that does not fit its checkpoint is refused in an instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rlvla3.checkpoints.checkpoint import Checkpoint, find_checkpoint, kept_checkpoint, read_checkpoint
from rlvla3.checkpoints.contents import Family
from rlvla3.config import Overrides, PolicyConfig, Recipe, check_options, load_recipe, make_recipe, path_of
from rlvla3.config.policy import is_saved_policy
from rlvla3.errors import RecipeError
from rlvla3.observability.continuing import policy_folder
from rlvla3.observability.run_directory import find_run
from rlvla3.policies.registry import options_class, policy_options, read_checkpoint_config
from rlvla3.policies.vla.options import VLAOptions
from rlvla3.policies.vla.origin import ORIGINAL
from rlvla3.preflight import preflight
from rlvla3.processing.presets import preset_processing
from rlvla3.processing.prompt_text import PromptText
from rlvla3.processing.resolution import merged
from rlvla3.types import Spaces


@dataclass(frozen=True)
class Inspected:
    """What is inspected.

    name: what was given. checkpoint: what other software made, if there is such a thing. folder: a policy that rlvla3 saved, if it is one.
    recipe: None where none was given. spaces: the simulator's, None where it is not known.
    """

    name: str
    checkpoint: Checkpoint | None
    folder: Path | None
    config: PolicyConfig
    options: VLAOptions
    recipe: Recipe | None
    spaces: Spaces | None

    @property
    def shown(self) -> int:
        """How many cameras are shown to the model. Without a simulator: all of them."""
        cameras = self.options.processing.images.cameras
        return sum(camera.camera is not None for camera in cameras) if self.spaces else len(cameras)


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model is fed it. ids: without padding."""

    instruction: str
    text: str
    ids: list[int]
    padding: int
    pad: int


def inspect(name: str, recipe: Path | None, overrides: Overrides) -> Inspected:
    """Find out what `name` is, and what it is fed. Raises RecipeError for what cannot be read, and for a recipe that does not fit."""
    path = path_of(name)
    run = find_run(path) if path.exists() else None
    folder = policy_folder(path) if path.exists() else path
    if path.exists() and is_saved_policy(folder):
        return _of_saved(name, folder, run[0].config if run and recipe is None else recipe, overrides)
    checkpoint = read_checkpoint(place := find_checkpoint(name), statistics=_statistics(overrides))
    if recipe is None:
        tree = {"policy": {"name": checkpoint.family, "checkpoint": str(place), "chunk": checkpoint.executed or 1}}
        config = make_recipe(tree, overrides, source=f"inspect {name}").policy
        return Inspected(name, checkpoint, None, config, _options_alone(config, checkpoint), None, None)
    return _with_recipe(name, checkpoint, None, _from(_recipe(recipe, overrides), place))


def _recipe(path: Path, overrides: Overrides) -> Recipe:
    """The recipe at `path`, or that of the run there."""
    run = find_run(path)
    return load_recipe(run[0].config if run else path, overrides)


def _from(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, whose policy starts from `folder`."""
    return recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"checkpoint": folder})})


def _with_recipe(name: str, checkpoint: Checkpoint | None, folder: Path | None, recipe: Recipe) -> Inspected:
    if checkpoint is not None and recipe.policy.name != checkpoint.family:
        raise RecipeError(
            f"{name} is a checkpoint of {checkpoint.family}, and the recipe has policy.name={recipe.policy.name}: set policy.name={checkpoint.family}"
        )
    spaces = preflight(recipe)
    options = policy_options(recipe.policy, spaces)
    assert isinstance(options, VLAOptions)
    if checkpoint is not None and folder is None:  # which statistics is for the recipe to say
        checkpoint = read_checkpoint(checkpoint.folder, statistics=options.statistics)
    return Inspected(name, checkpoint, folder, recipe.policy, options, recipe, spaces)


def _of_saved(name: str, folder: Path, recipe: Path | None, overrides: Overrides) -> Inspected:
    saved = read_checkpoint_config(folder)
    if saved.name not in get_args(Family):
        raise RecipeError(f"{name} holds a policy {saved.name}, which has no processing to inspect: inspected are {', '.join(get_args(Family))}")
    origin = kept_checkpoint(folder / ORIGINAL) if (folder / ORIGINAL).is_dir() else None
    if recipe is not None:
        return _with_recipe(name, origin, folder, _from(_recipe(recipe, overrides), folder))
    config = make_recipe({"policy": saved.config(folder).model_dump(mode="json")}, overrides, source=f"inspect {name}").policy
    options = policy_options(config, saved.spaces)
    assert isinstance(options, VLAOptions)
    return Inspected(name, origin, folder, config, options, None, saved.spaces)


def _statistics(overrides: Overrides) -> str | None:
    """Which statistics the settings name, for a checkpoint that has several."""
    chosen: str | None = make_recipe({}, overrides).policy.options.get("statistics")
    return chosen


def _options_alone(config: PolicyConfig, checkpoint: Checkpoint) -> VLAOptions:
    """The options that a checkpoint says without a simulator."""
    schema = options_class(config.name)
    assert issubclass(schema, VLAOptions)
    preset = preset_processing(config.options.get("preset"), checkpoint.family, checkpoint.layout)
    tree = merged(schema.usual("published"), *({"processing": part} for part in preset), checkpoint.options, config.options)
    return check_options(schema, tree, "policy.options")


def prompt_of(inspected: Inspected, instruction: str | None) -> Prompt | str:
    """The prompt of an instruction: of the given one, or of the recipe's first task. A sentence where there is no instruction, or no tokenizer.

    The state in it is the middle of what the statistics scale. Raises RecipeError for a prompt that is too long.
    """
    known = inspected.spaces.instructions if inspected.spaces else ()
    text = instruction if instruction is not None else next(iter(known), None)
    if text is None:
        return "no instruction: give --recipe or --instruction TEXT"
    how = inspected.options.processing
    try:
        writer = PromptText(how.prompt, inspected.shown)
    except RecipeError as error:
        if inspected.recipe is not None:
            raise
        return str(error)
    (written,) = writer.write([text], [[0.0] * state_numbers(inspected)])
    (ids,) = writer.encode([written])
    return Prompt(text, written, ids, how.prompt.length - len(ids), writer.tokenizer.pad)


def state_numbers(inspected: Inspected) -> int:
    """How many numbers of the state are fed, before padding."""
    state = inspected.options.processing.state
    return len(state.dimensions) or (inspected.spaces.state if inspected.spaces else state.normalisation.dimensions or state.size or 0)


def sources(inspected: Inspected) -> dict[str, list[str]]:
    """Which settings of processing come from where: recipe, checkpoint, preset or family. Later ones would have lost."""
    options = inspected.options
    layout = inspected.checkpoint.layout if inspected.checkpoint else None
    trees: list[tuple[str, Any]] = [("the recipe", inspected.config.options.get("processing", {}))]
    if inspected.folder is not None:
        trees = []
    if inspected.checkpoint is not None:
        trees.append(("the checkpoint", inspected.checkpoint.options.get("processing", {})))
    trees += [(f"preset {options.preset}", part) for part in reversed(preset_processing(options.preset, options.Family, layout))]
    trees.append((f"the family {options.Family}", type(options).usual("published")["processing"]))
    found: dict[str, list[str]] = {}
    for key in _leaves(options.processing.model_dump()):
        place = next((name for name, tree in trees if _has(tree, key)), None)
        if place is not None:
            found.setdefault(place, []).append(".".join(key))
    return found


def _leaves(tree: Any, before: tuple[str, ...] = ()) -> Sequence[tuple[str, ...]]:
    """The keys of settings. The numbers of a normalisation count as one."""
    if not isinstance(tree, dict) or before[-1:] == ("normalisation",):
        return [before]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, (*before, key))]


def _has(tree: Any, key: Sequence[str]) -> bool:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
