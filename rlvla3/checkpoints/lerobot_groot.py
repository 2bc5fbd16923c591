"""GR00T N1.5 in lerobot's layout, of versions 0.4 and 0.5 (0.6 has N1.7 instead).

lerobot's config.json does not say the sizes: they are read off the shapes, and what no shape shows is that of GR00T-N1.5-3B, which lerobot starts from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from rlvla3.checkpoints.contents import Checkpoint
from rlvla3.checkpoints.groot_names import LEROBOT_PREFIX, groot_sizes, weight_names
from rlvla3.checkpoints.groot_processing import bounds, carried, images, language_model, prompt
from rlvla3.checkpoints.weight_files import count, read_header, read_json, read_numbers, read_weight_files
from rlvla3.errors import RecipeError
from rlvla3.metadata import Metadata, PathWithin, checked

BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
PACK, UNPACK = "groot_pack_inputs_v3", "groot_action_unpack_unnormalize_v1"
KNOWN = {"rename_observations_processor", "to_batch_processor", PACK, "groot_eagle_encode_v3", "groot_eagle_collate_v3", "device_processor", UNPACK}
"""The steps that are known. Any other is refused: it would change what the model is fed."""

HORIZON, DENOISING_STEPS, HEADS = 16, 4, 32
"""Of GR00T-N1.5-3B. Both transformers of its action head have 32 heads."""

Config = Mapping[str, Any]


class StepSettings(Metadata):
    """The settings of the steps that are read."""

    formalize_language: bool | None = None
    embodiment_tag: str | None = None
    embodiment_mapping: dict[str, Annotated[int, Field(ge=0, le=10_000)]] | None = None
    normalize_min_max: bool | None = None


class Step(Metadata):
    registry_name: str | None = None
    config: StepSettings | None = None
    state_file: PathWithin | None = None


class Pipeline(Metadata):
    """policy_preprocessor.json or policy_postprocessor.json."""

    steps: list[Step]


def read_groot(folder: Path, config: Config) -> Checkpoint:
    """Read a checkpoint. Raises RecipeError, naming file and key."""
    weights, names = read_weight_files(folder), weight_names(LEROBOT_PREFIX)
    shapes = {name.removeprefix(LEROBOT_PREFIX): stored.shape for name, stored in weights.items()}
    if not any(name.startswith(LEROBOT_PREFIX) for name in weights):
        raise RecipeError(
            f"{folder / 'config.json'}: type is groot, and no weight begins with {LEROBOT_PREFIX}: only GR00T N1.5 of lerobot 0.4 and 0.5 is read"
        )
    pack, unpack = _step(folder / BEFORE, PACK), _step(folder / AFTER, UNPACK)
    settings = pack.get("config") or {}
    if settings.get("formalize_language"):
        raise RecipeError(f"{folder / BEFORE}: formalize_language of {PACK} is true, and instructions are fed as they are here: set it to false")
    sizes, tag = groot_sizes(folder, shapes), settings.get("embodiment_tag")
    places = settings.get("embodiment_mapping") or {}
    if tag not in places:
        raise RecipeError(f"{folder / BEFORE}: embodiment_tag {tag!r} of {PACK} is not in its embodiment_mapping ({', '.join(places) or 'empty'})")
    model = {**sizes, **_heads(shapes), "horizon": HORIZON, "embodiment": places[tag], "language": language_model(sizes, folder)}
    # lerobot sorts the cameras by name.
    cameras = sorted(key for key, feature in (config.get("input_features") or {}).items() if feature.get("type") == "VISUAL")
    side, tokens = sizes["vision"]["image"], (sizes["vision"]["image"] // sizes["vision"]["patch"]) ** 2
    processing = {
        "images": images(cameras, side, crop=1.0, how="torchvision_bicubic"),
        "state": {"size": sizes["state_size"], "normalisation": _normalisation(folder, BEFORE, pack, "observation.state")},
        "prompt": prompt(folder, len(cameras), tokens, "{list}"),
        "actions": {"size": sizes["action_size"], "normalisation": _normalisation(folder, AFTER, unpack, "action")},
    }
    said = config.get("n_action_steps")
    executed = HORIZON if said is None else min(count(said, f"{folder / 'config.json'}: n_action_steps"), HORIZON)
    options = {"model": model, "processing": processing, "flow": {"denoising_steps": DENOISING_STEPS}}
    return Checkpoint(folder, "lerobot", "groot", options, weights, names, carried(folder), (), executed)


def _step(path: Path, name: str) -> Config:
    """The step of this name."""
    pipeline = read_json(path)
    checked(Pipeline, pipeline, str(path), "It may be half-written: copy it again")
    found: dict[str | None, Config] = {step.get("registry_name"): step for step in pipeline["steps"]}
    if name not in found:
        raise RecipeError(f"{path} has no step {name}: only GR00T N1.5 as lerobot 0.4 and 0.5 save it is read. Copy the file again")
    if unknown := sorted(str(other) for other in found if other not in KNOWN):
        raise RecipeError(f"{path}: the step {unknown[0]} is not known here, and would change what the model is fed: known are {', '.join(sorted(KNOWN))}")
    return found[name]


def _heads(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    stacks = {"prefix_attention": "action_head.vl_self_attention", "denoiser": "action_head.model"}
    sizes = {}
    for ours, theirs in stacks.items():
        start = f"{theirs}.transformer_blocks."
        layers = {name.removeprefix(start).split(".")[0] for name in shapes if name.startswith(start)}
        width = (shapes.get(f"{start}0.attn1.to_q.weight") or (0,))[0]
        sizes[ours] = {"layers": len(layers), "heads": HEADS, "head_size": width // HEADS}
    return sizes


def _normalisation(folder: Path, pipeline: str, step: Config, key: str) -> dict[str, Any]:
    """Minima and maxima of the file that the step names. Without them the numbers stay as they are, as lerobot has it."""
    where = f"{folder / pipeline} {step['registry_name']}"
    state_file = step.get("state_file")
    if (step.get("config") or {}).get("normalize_min_max") is False or not state_file:
        return {"method": "none", "source": where}
    stored = read_header(folder / state_file, f"{pipeline} names it as state_file")
    for bound in ("min", "max"):
        if f"{key}.{bound}" not in stored:
            raise RecipeError(f"{folder / state_file} has no {key}.{bound}, and {where} scales by minima and maxima: compute the statistics again")
    low, high = (read_numbers(stored[f"{key}.{bound}"]) for bound in ("min", "max"))
    if len(low) != len(high):
        raise RecipeError(f"{folder / state_file}: {key} has {len(low)} minima and {len(high)} maxima. Copy the file again")
    return bounds(low, high, f"{folder / state_file} {key} (min, max)")
