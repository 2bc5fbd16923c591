"""lerobot's layout, of versions 0.4 to 0.6: config.json, model.safetensors, and the steps of policy_preprocessor.json and policy_postprocessor.json.

Invariant: what is fed comes from the steps and their files. No file name is built, and no normalisation is assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlvla3.checkpoints import pi_names, smolvla_names
from rlvla3.checkpoints.contents import Checkpoint, Family
from rlvla3.checkpoints.lerobot_groot import read_groot
from rlvla3.checkpoints.lerobot_statistics import OLD, Statistics, buffers_of_old, is_old_buffer, statistics_of
from rlvla3.checkpoints.weight_files import COPY_AGAIN, MOST_COUNTED, WeightFiles, count, read_json, read_weight_files
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, PathWithin, checked, shown

FAMILIES: Mapping[str, Family] = {"pi0": "pi0", "pi05": "pi05", "smolvla": "smolvla"}
BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
STATE, ACTION = "observation.state", "action"
LINES = {"pi0_new_line_processor", "smolvla_new_line_processor"}
STATE_PROMPT = "pi05_prepare_state_tokenizer_processor_step"
HARMLESS = {"to_batch_processor", "device_processor", "rename_observations_processor", "normalizer_processor", "unnormalizer_processor", "tokenizer_processor"}
HARMLESS |= {"relative_actions_processor", "absolute_actions_processor", STATE_PROMPT, *LINES}
"""The steps that are known. Any other is refused: it would change what the model is fed."""

Config = Mapping[str, Any]


class Feature(Metadata):
    """What goes into a policy, or comes out."""

    type: str
    shape: list[Count]


class LeRobotConfig(Metadata):
    """What is read of config.json. A family's own sizes are asked for where they are needed."""

    type: str
    input_features: dict[str, Feature] | None = None
    output_features: dict[str, Feature] | None = None
    normalization_mapping: dict[str, str] | None = None
    image_resolution: list[Count] | None = None
    resize_imgs_with_padding: list[Count] | None = None
    empty_cameras: Annotated[int, Field(ge=0, le=100)] = 0
    adapt_to_pi_aloha: bool | None = None
    tokenizer_max_length: Count | None = None
    vlm_model_name: str | None = None
    min_period: float | None = None
    max_period: float | None = None


class StepSettings(Metadata):
    """The settings of all known steps of a pipeline."""

    eps: Annotated[float, Field(ge=0)] | None = None
    norm_map: dict[str, str] | None = None
    rename_map: dict[str, str] | None = None
    max_length: Annotated[int, Field(ge=1, le=100_000)] | None = None
    padding_side: str | None = None
    tokenizer_name: str | None = None
    enabled: bool | None = None
    action_names: list[str] | None = None
    exclude_joints: list[str] | None = None
    include_state_in_prompt: bool | None = None


class Step(Metadata):
    """A step of a pipeline."""

    registry_name: str | None = None
    config: StepSettings | None = None
    state_file: PathWithin | None = None


class Pipeline(Metadata):
    """policy_preprocessor.json or policy_postprocessor.json."""

    steps: list[Step]


def is_layout(folder: Path, config: Config) -> bool:
    """lerobot's config.json says the `type` of the policy and its features."""
    return "type" in config and ("input_features" in config or "normalization_mapping" in config or (folder / BEFORE).is_file())


def read(folder: Path, config: Config, statistics: str | None = None) -> Checkpoint:
    """Read a checkpoint of lerobot. Raises RecipeError, naming file and key."""
    checked(LeRobotConfig, config, str(folder / "config.json"), COPY_AGAIN)
    if config["type"] not in (*FAMILIES, "groot"):
        raise RecipeError(f"{folder / 'config.json'}: type is {shown(config['type'])}, and must be one of {', '.join(FAMILIES)}, groot")
    if statistics is not None:
        raise RecipeError(f"{folder} has one set of statistics: leave out statistics={statistics}")
    if config["type"] == "groot":
        return read_groot(folder, config)
    family = FAMILIES[config["type"]]
    weights, names = _named(read_weight_files(folder), family)
    before, after, notes = _pipelines(folder, weights)
    actions, more = _actions(folder, config, before, after, weights)
    prompt, asked = _prompt(folder, family, config, before)
    state, told = _state(folder, family, config, before, weights)
    processing = {"images": _images(folder, family, config, before), "state": state, "prompt": prompt, "actions": actions}
    steps = _number(folder, config, "num_steps" if family == "smolvla" else "num_inference_steps")
    model = _model(folder, family, config, weights)
    options = {"model": model, "processing": processing, "flow": {"denoising_steps": steps}}
    carried = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not _is_weights(path)))
    notes = (*notes, *told, *asked, *more, *(pi_names.notes_on_sizes(folder, model) if family != "smolvla" else ()))
    return Checkpoint(folder, "lerobot", family, options, weights, names, carried, notes, _number(folder, config, "n_action_steps"))


