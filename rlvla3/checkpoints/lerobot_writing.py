"""lerobot's layout, for a policy that came in another one or in none, and what a run changes in files that came in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvla3.checkpoints import pi_names, smolvla_names
from rlvla3.checkpoints.contents import Checkpoint, Family, files_in, write_json
from rlvla3.checkpoints.lerobot import ACTION, AFTER, BEFORE, STATE, STATE_PROMPT
from rlvla3.checkpoints.lerobot_statistics import EPSILON, MODES
from rlvla3.checkpoints.weight_files import StoredTensor, WeightFiles, read_json
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.errors import RecipeError
from rlvla3.types import Spaces

Tree = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

NORMALIZER, UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
KINDS = {STATE: "STATE", ACTION: "ACTION"}
RELATIVE, ABSOLUTE = "relative", "absolute"
"""Beginnings of the names that dimensions of actions get: lerobot says by their names which of them are not relative."""


def create(folder: Path, family: Family, options: Tree, spaces: Spaces, chunk: int, shapes: Shapes) -> Checkpoint:
    """Write config.json, the two pipelines and their statistics into `folder`. Returns a checkpoint of `shapes`, with a place for each tensor of the network.

    options: of the policy, as a plain tree. shapes: of the network's tensors. Raises RecipeError for what lerobot's files cannot say.
    """
    if options["processing"]["prompt"]["form"] not in (expected := _forms(family)):
        raise RecipeError(f"lerobot's {family} has prompts of form {' or '.join(expected)}, and this policy has {options['processing']['prompt']['form']}")
    features = _features(options["processing"], spaces)
    write_json(folder / "config.json", _config(family, options, features, chunk))
    _write_pipelines(folder, family, options["processing"], features)
    names = WeightNames(smolvla_names.RENAMES, unused=smolvla_names.UNUSED) if family == "smolvla" else pi_names.weight_names(family)
    theirs = {names.theirs(name): shape for name, shape in shapes.items()}
    if family == "smolvla":
        theirs[f"{smolvla_names.UNUSED[0]}weight"] = theirs[f"{smolvla_names.TEXT}.embed_tokens.weight"]
    else:
        theirs |= pi_names.head_shapes(theirs)
    prefix = "" if family == "smolvla" else pi_names.LEROBOT_PREFIX
    stored = {name: StoredTensor(folder / "model.safetensors", f"{prefix}{name}", shape, "F32") for name, shape in theirs.items()}
    return Checkpoint(folder, "lerobot", family, options, WeightFiles(stored), names, files_in(folder), executed=chunk)


def update(folder: Path, came: Checkpoint, options: Tree, chunk: int) -> list[str]:
    """Change what `folder`, written as it came, says otherwise than the policy's `options` do. Returns a sentence for each change."""
    config = read_json(folder / "config.json")
    steps = "num_steps" if came.family == "smolvla" else "num_inference_steps"
    wanted = {"chunk_size": options["model"]["horizon"], "n_action_steps": chunk, steps: options["flow"]["denoising_steps"]}
    said = [f"config.json: {key} was {config.get(key)}, and is {value} as in the run" for key, value in wanted.items() if config.get(key) != value]
    mapping = dict(config.get("normalization_mapping") or {})
    for key, name in ((STATE, "state"), (ACTION, "actions")):
        before, after = (tree[name]["normalisation"] for tree in (came.options["processing"], options["processing"]))
        if _numbers(before) != _numbers(after):
            mapping[KINDS[key]] = _replace_statistics(folder, key, after)
            said.append(f"the statistics of {name} are those of the run ({after.get('source') or 'the recipe'})")
    if said:
        write_json(folder / "config.json", {**config, **wanted, "normalization_mapping": mapping})
    return said


def _numbers(normalisation: Tree) -> list[Any]:
    return [normalisation.get("method", "none"), *(normalisation.get(name) or [] for name in ("mean", "std", "low", "high", "mask"))]


def _forms(family: Family) -> tuple[str, ...]:
    """openpi_line gives the same tokens as line, unless an instruction has underscores or spaces at its ends."""
    return ("task_state", "task") if family == "pi05" else ("line", "openpi_line")


