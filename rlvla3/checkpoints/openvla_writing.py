"""What a run changes in the files of a checkpoint that came in OpenVLA's layout. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.contents import Checkpoint, write_json
from rlvla3.checkpoints.openvla import NO_STATISTICS, STATISTICS
from rlvla3.checkpoints.weight_files import read_json
from rlvla3.errors import RecipeError

Tree = Mapping[str, Any]

DATASET = "rlvla3"
"""The key of statistics that had none."""


def update(folder: Path, came: Checkpoint, options: Tree, chunk: int) -> list[str]:
    """Write the statistics of the run into `folder`, if they are not those that came. Returns a sentence for each change.

    options: of the policy, as a plain tree. Raises RecipeError where the policy scales by mean and deviation, which OpenVLA's files cannot say.
    """
    before, after = came.options["processing"], options["processing"]
    names = {"state": "proprio", "actions": "action"} if options["model"]["state_size"] else {"actions": "action"}
    if all(_numbers(before[name]["normalisation"]) == _numbers(after[name]["normalisation"]) for name in names):
        return []
    path = folder / STATISTICS
    chosen = options.get("statistics")
    known = read_json(path) if path.is_file() and chosen != NO_STATISTICS else {}
    key = DATASET if chosen == NO_STATISTICS else chosen or next(iter(known), DATASET)
    entry = {theirs: _entry(name, after[name]["normalisation"]) for name, theirs in names.items()}
    write_json(path, {**known, key: {**known.get(key, {}), **entry}})
    return [f"{STATISTICS}: the statistics of {key} are those of the run"]


def _numbers(normalisation: Tree) -> list[Any]:
    return [normalisation.get(name) or [] for name in ("method", "low", "high", "mask")]


def _entry(name: str, how: Tree) -> dict[str, Any]:
    """The authors scale by quantiles or by extremes, as their code says for each robot. Both are the bounds that the policy scales by."""
    if how["method"] != "bounds":
        raise RecipeError(f"OpenVLA scales {name} by quantiles, and this policy by {how['method']}: it cannot be written in layout openvla")
    mask = how.get("mask") or [True] * len(how["low"])
    return {"q01": how["low"], "q99": how["high"], "min": how["low"], "max": how["high"], "mask": mask}