def _is_weights(path: Path) -> bool:
    return path.name.startswith("model") and (path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"))


def _named(weights: WeightFiles, family: Family) -> tuple[WeightFiles, WeightNames]:
    """The weights by today's names, and how these correspond to the network's. lerobot reads pi0's and pi0.5's weights with and without "model." in front."""
    if family == "smolvla":
        return weights, WeightNames(renames=smolvla_names.RENAMES, unused=(*smolvla_names.UNUSED, *OLD))
    prefix = pi_names.LEROBOT_PREFIX
    renamed = weights.renamed(lambda name: name if is_old_buffer(name) else pi_names.todays_name(name.removeprefix(prefix), family))
    return renamed, pi_names.weight_names(family, unused=OLD)


def _pipelines(folder: Path, weights: WeightFiles) -> tuple[list[Config], list[Config], Sequence[str]]:
    """The steps before and after the model. Checkpoints of lerobot 0.3 have none, and keep their statistics among the weights."""
    if not (folder / BEFORE).is_file() and any(is_old_buffer(name) for name in weights):
        return [], [], [f"{folder} has no {BEFORE}: it was saved by lerobot 0.3 or older. Its statistics are read from model.safetensors"]
    pipelines = [_steps(folder / BEFORE), _steps(folder / AFTER)]
    return pipelines[0], pipelines[1], []


def _steps(path: Path) -> list[Config]:
    pipeline = read_json(path)
    checked(Pipeline, pipeline, str(path), "It may be half-written: copy it again")
    steps: list[Config] = pipeline["steps"]
    for step in steps:
        if _name(step) not in HARMLESS:
            raise RecipeError(
                f"{path}: the step {_name(step)} is not known here, and would change what the model is fed: known are {', '.join(sorted(HARMLESS))}"
            )
    return steps


def _name(step: Config) -> str:
    return str(step.get("registry_name") or step.get("class") or step)


def _step(steps: Sequence[Config], *names: str) -> Config | None:
    """The first step of one of these names."""
    return next((step for step in steps if _name(step) in names), None)


def _settings(step: Config | None) -> Config:
    return (step or {}).get("config") or {}


def _number(folder: Path, config: Config, key: str) -> int:
    return count(config.get(key), f"{folder / 'config.json'}: {key}")


def _features(config: Config, which: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """key -> type and shape."""
    return {key: (feature["type"], tuple(feature["shape"])) for key, feature in (config.get(which) or {}).items()}


def _images(folder: Path, family: Family, config: Config, before: Sequence[Config]) -> dict[str, Any]:
    keys = [key for key, (kind, _) in _features(config, "input_features").items() if kind == "VISUAL"]
    renamed = _settings(_step(before, "rename_observations_processor")).get("rename_map") or {}
    known = {new: old for old, new in renamed.items()}
    cameras = [{"key": key, **({"known_as": known[key]} if key in known else {})} for key in keys]
    size = config.get("resize_imgs_with_padding" if family == "smolvla" else "image_resolution")
    if not isinstance(size, list) or len(size) != 2 or not all(0 < side <= MOST_COUNTED for side in size):
        raise RecipeError(f"{folder / 'config.json'}: the size of images is {shown(size)}, and must be two numbers: images of other sizes are not read")
    if (kind := (_settings(_step(before, "normalizer_processor")).get("norm_map") or {}).get("VISUAL", "IDENTITY")) != "IDENTITY":
        raise RecipeError(f"{folder / BEFORE}: norm_map.VISUAL is {kind}, and must be IDENTITY: images that are scaled by statistics are not read")
    usual = {"cameras": cameras, "filter": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
    if family == "smolvla":
        return {**usual, "size": [size[1], size[0]], "resize": "pad_corner", "empty": config.get("empty_cameras") or 0}
    return {**usual, "size": size, "resize": "pad"}


def _state(folder: Path, family: Family, config: Config, before: Sequence[Config], weights: WeightFiles) -> tuple[dict[str, Any], list[str]]:
    expected = _features(config, "input_features").get(STATE, ("STATE", ()))[1]
    found = _statistics(folder, BEFORE, before, "normalizer_processor", config, weights).read(STATE, "STATE", expected)
    notes = [] if found["method"] != "none" else [f"{folder} has no statistics of the state: it is fed as it is, unless cloning computes them"]
    return {"size": None if family == "pi05" else _number(folder, config, "max_state_dim"), "normalisation": found}, notes


def _statistics(folder: Path, pipeline: str, steps: Sequence[Config], name: str, config: Config, weights: WeightFiles) -> Statistics:
    step = _step(steps, name)
    if step is None:
        return buffers_of_old(folder, config, weights, "normalize_inputs" if name == "normalizer_processor" else "unnormalize_outputs")
    return statistics_of(folder, pipeline, step)


def _prompt(folder: Path, family: Family, config: Config, before: Sequence[Config]) -> tuple[dict[str, Any], list[str]]:
    tokenizer, state_step = _step(before, "tokenizer_processor"), _step(before, STATE_PROMPT)
    settings, notes = _settings(tokenizer), []
    if (settings.get("padding_side") or "right") != "right":
        raise RecipeError(f"{folder / BEFORE}: tokenizer_processor has padding_side {settings['padding_side']!r}, and only right is read")
    length = count(settings.get("max_length", config.get("tokenizer_max_length")), f"{folder / BEFORE}: max_length of tokenizer_processor")
    form = "line" if _step(before, *LINES) or not before else "plain"
    if state_step is not None:
        form = "task_state" if _settings(state_step).get("include_state_in_prompt", True) else "task"
        if form == "task_state" and _step(before, "relative_actions_processor") is None:
            notes = [
                f"{folder} was saved by lerobot 0.5.0 or older, or started from such a checkpoint. lerobot 0.4 padded the state in the prompt to "
                f"{config.get('max_state_dim')} numbers, and later ones do not. It is not padded here: if it was trained with 0.4, set "
                f"processing.prompt.state_size={config.get('max_state_dim')}"
            ]
    local = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    name = str(folder) if local else settings.get("tokenizer_name") or config.get("vlm_model_name") or "google/paligemma-3b-pt-224"
    return {"form": form, "length": length, "begin": "tokenizer", "tokenizer": name}, notes


def _actions(folder: Path, config: Config, before: Sequence[Config], after: Sequence[Config], weights: WeightFiles) -> tuple[dict[str, Any], list[str]]:
    shape = _features(config, "output_features").get(ACTION, ("ACTION", ()))[1]
    found = _statistics(folder, AFTER, after, "unnormalizer_processor", config, weights).read(ACTION, "ACTION", shape)
    notes = [] if found["method"] != "none" else [f"{folder} has no statistics of actions: unless cloning computes them, the model's numbers are executed"]
    size = _number(folder, config, "max_action_dim")
    enabled = [
        bool(_settings(_step(steps, name)).get("enabled")) for steps, name in ((before, "relative_actions_processor"), (after, "absolute_actions_processor"))
    ]
    if enabled[0] != enabled[1]:
        raise RecipeError(f"{folder}: relative_actions_processor and absolute_actions_processor must both be enabled, or neither: they are {enabled}")
    relative = _relative(_settings(_step(before, "relative_actions_processor")), shape[0] if shape else size) if enabled[0] else []
    if config.get("adapt_to_pi_aloha"):
        raise RecipeError(
            f"{folder / 'config.json'}: adapt_to_pi_aloha is true, and Aloha's joints are not converted here: set it to false, or convert the data"
        )
    return {"size": size, "normalisation": found, "relative": relative, "gripper": "as_is"}, notes


def _relative(settings: Config, size: int) -> list[bool]:
    """Which dimensions are relative: all, but those whose names hold the name of an excluded joint."""
    names, excluded = settings.get("action_names"), [str(joint).lower() for joint in settings.get("exclude_joints") or [] if joint]
    if not names or not excluded:
        return [True] * size
    mask = [not any(joint in str(name).lower() for joint in excluded) for name in names[:size]]
    return mask + [True] * (size - len(mask))


def _model(folder: Path, family: Family, config: Config, weights: WeightFiles) -> dict[str, Any]:
    shapes = {name: stored.shape for name, stored in weights.items()}
    if family == "smolvla":
        return smolvla_names.smolvla_sizes(folder, config, shapes)
    periods = {name: config[name] for name in ("min_period", "max_period") if name in config}
    return {**pi_names.pi_sizes(folder, family, shapes), "horizon": _number(folder, config, "chunk_size"), **periods}