def _features(processing: Tree, spaces: Spaces) -> dict[str, dict[str, Any]]:
    """lerobot's input features, and its output feature."""
    height, width = processing["images"]["size"]
    found: dict[str, dict[str, Any]] = {}
    for camera in processing["images"]["cameras"]:
        if camera["camera"] is not None:
            key = camera["key"] if "." in camera["key"] else f"observation.images.{camera['key']}"
            found[key] = {"type": "VISUAL", "shape": [3, *spaces.cameras[camera["camera"]][:2]]}
    state = processing["state"]
    found[STATE] = {"type": "STATE", "shape": [len(state["dimensions"]) or spaces.state]}
    for number in range(_empty(processing)):
        found[f"observation.images.empty_camera_{number}"] = {"type": "VISUAL", "shape": [3, height, width]}
    actions = processing["actions"]
    found[ACTION] = {"type": "ACTION", "shape": [max(actions["dimensions"] or [spaces.action.size - 1]) + 1]}
    return found


def _empty(processing: Tree) -> int:
    return sum(camera["camera"] is None for camera in processing["images"]["cameras"])


def _config(family: Family, options: Tree, features: Mapping[str, Any], chunk: int) -> dict[str, Any]:
    model, processing = options["model"], options["processing"]
    relative = any(processing["actions"]["relative"])
    height, width = processing["images"]["size"]
    config = {
        "type": family,
        "n_obs_steps": 1,
        "input_features": {key: feature for key, feature in features.items() if key != ACTION},
        "output_features": {ACTION: features[ACTION]},
        "chunk_size": model["horizon"],
        "n_action_steps": chunk,
        "max_state_dim": processing["state"]["size"] or model["state_size"],
        "max_action_dim": processing["actions"]["size"],
        "min_period": model["min_period"],
        "max_period": model["max_period"],
        "empty_cameras": _empty(processing),
        "normalization_mapping": _modes(processing),
        "tokenizer_max_length": processing["prompt"]["length"],
    }
    if family == "smolvla":
        return config | {"num_steps": options["flow"]["denoising_steps"], "resize_imgs_with_padding": [width, height], **_smolvla(model)}
    own = {"num_inference_steps": options["flow"]["denoising_steps"], "image_resolution": [height, width], "dtype": "float32"}
    return config | own | {"use_relative_actions": relative, "relative_exclude_joints": [ABSOLUTE] if relative else []}


def _smolvla(model: Tree) -> dict[str, Any]:
    """What SmolVLA's config.json says of the network."""
    heads = (model["vision"]["heads"], model["language"]["head_size"])
    known = next((name for name, sizes in smolvla_names.HEADS.items() if sizes == heads), None)
    if known is None:
        raise RecipeError(
            f"lerobot's files do not say how many heads SmolVLM has: {heads[0]} in the vision tower, of size {heads[1]} in the language model, is none of "
            f"{', '.join(smolvla_names.HEADS)}. Such a policy cannot be written in lerobot's layout"
        )
    same = model["expert"]["layers"] == model["language"]["layers"]
    special = bool(model["image_start"])
    if special and {key: model[key] for key in smolvla_names.SPECIAL_TOKENS} != smolvla_names.SPECIAL_TOKENS:
        raise RecipeError(
            f"lerobot's files cannot say model.image_start={model['image_start']}: they know {smolvla_names.SPECIAL_TOKENS['image_start']} or none"
        )
    return {
        "vlm_model_name": known,
        "load_vlm_weights": False,
        "add_image_special_tokens": special,
        "attention_mode": "self_attn" if model["self_attention_every"] == 1 else "cross_attn",
        "num_expert_layers": -1 if same else model["expert"]["layers"],
        "num_vlm_layers": model["language"]["layers"],
        "self_attn_every_n_layers": model["self_attention_every"] or -1,
        "expert_width_multiplier": model["expert"]["width"] / model["language"]["width"],
    }


