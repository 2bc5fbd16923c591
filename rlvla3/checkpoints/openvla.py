"""OpenVLA-OFT's layout: a folder of transformers (config.json, model.safetensors or its parts) with dataset_statistics.json, and torch files of the regression
head and of the network for the state: action_head--STEP_checkpoint.pt, proprio_projector--STEP_checkpoint.pt.

What the authors give on the command line is not in their checkpoints: cameras, horizon, centre crop. It is assumed here, and `notes` says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlvla3.checkpoints.contents import Checkpoint
from rlvla3.checkpoints.shapes import Shapes
from rlvla3.checkpoints.torch_files import read_torch_header
from rlvla3.checkpoints.weight_files import COPY_AGAIN, WeightFiles, check_finite, read_json, read_weight_files
from rlvla3.checkpoints.weight_names import WeightNames
from rlvla3.errors import RecipeError
from rlvla3.metadata import Metadata, checked, shown

Config = Mapping[str, Any]

STATISTICS = "dataset_statistics.json"
NO_STATISTICS = "none"
HEAD, STATE, DIFFUSION, FILM = "action_head", "proprio_projector", "noisy_action_projector", "vision_backbone"
EPSILON = 1e-8
CROP = 0.9
PROMPT_LENGTH = 50
ACTION_SIZE = 7
"""Dimensions of an action where no statistics show them."""

EMPTY_TOKEN = 29871
"""Llama's token of an empty word. The authors add it to every prompt."""

HORIZONS = {"libero": 8, "aloha": 25, "bridge": 5}
"""Beginning of a data set's name -> actions of a chunk, as the authors' constants have it. All others have LIBERO's."""

BY_EXTREMES = "aloha"
"""Data sets that the authors scale by minimum and maximum, and not by quantiles."""

VISION_HEADS = 16
"""Attention heads of both towers. No shape shows them."""

MEANS, STDS = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5)), ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5))
"""How DINOv2 and SigLIP see colours, where preprocessor_config.json is missing."""

DINO, SIGLIP = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
LM_HEAD = "language_model.lm_head."


Size = Annotated[int, Field(ge=1, le=1_000_000)]


class LanguageModel(Metadata):
    """text_config of config.json: transformers leaves out what it assumes."""

    model_type: str = "llama"
    hidden_size: Size = 4096
    num_hidden_layers: Size = 32
    intermediate_size: Size = 11008
    num_attention_heads: Size = 32
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    vocab_size: Size = 32000
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0


class OpenVLAConfig(Metadata):
    """What is read of config.json."""

    text_config: LanguageModel | None = None
    pad_to_multiple_of: Annotated[int, Field(ge=0, le=1_000_000)] = 64


class Bounds(Metadata):
    """Statistics of actions, or of the state. Which of them are used depends on the data set."""

    q01: list[float] | None = None
    q99: list[float] | None = None
    min: list[float] | None = None
    max: list[float] | None = None
    mask: list[bool] | None = None


class DatasetStatistics(Metadata):
    """Statistics of one data set."""

    action: Bounds | None = None
    proprio: Bounds | None = None


class Colours(Metadata):
    """What is read of preprocessor_config.json: for each tower, three numbers."""

    means: list[list[float]] | None = None
    stds: list[list[float]] | None = None


def is_layout(folder: Path, config: Config) -> bool:
    """The model_type of OpenVLA and of OpenVLA-OFT is the same."""
    return config.get("model_type") == "openvla"


def read(folder: Path, config: Config, statistics: str | None = None) -> Checkpoint:
    """Read a checkpoint of OpenVLA-OFT. statistics: the data set's key, or `none`. Raises RecipeError, naming file and key."""
    said = checked(OpenVLAConfig, config, str(folder / "config.json"), COPY_AGAIN)
    _check_config(folder, config, said)
    weights = _weights(folder)
    head = "l1" if any(name.startswith(f"{HEAD}.") for name in weights) else "tokens"
    source, dataset, numbers = _statistics(folder, config, statistics)
    actions = _normalisation(source, dataset, numbers, "action")
    size = len(actions["low"]) if "low" in actions else ACTION_SIZE
    model = {**_sizes(folder, said, weights), "head": head, "horizon": _horizon(dataset), "action_size": size}
    processing = {
        "images": _images(folder, model["siglip"]["image"], head),
        "state": _state(source, dataset, numbers, model["state_size"]),
        "prompt": _prompt(folder),
        "actions": {"size": size, "normalisation": actions},
    }
    carried = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _is_carried(path, folder)))
    notes = tuple(_notes(folder, model, dataset))
    options = {"model": model, "processing": processing}
    return Checkpoint(folder, "openvla", "openvla_oft", options, weights, _names(model), carried, notes, executed=model["horizon"])


