"""Family, preset, checkpoint and recipe become one specification of processing. Later ones win over earlier ones. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlvla3.config import check_options
from rlvla3.errors import RecipeError
from rlvla3.processing.presets import PRESETS, PresetName, preset_processing, role_of
from rlvla3.processing.specification import Processing
from rlvla3.types import Spaces

Tree = Mapping[str, Any]


def resolve_processing(
    spaces: Spaces,
    family: str,
    *,
    usual: Tree | None = None,
    preset: PresetName | None = None,
    checkpoint: Tree | None = None,
    layout: str | None = None,
    recipe: Tree | None = None,
) -> Processing:
    """The processing of a policy for a simulator.

    usual: the family's. checkpoint: what the checkpoint says, and layout: how it came. recipe: policy.options.processing. All are plain trees of settings.
    Raises RecipeError for unknown settings. Whether it fits the simulator is for fitting.check_fits to say.
    """
    tree = merged(usual or {}, *preset_processing(preset, family, layout), checkpoint or {}, recipe or {})
    if "cameras" not in (recipe or {}).get("images", {}):
        images = dict(tree.get("images", {}))
        images["cameras"] = _assigned(images.get("cameras", []), images.get("empty"), spaces, preset)
        tree = {**tree, "images": images}
    return check_options(Processing, tree, "policy.options.processing")


def merged(*trees: Tree) -> dict[str, Any]:
    """One tree of several. Later ones win. Lists are replaced as a whole. Statistics of another kind replace the earlier ones as a whole."""
    result: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            old = result.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping) and not (key == "normalisation" and "method" in value):
                result[key] = merged(old, value)
            else:
                result[key] = merged(value) if isinstance(value, Mapping) else value
    return result


def _assigned(cameras: Sequence[Tree], empty: int | None, spaces: Spaces, preset: PresetName | None) -> list[Tree]:
    """The model's cameras, each with the simulator's camera that is shown there. Those that are shown nothing come last, as many as `empty` says."""
    given: list[Tree] = [{**camera, "camera": camera.get("camera") or _camera_for(camera, spaces, preset)} for camera in cameras]
    absent = [camera for camera in given if camera["camera"] is None]
    return [camera for camera in given if camera["camera"] is not None] + absent[:empty]


def _camera_for(camera: Tree, spaces: Spaces, preset: PresetName | None) -> str | None:
    key, known_as = camera["key"], camera.get("known_as", "")
    if preset is None:
        return next((name for name in (known_as.split(".")[-1], key.split(".")[-1]) if name in spaces.cameras), None)
    role = role_of(known_as) or role_of(key)
    if role is None or not PRESETS[preset].cameras[role]:
        return None
    known = PRESETS[preset].cameras[role]
    found = next((name for name in known if name in spaces.cameras), None)
    if found is None:
        raise RecipeError(
            f"preset {preset} shows the model's camera {key} the simulator's camera {' or '.join(known)}, and the simulator shows "
            f"{', '.join(spaces.cameras) or 'none'}: set simulator.options.cameras, or policy.options.processing.images.cameras"
        )
    return found
