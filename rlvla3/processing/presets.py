"""What no checkpoint says: which camera of our simulators is shown where, how frames are turned, and how their authors trained the published policies.

A preset only fills in. A checkpoint wins over it, and the recipe wins over both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PresetName = Literal["libero", "metaworld", "maniskill", "droid"]
Role = Literal["base", "wrist"]

ROLES: Mapping[Role, frozenset[str]] = {
    "base": frozenset(
        {"base_0_rgb", "image", "camera1", "front", "top", "agentview", "exterior_image_1_left", "full_image", "primary", "ego_view", "front_view"}
    ),
    "wrist": frozenset({"left_wrist_0_rgb", "wrist_image", "image2", "camera2", "wrist", "wrist_image_left", "wrist_view", "hand"}),
}
"""What checkpoints call the camera that sees the scene and the one at the hand, after the last dot or slash. A model's other cameras are shown nothing."""


@dataclass(frozen=True)
class Preset:
    """What is known of a simulator.

    cameras: for each role, the simulator's cameras that may be shown, best first. processing: settings as plain data.
    families: more settings for one family, or for one family in one layout ("pi0/openpi").
    """

    cameras: Mapping[Role, tuple[str, ...]]
    processing: Mapping[str, Any] = field(default_factory=dict)
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


STATELESS_PROMPT = {"pi05/openpi": {"prompt": {"form": "openpi_line"}}}
"""openpi's and RLinf's pi0.5 of simulators have no state in the prompt (discrete_state_input=False)."""

PRESETS: Mapping[PresetName, Preset] = {
    # Published policies saw the frames of robosuite, which are upside down, turned by 180 degrees. Ours are the right way up, so only left and right differ.
    # State: hand position, axis-angle, two fingers. openpi's pi0 was trained on the first six dimensions relative to the state, though they are steps already.
    "libero": Preset(
        cameras={"base": ("agentview",), "wrist": ("robot0_eye_in_hand",)},
        processing={"images": {"turn": "mirrored"}},
        families={
            **STATELESS_PROMPT,
            "pi0/openpi": {"actions": {"relative": [True] * 6}},
            "openvla_oft": {"actions": {"gripper": "openvla"}},
            "groot/groot": {"actions": {"gripper": "openvla"}},
        },
    ),
    # Published policies saw camera corner2 from nearer, turned the right way up, as ours is.
    "metaworld": Preset(
        cameras={"base": ("corner2_near",), "wrist": ()},
        families={**STATELESS_PROMPT, "openvla_oft": {"actions": {"dimensions": [0, 1, 2, 6]}}},
    ),
    "maniskill": Preset(
        cameras={"base": ("3rd_view_camera", "base_camera"), "wrist": ("hand_camera",)},
        families={**STATELESS_PROMPT, "openvla_oft": {"actions": {"gripper": "threshold"}}},
    ),
    # State: seven joints and the gripper. Actions: seven joint velocities and the gripper.
    "droid": Preset(
        cameras={"base": ("exterior_image_1_left",), "wrist": ("wrist_image_left",)},
        families={"pi05/openpi": {"prompt": {"form": "task_state"}}},
    ),
}


def preset_processing(name: PresetName | None, family: str, layout: str | None = None) -> list[Mapping[str, Any]]:
    """The settings of a preset for a family that came in a layout: later ones win."""
    if name is None:
        return []
    preset = PRESETS[name]
    return [preset.processing, *(preset.families[key] for key in (family, f"{family}/{layout}") if key in preset.families)]


def role_of(key: str) -> Role | None:
    """What the model's camera `key` sees."""
    last = key.replace("/", ".").split(".")[-1]
    return next((role for role, names in ROLES.items() if last in names), None)