def _check_config(folder: Path, config: Config, said: OpenVLAConfig) -> None:
    path = folder / "config.json"
    for key, expected in (("use_fused_vision_backbone", True), ("image_resize_strategy", "resize-naive"), ("n_action_bins", 256)):
        if config.get(key, expected) != expected:
            raise RecipeError(f"{path}: {key} is {shown(config[key])}, and only {expected!r} is known here: give one of OpenVLA-OFT (dinosiglip, Llama 2)")
    if said.text_config and said.text_config.model_type != "llama":
        raise RecipeError(
            f"{path}: text_config.model_type is {shown(said.text_config.model_type)}, and only 'llama' is known here: give a checkpoint whose language model "
            f"is Llama"
        )
    for name, what in ((DIFFUSION, "denoises its actions"), (FILM, "has FiLM in its vision towers")):
        if found := _torch_file(folder, name):
            raise RecipeError(f"{found}: this variant of OpenVLA-OFT {what}, which is not known here: give one with action tokens or with the L1 head")
    if (folder / "lora_adapter").is_dir() and not list(folder.glob("model*.safetensors")):
        raise RecipeError(
            f"{folder} has lora_adapter/ and no model.safetensors: its adapters are not merged. Merge them with the authors' "
            f"vla-scripts/merge_lora_weights_and_save.py, and give that folder"
        )


def _torch_file(folder: Path, name: str) -> Path | None:
    """The authors' torch file of a part. Raises RecipeError where there are several."""
    found = sorted(folder.glob(f"{name}--*checkpoint.pt"))
    if len(found) > 1:
        raise RecipeError(f"{folder} has several files of {name}: {', '.join(path.name for path in found)}. Keep the one that belongs to the weights")
    return found[0] if found else None


def _weights(folder: Path) -> WeightFiles:
    weights = read_weight_files(folder)
    for part in (HEAD, STATE):
        if path := _torch_file(folder, part):
            # Data-parallel training puts `module.` in front of the names.
            weights |= WeightFiles({f"{part}.{name.removeprefix('module.')}": stored for name, stored in read_torch_header(path).items()})
    return weights


def _names(model: Config) -> WeightNames:
    """The features are those of the last layer but one of each tower. With the regression head, nothing uses the language head."""
    unused = [f"{tower}blocks.{model[name]['layers'] - 1}." for tower, name in ((DINO, "dino"), (SIGLIP, "siglip"))]
    unused += [f"{DINO}norm.", f"{SIGLIP}norm.", f"{SIGLIP}attn_pool."]
    return WeightNames(unused=(*unused, LM_HEAD) if model["head"] == "l1" else tuple(unused))


