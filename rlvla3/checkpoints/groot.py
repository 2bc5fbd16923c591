"""GR00T N1.5's layout: config.json, model-*.safetensors with their index, and experiment_cfg/metadata.json with the statistics of each embodiment.

What NVIDIA keeps in its code, and not in its checkpoints, is assumed as most of its data configurations have it, and said in the notes. `statistics` says
whose numbers are used: an embodiment's tag, or `TAG/mean_std` where actions were scaled by means and deviations (NVIDIA has that for LIBERO-Goal).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.contents import Checkpoint
from rlvla3.checkpoints.groot_names import EMBODIMENTS, OTHER_PROCESSING, groot_sizes, weight_names
from rlvla3.checkpoints.groot_processing import bounds, carried, images, language_model, prompt
from rlvla3.checkpoints.weight_files import check_finite, count, read_json, read_weight_files
from rlvla3.errors import RecipeError
from rlvla3.metadata import shown

METADATA = "experiment_cfg/metadata.json"
BY_MEAN, GRIPPER = "mean_std", "gripper"
N1_5 = "gr00t_n1_5"
OTHERS = {
    "gr00t_n1": "GR00T N1, with another language model",
    "Gr00tN1d6": "GR00T N1.6, with another vision tower, a denoiser of 32 layers that attends to images and text by turns, and no future tokens",
    "Gr00tN1d7": "GR00T N1.7, with Qwen3-VL as its backbone, and states and actions of 132 numbers",
}
"""Other versions: model_type -> what they are."""

ONLY: Mapping[str, tuple[Any, Any]] = {
    "action_head_cfg.add_pos_embed": (True, True),
    "action_head_cfg.use_vlln": (True, True),
    "action_head_cfg.diffusion_model_cfg.norm_type": ("ada_norm", "ada_norm"),
    "action_head_cfg.diffusion_model_cfg.interleave_self_attention": (True, False),
    "action_head_cfg.diffusion_model_cfg.positional_embeddings": (None, "sinusoidal"),
    "action_head_cfg.diffusion_model_cfg.activation_fn": ("gelu-approximate", "gelu-approximate"),
    "action_head_cfg.diffusion_model_cfg.attention_bias": (True, True),
    "action_head_cfg.vl_self_attention_cfg.positional_embeddings": (None, "sinusoidal"),
    "backbone_cfg.reproject_vision": (False, False),
}
"""Choices of which one is built here: key of config.json -> that one, and what NVIDIA's code takes where the key is missing."""

Config = Mapping[str, Any]


def is_layout(folder: Path, config: Config) -> bool:
    """NVIDIA's config.json says the version of GR00T as model_type."""
    return "gr00t" in str(config.get("model_type", "")).lower()


