"""Statistics of lerobot's checkpoints: in the state files of normalizer steps, or among the weights of checkpoints of lerobot 0.3 and older."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.weight_files import StoredTensor, WeightFiles, read_header, read_numbers
from rlvla3.errors import RecipeError

MODES: Mapping[str, tuple[str, str]] = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
"""Normalisation -> the statistics that it uses."""

EPSILON = 1e-8
OLD = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")


@dataclass(frozen=True)
class Statistics:
    """The statistics of one step. tensors: "key.statistic" -> where it is stored. modes: type of a feature -> normalisation. place: for messages."""

    tensors: Mapping[str, StoredTensor]
    modes: Mapping[str, str]
    epsilon: float
    place: str

    def read(self, key: str, kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
        """The normalisation of feature `key`, as settings (specification.Normalisation). shape: what config.json says that the feature has.

        A feature without statistics stays as it is, as lerobot has it. Where norm_map asks for some and there are none, as in base checkpoints, the settings
        name no source: cloning computes them then. Raises RecipeError.
        """
        mode = self.modes.get(kind, "IDENTITY")
        if mode == "IDENTITY":
            return {"method": "none", "source": self.place}
        if not any(name.rsplit(".", 1)[0] == key for name in self.tensors):
            return {"method": "none"}
        if mode not in MODES:
            raise RecipeError(f"{self.place}: norm_map.{kind} is {mode!r}, and must be one of IDENTITY, {', '.join(MODES)}")
        first, second = (self._numbers(f"{key}.{statistic}", mode, shape) for statistic in MODES[mode])
        source = f"{self.tensors[f'{key}.{MODES[mode][0]}'].file} {key} ({mode})"
        if mode == "MEAN_STD":
            return {"method": "mean_std", "source": source, "mean": first, "std": second, "epsilon": self.epsilon, "epsilon_use": "scaling"}
        return {"method": "bounds", "source": source, "low": first, "high": second, "epsilon": self.epsilon, "epsilon_use": "zero_range"}

    def _numbers(self, name: str, mode: str, shape: tuple[int, ...]) -> list[float]:
        if name not in self.tensors:
            raise RecipeError(f"{self.place} normalises by {mode}, and has no {name}: compute the statistics again, quantiles included")
        stored = self.tensors[name]
        if shape and stored.shape != shape:
            raise RecipeError(f"{stored.file}: {stored.name} has {list(stored.shape)} numbers, and config.json says {list(shape)}: they are of another robot")
        return read_numbers(stored)


def statistics_of(folder: Path, pipeline: str, step: Mapping[str, Any]) -> Statistics:
    """The statistics of a normalizer step: of the file that it names."""
    settings = step.get("config") or {}
    place = f"{folder / pipeline} {step.get('registry_name', '')}".strip()
    tensors = read_header(folder / step["state_file"], f"{pipeline} names it as state_file") if step.get("state_file") else {}
    modes = settings.get("norm_map")
    if not isinstance(modes, Mapping):
        raise RecipeError(f"{place} has no norm_map: which normalisation its statistics are for is not known. Copy it again")
    return Statistics(tensors, {str(kind): str(mode) for kind, mode in modes.items()}, float(settings.get("eps") or EPSILON), place)


def is_old_buffer(name: str) -> bool:
    """Whether a weight is a statistic of lerobot 0.3 or older."""
    return name.startswith(OLD)


def buffers_of_old(folder: Path, config: Mapping[str, Any], weights: WeightFiles, module: str) -> Statistics:
    """The statistics among the weights. module: normalize_inputs or unnormalize_outputs."""
    prefix = f"{module}.buffer_"
    named = {name.removeprefix(prefix): stored for name, stored in weights.items() if name.startswith(prefix)}
    tensors = {name.replace("_", ".", 1) if name.startswith("observation_") else name: stored for name, stored in named.items()}
    modes = config.get("normalization_mapping") or {}
    return Statistics(tensors, {str(kind): str(mode) for kind, mode in modes.items()}, EPSILON, f"{folder / 'model.safetensors'} {module}")