def _sizes(folder: Path, said: OpenVLAConfig, weights: WeightFiles) -> dict[str, Any]:
    """The sizes of the network as policies.openvla_oft.options.OpenVLAOFTModel has them."""

    known = Shapes(str(folder), "checkpoint of OpenVLA-OFT", {name: stored.shape for name, stored in weights.items()})

    def tower(prefix: str) -> dict[str, int]:
        width, _, patch, _ = known.of(f"{prefix}patch_embed.proj.weight", 4)
        side = math.isqrt(known.of(f"{prefix}pos_embed", 3)[1]) * patch
        sizes = {"image": side, "patch": patch, "width": width, "layers": known.layers(f"{prefix}blocks."), "heads": VISION_HEADS}
        return {**sizes, "mlp_width": known.of(f"{prefix}blocks.0.mlp.fc1.weight", 2)[0]}

    text = said.text_config or LanguageModel()
    language = {"width": text.hidden_size, "layers": text.num_hidden_layers, "mlp_width": text.intermediate_size, "heads": text.num_attention_heads}
    language["key_value_heads"] = text.num_key_value_heads or language["heads"]
    projection = f"{STATE}.fc1.weight"
    return {
        "dino": tower(DINO),
        "siglip": tower(SIGLIP),
        "language": {**language, "head_size": text.head_dim or language["width"] // language["heads"]},
        "vocabulary": text.vocab_size,
        "filling": said.pad_to_multiple_of,
        "norm_epsilon": text.rms_norm_eps,
        "rope_theta": text.rope_theta,
        "state_size": known.of(projection, 2)[1] if projection in weights else None,
    }


def _statistics(folder: Path, config: Config, chosen: str | None) -> tuple[Path, str, Config]:
    """The file, the data set's key and its numbers. As for the authors, dataset_statistics.json counts before config.json."""
    if chosen == NO_STATISTICS:
        return folder, NO_STATISTICS, {}
    path = folder / STATISTICS
    found = read_json(path) if path.is_file() else config.get("norm_stats")
    path = path if path.is_file() else folder / "config.json"
    if not isinstance(found, dict) or not found:
        raise RecipeError(
            f"{folder} has no statistics: neither {STATISTICS} nor norm_stats in config.json. Copy {STATISTICS} there, or set "
            f"policy.options.statistics=none for a model whose statistics will be computed"
        )
    if chosen is None and len(found) > 1:
        raise RecipeError(f"{path} has statistics of several data sets: {', '.join(found)}. Set policy.options.statistics to one of them")
    key = next(iter(found)) if chosen is None else chosen
    if key not in found:
        raise RecipeError(f"{path} has no statistics {key!r}: it has {', '.join(found)}. Set policy.options.statistics to one of them")
    if not isinstance(found[key], dict):
        raise RecipeError(f"{path}: {key} holds a {type(found[key]).__name__}, and must hold statistics of action and proprio. Copy it again")
    return path, key, found[key]


def _numbers(path: Path, dataset: str, statistics: Config, what: str) -> tuple[list[float], list[float], list[bool]]:
    """Lower and upper bound of each dimension, and whether it is scaled."""
    low, high = ("min", "max") if dataset.startswith(BY_EXTREMES) else ("q01", "q99")
    place = f"{path}: {dataset}"
    entry = getattr(checked(DatasetStatistics, statistics, place, "Copy the file again"), what) or Bounds()
    bounds: list[list[float]] = []
    for key in (low, high):
        values = getattr(entry, key)
        if not values:
            raise RecipeError(f"{place}.{what}.{key} is missing, or is no list of numbers. Copy the file again")
        check_finite(values, f"{place}.{what}.{key}")
        bounds.append(values)
    mask = entry.mask or [True] * len(bounds[0])
    if not len(bounds[0]) == len(bounds[1]) == len(mask):
        raise RecipeError(
            f"{place}.{what} has {len(bounds[0])} numbers of {low}, {len(bounds[1])} of {high} and {len(mask)} of mask, and must have one for each "
            f"dimension. Copy the file again"
        )
    return bounds[0], bounds[1], mask


def _normalisation(path: Path, dataset: str, statistics: Config, what: str) -> dict[str, Any]:
    if dataset == NO_STATISTICS:
        return {"method": "none"}
    low, high, mask = _numbers(path, dataset, statistics, what)
    keys = "min, max" if dataset.startswith(BY_EXTREMES) else "q01, q99"
    settings = {"method": "bounds", "source": f"{path} {dataset}.{what} ({keys})", "low": low, "high": high, "mask": mask, "epsilon": EPSILON}
    return {**settings, "double": True, "clip": what == "proprio"}


def _state(path: Path, dataset: str, statistics: Config, size: int | None) -> dict[str, Any]:
    if size is None:
        return {"size": None, "normalisation": {"method": "none"}}
    normalisation = _normalisation(path, dataset, statistics, "proprio")
    if dataset != NO_STATISTICS and len(normalisation["low"]) != size:
        raise RecipeError(f"{path}: {dataset}.proprio has {len(normalisation['low'])} numbers, and {STATE} takes {size}: they are of different robots")
    return {"size": size, "normalisation": normalisation}


def _images(folder: Path, side: int, head: str) -> dict[str, Any]:
    path = folder / "preprocessor_config.json"
    colours = checked(Colours, read_json(path) if path.is_file() else {}, str(path), "Copy the file again")
    means, stds = colours.means or MEANS, colours.stds or STDS
    if [len(numbers) for numbers in (*means, *stds)] != [3] * 4:
        raise RecipeError(f"{path}: means and stds must have three numbers for each of the two vision towers. Copy the file again")
    cameras = [{"key": "full_image"}, {"key": "wrist_image"}]
    return {
        "cameras": cameras if head == "l1" else cameras[:1],
        "size": [side, side],
        "resize": "stretch",
        "filter": "lanczos3",
        "crop": CROP,
        "mean": [number for mean in means for number in mean],
        "std": [number for std in stds for number in std],
    }


def _prompt(folder: Path) -> dict[str, Any]:
    local = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    tokenizer = str(folder) if local else "openvla/openvla-7b"
    return {"form": "openvla", "end": [EMPTY_TOKEN], "begin": "always", "length": PROMPT_LENGTH, "tokenizer": tokenizer}


def _horizon(dataset: str) -> int:
    return next((horizon for name, horizon in HORIZONS.items() if dataset.startswith(name)), HORIZONS["libero"])


def _is_carried(path: Path, folder: Path) -> bool:
    """All but weights. Adapters that are merged already would not belong to the weights that are written."""
    is_weights = path.suffix == ".pt" or (path.name.startswith("model") and (path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json")))
    return not is_weights and path.relative_to(folder).parts[0] != "lora_adapter"


def _notes(folder: Path, model: Config, dataset: str) -> list[str]:
    cameras = "two cameras are assumed, the scene's and the hand's" if model["head"] == "l1" else "one camera is assumed, the scene's"
    known = "" if dataset == NO_STATISTICS else f" for {dataset}"
    notes = [
        f"{folder} does not say how many cameras it was trained with: {cameras}. Others: processing.images.cameras",
        f"{folder} does not say its horizon: {model['horizon']} actions are assumed{known}. Another: policy.options.model.horizon",
        f"{folder} does not say whether its images were cropped in training: a crop of {CROP:.0%} of the area is assumed, as the authors evaluate",
        "the authors' images were compressed as JPEG before they were resized, and these are not: pixels differ a little",
    ]
    if model["head"] == "tokens":
        notes.append(
            "RLinf's code has no stop token behind the actions, no centre crop, and resizes in another way: for its checkpoints set "
            "policy.options.model.stop_token=false and policy.options.processing.images={crop: 1, filter: torchvision_bicubic}"
        )
    if (folder / "lora_adapter").is_dir():
        notes.append(f"{folder} has lora_adapter/, whose changes are in model.safetensors already: it is not read, and not written again")
    return notes
