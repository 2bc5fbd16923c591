"""openpi's layout: model.safetensors of its PyTorch code, or params/ of its JAX code, with norm_stats.json under assets/ASSET_ID/.

RLinf puts norm_stats.json under ASSET_ID/ directly. What openpi keeps in its code and not in its checkpoints, such as the cameras of a robot, comes from a
preset (processing/presets.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlvla3.checkpoints import pi_names
from rlvla3.checkpoints.contents import Checkpoint, Family
from rlvla3.checkpoints.weight_files import COPY_AGAIN, WeightFiles, check_finite, has_weights, read_json, read_weight_files
from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, checked

KEYS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
STATISTICS = "norm_stats.json"
NO_STATISTICS = "none"
EPSILON = 1e-6
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model")

Config = Mapping[str, Any]


class OpenpiConfig(Metadata):
    """What is read of config.json."""

    action_dim: Count | None = None
    action_horizon: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Statistics(Metadata):
    """The numbers of state or actions. A family has means and deviations, or quantiles."""

    mean: list[float] | None = None
    std: list[float] | None = None
    q01: list[float] | None = None
    q99: list[float] | None = None


class StatisticsFile(Metadata):
    """norm_stats.json."""

    norm_stats: dict[str, Statistics]


def is_layout(folder: Path, config: Config) -> bool:
    """openpi's converter writes the variants of PaliGemma, and no type. RLinf writes weights alone. JAX's weights are in params/."""
    if "type" in config or "model_type" in config:
        return False
    return "paligemma_variant" in config or (folder / "params").is_dir() or _weights_are_openpi(folder)


def read(folder: Path, config: Config, statistics: str | None = None) -> Checkpoint:
    """Read a checkpoint of openpi. statistics: the asset id, or `none`. Raises RecipeError, naming file and key."""
    said = checked(OpenpiConfig, config, str(folder / "config.json"), COPY_AGAIN)
    family, weights = _weights(folder)
    sizes = pi_names.pi_sizes(folder, family, {name: stored.shape for name, stored in weights.items()})
    size = sizes["action_size"]
    if said.action_dim not in (None, size):
        raise RecipeError(f"{folder / 'config.json'}: action_dim is {said.action_dim}, and action_in_proj.weight takes {size}. Copy the checkpoint again")
    notes = [
        *pi_names.notes_on_sizes(folder, sizes),
        f"openpi's checkpoints do not say which cameras and which numbers of the state are fed: a preset does, or the recipe ({folder})",
    ]
    if not has_weights(folder):
        notes.append(f"{folder} holds weights of openpi's JAX code. They are written again as those of its PyTorch code, which openpi loads as well")
    if said.action_horizon is None:
        notes.append(f"{folder} does not say its horizon: 50 is assumed. RLinf's have 5 or 10: set policy.options.model.horizon")
    normalisations = _normalisations(folder, family, statistics)
    local = any((folder / name).is_file() for name in TOKENIZERS)
    prompt = {"length": 48 if family == "pi0" else 200, "begin": "always", "tokenizer": str(folder) if local else "google/paligemma-3b-pt-224"}
    if family == "pi0":
        prompt["form"] = "openpi_line"
    else:
        notes.append(f"{folder} does not say whether the state is part of the prompt (discrete_state_input): a preset does, or processing.prompt.form")
    processing = {
        "images": {"cameras": [{"key": key} for key in KEYS], "size": [224, 224], "resize": "pad", "filter": "pillow", "mean": [0.5] * 3, "std": [0.5] * 3},
        "state": {"size": size if family == "pi0" else None, "normalisation": normalisations["state"]},
        "prompt": prompt,
        "actions": {"size": size, "normalisation": normalisations["actions"], "gripper": "as_is"},
    }
    options = {"model": {**sizes, "horizon": said.action_horizon or 50}, "processing": processing, "flow": {"denoising_steps": 10}}
    carried = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _is_carried(path, folder)))
    return Checkpoint(folder, "openpi", family, options, weights, pi_names.weight_names(family), carried, tuple(notes))


def _is_carried(path: Path, folder: Path) -> bool:
    is_weights = ".safetensors" in path.name or path.suffix in (".pt", ".pth", ".bin")
    return not is_weights and path.relative_to(folder).parts[0] not in ("params", "train_state")


def _weights_are_openpi(folder: Path) -> bool:
    return has_weights(folder) and "action_in_proj.weight" in read_weight_files(folder)


def _weights(folder: Path) -> tuple[Family, WeightFiles]:
    if has_weights(folder):
        weights = read_weight_files(folder)
        if "action_in_proj.weight" not in weights:
            raise RecipeError(f"{folder}: action_in_proj.weight is missing: these are not the weights of pi0 or pi0.5. Give another checkpoint")
        family = _family(folder, weights)
        return family, weights.renamed(lambda name: pi_names.todays_name(name, family))
    if (folder / "params").is_dir():
        from rlvla3.checkpoints.openpi_jax import JaxWeights

        jax_weights = JaxWeights(folder)
        return _family(folder, jax_weights), jax_weights
    raise RecipeError(f"{folder / 'model.safetensors'} is missing: a checkpoint needs it. Copy it there, or give another checkpoint")


def _family(folder: Path, weights: WeightFiles) -> Family:
    """pi0.5 has no token of the state; its time goes through a network of its own."""
    if "time_mlp_in.weight" in weights:
        return "pi05"
    if "action_time_mlp_in.weight" in weights:
        return "pi0"
    raise RecipeError(f"{folder}: neither time_mlp_in.weight nor action_time_mlp_in.weight is there: these are not the weights of pi0 or pi0.5")


def _normalisations(folder: Path, family: Family, statistics: str | None) -> dict[str, dict[str, Any]]:
    """The settings of state and actions (specification.Normalisation)."""
    if statistics == NO_STATISTICS:
        return {name: {"method": "none"} for name in ("state", "actions")}
    path = _statistics_file(folder, statistics)
    found = checked(StatisticsFile, read_json(path), str(path), "It must hold statistics of state and actions. Compute them again").norm_stats
    return {name: _normalisation(path, name, found.get(name) or Statistics(), family) for name in ("state", "actions")}


def _statistics_file(folder: Path, statistics: str | None) -> Path:
    roots = [root for root in (folder / "assets", folder) if root.is_dir()]
    found = {str(path.parent.relative_to(root)): path for root in reversed(roots) for path in sorted(root.rglob(STATISTICS))}
    found = {name: path for name, path in found.items() if not name.startswith("assets/")}
    if statistics is not None:
        if statistics not in found:
            raise RecipeError(f"{folder} has no statistics {statistics!r}: it has {', '.join(found) or 'none'}. Set statistics to one of them")
        return found[statistics]
    if not found:
        raise RecipeError(
            f"{folder} has no {STATISTICS}: openpi keeps it in assets/ASSET_ID/, beside params/ of the JAX checkpoint. Copy assets/ there, or set "
            f"statistics=none for a model whose statistics will be computed"
        )
    if len(found) > 1:
        raise RecipeError(f"{folder} has statistics of several robots or data sets: {', '.join(found)}. Set statistics to one of them")
    return next(iter(found.values()))


def _normalisation(path: Path, name: str, found: Statistics, family: Family) -> dict[str, Any]:
    """pi0 is scaled by mean and deviation, all others by quantiles."""
    first, second = ("mean", "std") if family == "pi0" else ("q01", "q99")
    numbers: dict[str, list[float]] = {}
    for key in (first, second):
        values = getattr(found, key)
        if values is None:
            raise RecipeError(f"{path}: norm_stats.{name}.{key} is missing: {family} needs it. Compute the statistics again")
        check_finite(values, f"{path}: norm_stats.{name}.{key}")
        numbers[key] = values
    if len(numbers[first]) != len(numbers[second]):
        raise RecipeError(f"{path}: norm_stats.{name} has {len(numbers[first])} numbers of {first}, and {len(numbers[second])} of {second}. Copy it again")
    names = ("mean", "std") if family == "pi0" else ("low", "high")
    values = dict(zip(names, (numbers[first], numbers[second]), strict=True))
    return {"method": "mean_std" if family == "pi0" else "bounds", "source": f"{path} {name} ({first}, {second})", **values, "epsilon": EPSILON, "double": True}
