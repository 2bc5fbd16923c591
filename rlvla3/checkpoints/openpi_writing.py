"""openpi's layout, for a policy that came in another one or in none, and what a run changes in files that came in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints import openpi, pi_names
from rlvla3.checkpoints.contents import Checkpoint, Family, files_in, write_json
from rlvla3.checkpoints.weight_files import StoredTensor, WeightFiles, read_json
from rlvla3.errors import RecipeError
from rlvla3.types import Spaces

Tree = Mapping[str, Any]

ASSET = "rlvla3"
"""The asset id of statistics that had none."""

VARIANTS = {2048: "gemma_2b", 1024: "gemma_300m"}
"""Width of a Gemma stack -> openpi's name of it."""


def create(folder: Path, family: Family, options: Tree, spaces: Spaces, chunk: int, shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint:
    """Write config.json and the statistics into `folder`. Returns a checkpoint of `shapes`, with a place for each tensor of the network.

    options: of the policy, as a plain tree. shapes: of the network's tensors. Raises RecipeError for what openpi's files cannot say.
    """
    model = options["model"]
    widths = {"paligemma_variant": model["language"]["width"], "action_expert_variant": model["expert"]["width"]}
    config = {"action_dim": model["action_size"], "action_horizon": model["horizon"], "precision": "float32"}
    write_json(folder / "config.json", config | {key: VARIANTS.get(width, f"width {width}") for key, width in widths.items()})
    _write_statistics(folder / "assets" / ASSET / openpi.STATISTICS, family, options["processing"])
    stored = dict(shapes) | pi_names.head_shapes(shapes)
    stored = {name: shape for name, shape in stored.items() if name not in pi_names.TIED.values()}  # openpi's files hold the head alone
    weights = {name: StoredTensor(folder / "model.safetensors", name, shape, "F32") for name, shape in stored.items()}
    return Checkpoint(folder, "openpi", family, options, WeightFiles(weights), pi_names.weight_names(family), files_in(folder))


def update(folder: Path, came: Checkpoint, options: Tree, chunk: int) -> list[str]:
    """Change what `folder`, written as it came, says otherwise than the policy's `options` do. Returns a sentence for each change."""
    said = []
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    horizon = options["model"]["horizon"]
    if config.get("action_horizon", came.options["model"]["horizon"]) != horizon:
        write_json(folder / "config.json", {**config, "action_horizon": horizon})
        said.append(f"config.json: action_horizon is {horizon} as in the run")
    before, after = came.options["processing"], options["processing"]
    if any(_numbers(before[name]["normalisation"]) != _numbers(after[name]["normalisation"]) for name in ("state", "actions")):
        asset = options.get("statistics")
        there = sorted(folder.rglob(openpi.STATISTICS)) if asset in (None, openpi.NO_STATISTICS) else sorted(folder.rglob(f"{asset}/{openpi.STATISTICS}"))
        path = there[0] if there else folder / "assets" / ASSET / openpi.STATISTICS
        _write_statistics(path, came.family, after)
        said.append(f"{path.relative_to(folder)}: the statistics are those of the run")
    return said


def _numbers(normalisation: Tree) -> list[Any]:
    return [normalisation.get(name) or [] for name in ("mean", "std", "low", "high")]


def _write_statistics(path: Path, family: Family, processing: Tree) -> None:
    """Raises RecipeError where the numbers are of another kind than openpi uses for the family."""
    found = {}
    for name in ("state", "actions"):
        how = processing[name]["normalisation"]
        wanted = "mean_std" if family == "pi0" else "bounds"
        if how["method"] != wanted:
            raise RecipeError(
                f"openpi scales {name} of {family} by {'mean and deviation' if family == 'pi0' else 'quantiles'}, and this policy by {how['method']}: it "
                f"cannot be written in openpi's layout"
            )
        if not all(how["mask"] or [True]):
            raise RecipeError(f"this policy leaves some {name} unscaled (processing.{name}.normalisation.mask), which openpi's statistics cannot say")
        if family == "pi0":
            found[name] = {"mean": how["mean"], "std": how["std"], "q01": None, "q99": None}
        else:  # openpi wants to read a mean and a deviation, and does not use them for pi0.5
            pairs = list(zip(how["low"], how["high"], strict=True))
            middle = {"mean": [(low + high) / 2 for low, high in pairs], "std": [(high - low) / 2 for low, high in pairs]}
            found[name] = {**middle, "q01": how["low"], "q99": how["high"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"norm_stats": found})