def read(folder: Path, config: Config, statistics: str | None = None) -> Checkpoint:
    """Read a checkpoint of GR00T N1.5. statistics: the embodiment's tag. Raises RecipeError, naming file and key."""
    _check_version(folder, config)
    weights = read_weight_files(folder)
    names = weight_names()
    sizes = groot_sizes(folder, {name: stored.shape for name, stored in weights.items()})
    chosen, _, scaled = (statistics or "").partition("/")
    if scaled not in ("", BY_MEAN):
        raise RecipeError(f"statistics={statistics} is not known: write an embodiment's tag, or TAG/{BY_MEAN}")
    tag, known = _embodiment(folder, chosen or None)
    model = {**sizes, **_heads(folder, config), "horizon": _number(folder, config, "action_horizon"), "language": language_model(sizes, folder)}
    cameras = [f"video.{key}" for key in _table(folder, known, f"{tag}.modalities.video", "modalities", "video")]
    side, tokens = sizes["vision"]["image"], (sizes["vision"]["image"] // sizes["vision"]["patch"]) ** 2
    processing = {
        "images": images(cameras, side, crop=0.95, how="torchvision"),
        "state": {"size": sizes["state_size"], "normalisation": _normalisation(folder, tag, known, "state", sizes["state_size"])},
        "prompt": prompt(folder, len(cameras), tokens, "{text}"),
        "actions": {"size": sizes["action_size"], "normalisation": _normalisation(folder, tag, known, "action", sizes["action_size"], scaled == BY_MEAN)},
    }
    notes = [
        f"{folder} does not say in which order cameras, state and actions are fed, nor how they are scaled: the order of {METADATA}, minima and maxima, and a "
        f"centre crop of 0.95 are assumed, as in most of NVIDIA's data configurations. If actions were scaled by means and deviations, as for LIBERO-Goal, set "
        f"policy.options.statistics={tag}/{BY_MEAN}; for other differences set policy.options.processing",
        "Instructions are fed as in training. NVIDIA's policy, asked for a single observation, writes them as a list, ['...']: {list} instead of {text} in "
        "processing.prompt.template does so too",
    ]
    if tag in EMBODIMENTS:
        model["embodiment"] = EMBODIMENTS[tag]
    else:
        notes.append(
            f"{folder}: the place of embodiment {tag} in the weights is not known: 31, that of new robots, is assumed. Set policy.options.model.embodiment"
        )
    options = {"model": model, "processing": processing, "flow": {"denoising_steps": _number(folder, config, "action_head_cfg.num_inference_timesteps")}}
    return Checkpoint(folder, "groot", "groot", options, weights, names, carried(folder), tuple(notes))


def _check_version(folder: Path, config: Config) -> None:
    kind = str(config["model_type"])
    if kind != N1_5:
        what = OTHERS.get(kind, "a version of GR00T that is not known here")
        raise RecipeError(f"{folder / 'config.json'}: model_type {shown(kind)} is {what}: it is not supported. Give one of GR00T N1.5 (model_type {N1_5})")
    for key, (built, usual) in ONLY.items():
        value = _value(config, key, usual)
        if value != built:
            raise RecipeError(f"{folder / 'config.json'}: {key} is {shown(value)}, and only {built!r} is built here, as GR00T-N1.5-3B has it")


def _value(config: Config, key: str, default: Any = None) -> Any:
    content: Any = config
    for part in key.split("."):
        content = content.get(part, default) if isinstance(content, Mapping) else default
    return content


def _number(folder: Path, config: Config, key: str) -> int:
    return count(_value(config, key), f"{folder / 'config.json'}: {key}")


def _heads(folder: Path, config: Config) -> dict[str, Any]:
    """The sizes of the two transformers of the action head. Shapes do not show their heads."""
    sizes = {"layers": "num_layers", "heads": "num_attention_heads", "head_size": "attention_head_dim"}
    stacks = {"prefix_attention": "vl_self_attention_cfg", "denoiser": "diffusion_model_cfg"}
    return {ours: {size: _number(folder, config, f"action_head_cfg.{theirs}.{key}") for size, key in sizes.items()} | {} for ours, theirs in stacks.items()}


def _embodiment(folder: Path, statistics: str | None) -> tuple[str, Config]:
    """The tag and the metadata of the robot that acts."""
    metadata = read_json(folder / METADATA)
    if statistics is None and len(metadata) != 1:
        raise RecipeError(f"{folder / METADATA} has statistics of several embodiments: {', '.join(metadata) or 'none'}. Set statistics to one of them")
    tag = statistics or next(iter(metadata))
    if tag not in metadata:
        raise RecipeError(f"{folder / METADATA} has no embodiment {tag!r}: it has {', '.join(metadata) or 'none'}. Set statistics to one of them")
    if tag in OTHER_PROCESSING:
        raise RecipeError(
            f"{folder / METADATA}: embodiment {tag} is fed {OTHER_PROCESSING[tag]}, which is not done here: give a checkpoint of an embodiment whose state and "
            f"actions are scaled by minima and maxima, such as new_embodiment"
        )
    return tag, metadata[tag]


def _table(folder: Path, known: Config, place: str, *keys: str) -> Config:
    content: Any = known
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(content, Mapping) or not content:
        raise RecipeError(f"{folder / METADATA}: {place} is missing: it must say what the embodiment has. Copy the file again")
    return content


def _normalisation(folder: Path, tag: str, known: Config, modality: str, most: int, by_mean: bool = False) -> dict[str, Any]:
    """How all keys of a modality, one after the other, are scaled: by minima and maxima, or all but the gripper by means and deviations.

    most: how many numbers the model takes.
    """
    first, second = ("mean", "std") if by_mean else ("min", "max")
    place = f"{tag}.statistics.{modality}"
    numbers: dict[str, list[float]] = {first: [], second: []}
    for key in _table(folder, known, f"{tag}.modalities.{modality}", "modalities", modality):
        by_range = not by_mean or key == GRIPPER
        names = ("min", "max") if by_range else (first, second)
        one, two = (_numbers(folder, known, tag, modality, key, name) for name in names)
        if len(one) != len(two):
            raise RecipeError(f"{folder / METADATA}: {place}.{key} has {len(one)} numbers of {names[0]} and {len(two)} of {names[1]}. Copy the file again")
        if by_mean and by_range:  # minima and maxima, written as a mean and a deviation that scale alike
            one, two = [(low + high) / 2 for low, high in zip(one, two, strict=True)], [(high - low) / 2 for low, high in zip(one, two, strict=True)]
        numbers[first] += one
        numbers[second] += two
    if len(numbers[first]) > most:
        raise RecipeError(f"{folder / METADATA}: {place} has {len(numbers[first])} numbers, and the model takes {most} at most. It is of another model")
    source = f"{folder / METADATA} {place} ({first}, {second})"
    return {"method": "mean_std", **numbers, "source": source} if by_mean else bounds(numbers[first], numbers[second], source)


def _numbers(folder: Path, known: Config, tag: str, modality: str, key: str, statistic: str) -> list[float]:
    values = _value(known, f"statistics.{modality}.{key}.{statistic}")
    place = f"{folder / METADATA}: {tag}.statistics.{modality}.{key}.{statistic}"
    if not isinstance(values, list) or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise RecipeError(f"{place} is missing, or is no list of numbers. Compute the statistics again")
    check_finite(values, place)
    return [float(value) for value in values]