def _write_pipelines(folder: Path, family: Family, processing: Tree, features: Mapping[str, Any]) -> None:
    modes, relative = _modes(processing), list(processing["actions"]["relative"])
    size = features[ACTION]["shape"][0]
    named = [f"{RELATIVE if number < len(relative) and relative[number] else ABSOLUTE}_{number}" for number in range(size)]
    prompt = processing["prompt"]
    tokens = {"max_length": prompt["length"], "task_key": "task", "padding_side": "right", "padding": "max_length", "truncation": True}
    text = [_step("tokenizer_processor", **tokens, tokenizer_name=prompt["tokenizer"])]
    if family == "pi05":
        text = [_step(STATE_PROMPT, **({} if prompt["form"] == "task_state" else {"include_state_in_prompt": False})), *text]
    else:
        text = [_step(f"{family}_new_line_processor"), *text]
    steps = [_step("rename_observations_processor", rename_map={}), _step("to_batch_processor")]
    normalizer = [_step(NORMALIZER, eps=EPSILON, features=features, norm_map=modes)]
    if family != "smolvla":
        excluded, names = ([ABSOLUTE], named) if any(relative) else ([], None)
        normalizer = [_step("relative_actions_processor", enabled=any(relative), exclude_joints=excluded, action_names=names), *normalizer]
    device = _step("device_processor", device="cpu", float_dtype=None)
    steps += [*normalizer, *text, device] if family == "pi05" else [*text, device, *normalizer]
    after = [_step(UNNORMALIZER, eps=EPSILON, features={ACTION: features[ACTION]}, norm_map=modes)]
    after += [_step("absolute_actions_processor", enabled=any(relative))] if family != "smolvla" else []
    statistics = {key: _statistics(processing[name]["normalisation"], features[key]["shape"][0]) for key, name in ((STATE, "state"), (ACTION, "actions"))}
    for file, own, keys in ((BEFORE, steps, (STATE, ACTION)), (AFTER, [*after, device], (ACTION,))):
        _write_state(folder, file, own, {key: statistics[key][1] for key in keys})
        write_json(folder / file, {"name": file.removesuffix(".json"), "steps": own})


def _step(name: str, **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config}


def _write_state(folder: Path, pipeline: str, steps: Sequence[dict[str, Any]], statistics: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Write the statistics of a pipeline into the file of its step, beside those that the file has already."""
    import torch
    from safetensors.torch import load_file, save_file

    place = next((number for number, step in enumerate(steps) if step.get("registry_name") in (NORMALIZER, UNNORMALIZER)), None)
    if place is None:
        raise RecipeError(f"{pipeline} has no step that scales numbers, so the statistics of the run have no place in it: export with another --layout")
    step = steps[place]
    name = step.setdefault("state_file", f"{pipeline.removesuffix('.json')}_step_{place}_{step['registry_name']}.safetensors")
    held = load_file(folder / name) if (folder / name).is_file() else {}
    for key, numbers in statistics.items():
        held |= {f"{key}.{statistic}": torch.tensor(values, dtype=torch.float32) for statistic, values in numbers.items()}
    save_file(held, folder / name)


def _replace_statistics(folder: Path, key: str, normalisation: Tree) -> str:
    """Write other statistics of a feature into the pipelines of `folder`. Returns lerobot's word for the normalisation."""
    mode, numbers = _statistics(normalisation, None)
    for file in (BEFORE, AFTER) if key == ACTION else (BEFORE,):
        if not (folder / file).is_file():
            raise RecipeError(f"this checkpoint of lerobot 0.3 has no {file}, so the statistics of the run have no place in it: convert it with lerobot first")
        content = read_json(folder / file)
        _write_state(folder, file, content["steps"], {key: numbers})
        for step in content["steps"]:
            if step.get("registry_name") in (NORMALIZER, UNNORMALIZER):
                step["config"]["norm_map"] = {**step["config"].get("norm_map", {}), KINDS[key]: mode}
        write_json(folder / file, content)
    return mode


def _modes(processing: Tree) -> dict[str, str]:
    found = {KINDS[key]: _statistics(processing[name]["normalisation"], None)[0] for key, name in ((STATE, "state"), (ACTION, "actions"))}
    return {"VISUAL": "IDENTITY", **found}


def _statistics(normalisation: Tree, size: int | None) -> tuple[str, dict[str, list[float]]]:
    """lerobot's word for a normalisation, and the statistics that it uses, of the first `size` dimensions. An unscaled dimension gets numbers that change
    nothing."""
    method = normalisation.get("method", "none")
    if method == "none":
        return "IDENTITY", {}
    mode, names, unscaled = ("MEAN_STD", ("mean", "std"), (0.0, 1.0)) if method == "mean_std" else ("QUANTILES", ("low", "high"), (-1.0, 1.0))
    mask = normalisation.get("mask") or [True] * len(normalisation[names[0]])
    numbers = {}
    for statistic, name, neutral in zip(MODES[mode], names, unscaled, strict=True):
        numbers[statistic] = [value if scaled else neutral for value, scaled in zip(normalisation[name], mask, strict=True)][:size]
    return mode, numbers
