"""Family, preset, checkpoint and recipe become one specification, and it is refused where it does not fit the simulator."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from rlvla3.errors import RecipeError
from rlvla3.processing.fitting import check_fits
from rlvla3.processing.presets import PRESETS, role_of
from rlvla3.processing.resolution import merged, resolve_processing
from rlvla3.processing.specification import Processing
from rlvla3.types import ActionSpace, Spaces

LIBERO = Spaces({"agentview": (64, 64, 3), "robot0_eye_in_hand": (64, 64, 3)}, 8, ActionSpace("continuous", 7), 100)
METAWORLD = Spaces({"corner2_near": (64, 64, 3)}, 4, ActionSpace("continuous", 4), 100)
OPENPI = {"images": {"cameras": [{"key": "base_0_rgb"}, {"key": "left_wrist_0_rgb"}, {"key": "right_wrist_0_rgb"}]}}


def cameras(processing: Processing) -> list[tuple[str, str | None]]:
    return [(camera.key.split(".")[-1], camera.camera) for camera in processing.images.cameras]


def test_the_checkpoint_wins_over_the_preset_and_the_recipe_over_both():
    usual = {"prompt": {"length": 10, "form": "task_state"}, "actions": {"size": 16}}
    checkpoint = merged(OPENPI, {"prompt": {"length": 20}, "actions": {"relative": [False]}})
    found = resolve_processing(LIBERO, "pi05", usual=usual, preset="libero", checkpoint=checkpoint, layout="openpi", recipe={"prompt": {"length": 30}})
    assert (found.prompt.form, found.prompt.length, found.actions.size, found.images.turn) == ("openpi_line", 30, 16, "mirrored")
    assert found.actions.relative == [False]
    assert resolve_processing(LIBERO, "pi0", preset="libero", checkpoint=OPENPI, layout="openpi").actions.relative == [True] * 6
    assert resolve_processing(LIBERO, "pi0", preset="libero", checkpoint=OPENPI, layout="lerobot").actions.relative == []


def test_statistics_are_replaced_as_a_whole():
    first, second = {"method": "bounds", "low": [0.0], "high": [1.0]}, {"method": "mean_std", "mean": [0.0], "std": [1.0]}
    assert merged({"state": {"normalisation": first}}, {"state": {"normalisation": second}}) == {"state": {"normalisation": second}}
    assert merged({"normalisation": first}, {"normalisation": {"mask": [True]}})["normalisation"] == {**first, "mask": [True]}


@pytest.mark.parametrize(("keys", "shown"), [
    (["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"], ["agentview", "robot0_eye_in_hand", None]),
    (["observation.images.empty_camera_0", "observation.images.image2", "observation.images.image"], ["robot0_eye_in_hand", "agentview", None]),
    (["observation.images.camera1", "observation.images.camera2", "observation.images.camera3"], ["agentview", "robot0_eye_in_hand", None]),
    (["image"], ["agentview"]),
])  # fmt: skip
def test_the_preset_of_libero_shows_each_camera_where_its_policies_expect_it(keys: list[str], shown: list[str | None]):
    """The cameras at which nothing is shown come last, as in lerobot."""
    found = resolve_processing(LIBERO, "pi0", preset="libero", checkpoint={"images": {"cameras": [{"key": key} for key in keys]}})
    assert [camera for _, camera in cameras(found)] == shown


def test_rename_maps_empty_cameras_and_recipes_have_a_say():
    given = [{"key": "observation.images.left", "known_as": "observation.images.image"}, {"key": "a"}, {"key": "b"}]
    found = resolve_processing(LIBERO, "smolvla", preset="libero", checkpoint={"images": {"cameras": given, "empty": 1}})
    assert cameras(found) == [("left", "agentview"), ("a", None)]
    own = [{"key": "b", "camera": "robot0_eye_in_hand"}]
    assert cameras(resolve_processing(LIBERO, "smolvla", preset="libero", checkpoint={"images": {"cameras": given}}, recipe={"images": {"cameras": own}})) == [
        ("b", "robot0_eye_in_hand")
    ]
    assert cameras(resolve_processing(LIBERO, "pi0", checkpoint={"images": {"cameras": [{"key": "x.agentview"}]}})) == [("agentview", "agentview")]


def test_metaworld_shows_one_camera_and_chooses_dimensions():
    found = resolve_processing(METAWORLD, "openvla_oft", preset="metaworld", checkpoint=OPENPI)
    assert cameras(found) == [("base_0_rgb", "corner2_near"), ("left_wrist_0_rgb", None), ("right_wrist_0_rgb", None)]
    assert found.actions.dimensions == [0, 1, 2, 6]
    check_fits(found, METAWORLD)
    with pytest.raises(RecipeError, match="base_0_rgb the simulator's camera corner2_near, and the simulator shows corner3"):
        resolve_processing(Spaces({"corner3": (64, 64, 3)}, 4, METAWORLD.action, 100), "pi0", preset="metaworld", checkpoint=OPENPI)


def test_presets_are_valid_settings_and_roles_do_not_overlap():
    for preset in PRESETS.values():
        for tree in (preset.processing, *preset.families.values()):
            Processing.model_validate(tree)
    assert role_of("observation.images.base_0_rgb") == "base" and role_of("observation/wrist_image") == "wrist" and role_of("right_wrist_0_rgb") is None


def test_an_unknown_setting_is_refused_with_the_nearest_one():
    with pytest.raises(RecipeError, match=r"policy\.options\.processing\.prompt\.lenght.*did you mean length"):
        resolve_processing(LIBERO, "pi0", checkpoint=OPENPI, recipe={"prompt": {"lenght": 3}})


def fitted(**changes: Any) -> Processing:
    usual = {"images": {"cameras": [{"key": "a", "camera": "agentview"}]}, "state": {"size": 32}}
    return Processing.model_validate(merged(usual, changes))


def statistics(size: int, **more: Any) -> dict[str, Any]:
    return {"normalisation": {"method": "bounds", "source": "stats.json action", "low": [0.0] * size, "high": [1.0] * size, **more}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no camera": ({"images": {"cameras": [{"key": "a"}]}}, "no camera of the simulator .*agentview.*its cameras: a"),
    "unknown camera": ({"images": {"cameras": [{"key": "a", "camera": "front"}]}}, "camera a is to see the simulator's camera front"),
    "means": ({"images": {"mean": [0.5], "std": [0.5]}}, "three numbers"),
    "deviation of zero": ({"images": {"std": [0.5, 0.0, 0.5]}}, "std none that is 0"),
    "small state": ({"state": {"size": 4}}, "takes 4 numbers of state at most, and 8 are fed"),
    "state dimension": ({"state": {"dimensions": [0, 8]}}, "numbers below 8"),
    "few statistics": ({"actions": statistics(6)}, "stats.json action has statistics of 6 dimensions.*actions need 7.*another robot"),
    "many statistics": ({"state": statistics(14)}, "statistics of 14 dimensions.*state have 8.*another robot"),
    "constant": ({"actions": statistics(7, low=[0.0] * 6 + [1.0])}, "range from low to high of dimension 6 is 1.0 to 1.0"),
    "few dimensions": ({"actions": {"dimensions": [0, 1]}}, "gives 2 numbers, and the simulator's actions have 7"),
    "small model": ({"actions": {"size": 4}}, "different numbers below 4"),
    "relative": ({"actions": {"size": 7, "relative": [True] * 8}}, "relative has 8 entries"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_simulator_is_refused(name: str):
    changes, words = REFUSED[name]
    check_fits(fitted(), LIBERO)
    with pytest.raises(RecipeError, match=words):
        check_fits(fitted(**changes), LIBERO)


def test_statistics_that_only_fill_up_a_list_and_masked_ones_are_accepted():
    check_fits(fitted(state=statistics(32, high=[1.0] * 8 + [0.0] * 24)), LIBERO)
    check_fits(fitted(actions=statistics(7, low=[0.0] * 6 + [1.0], mask=[True] * 6 + [False])), LIBERO)
    check_fits(fitted(actions={"dimensions": [0, 1, 2, 3, 4, 5, 9], **statistics(10)}), LIBERO)


def test_specification_and_fitting_need_no_torch():
    modules = [
        "processing.fitting",
        "processing.resolution",
        "processing.tokenizer_files",
        "checkpoints.checkpoint",
        "checkpoints.openpi",
        "checkpoints.lerobot",
    ]
    code = "import sys, " + ", ".join(f"rlvla3.{module}" for module in modules) + "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
