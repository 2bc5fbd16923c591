"""Assets made up for ManiSkill's bridge tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def bridge_assets(folder: Path) -> Path:
    """A folder that has what is looked for, and nothing in it."""
    (folder / "data/tasks/bridge_v2_real2sim_dataset/custom").mkdir(parents=True)
    (folder / "data/tasks/bridge_v2_real2sim_dataset/real_inpainting").mkdir()
    (folder / "data/robots/widowx").mkdir(parents=True)
    (folder / "data/robots/widowx/wx250s.urdf").touch()
    return folder


def made_up_bridge(folder: Path) -> Path:
    """Assets of our own making: a chain of boxes for an arm, a bar for the carrot, a slab for the plate, and a green picture behind them."""
    import cv2
    import trimesh

    data = bridge_assets(folder) / "data/tasks/bridge_v2_real2sim_dataset"
    cv2.imwrite(str(data / "real_inpainting/bridge_real_eval_1.png"), np.full((480, 640, 3), (0, 255, 0), np.uint8))
    (data / "stages").mkdir()
    trimesh.creation.box((8, 0.02, 8), trimesh.transformations.translation_matrix((0, 0.85, 0))).export(data / "stages/bridge_table_1_v1.glb")
    described = {}
    for name, size in {"bridge_carrot_generated_modified": (0.1, 0.02, 0.02), "bridge_plate_objaverse_larger": (0.15, 0.15, 0.02)}.items():
        (data / "custom/models" / name).mkdir(parents=True)
        for mesh in ("collision.obj", "textured.obj"):
            trimesh.creation.box(size).export(data / "custom/models" / name / mesh)
        described[name] = {"scales": [1.0], "bbox": {"min": [-side / 2 for side in size], "max": [side / 2 for side in size]}}
    (data / "custom/info_bridge_custom_v0.json").write_text(json.dumps(described))

    box = '<geometry><box size="0.08 0.03 0.03"/></geometry>'
    body = f'<inertial><mass value="0.2"/><inertia ixx="1e-3" iyy="1e-3" izz="1e-3" ixy="0" ixz="0" iyz="0"/></inertial><visual>{box}</visual>'
    parts, wrist = [f'<link name="base_link">{body}</link>'], "base_link"

    def joint(name: str, kind: str, link: str, axis: str, limit: float) -> None:
        parts.append(f'<link name="{link}">{body}</link><joint name="{name}" type="{kind}"><parent link="{wrist}"/><child link="{link}"/>')
        parts.append(f'<origin xyz="0.08 0 0.03"/><axis xyz="{axis}"/><limit lower="{-limit}" upper="{limit}" effort="50" velocity="3"/></joint>')

    turning = {"waist": "0 0 1", "shoulder": "0 1 0", "elbow": "0 1 0", "forearm_roll": "1 0 0", "wrist_angle": "0 1 0", "wrist_rotate": "1 0 0"}
    for name, axis in turning.items():
        joint(name, "revolute", f"{name}_link", axis, 3)
        wrist = f"{name}_link"
    joint("ee_gripper", "fixed", "ee_gripper_link", "1 0 0", 0)
    joint("left_finger", "prismatic", "left_finger_link", "0 1 0", 0.04)
    joint("right_finger", "prismatic", "right_finger_link", "0 -1 0", 0.04)
    (folder / "data/robots/widowx/wx250s.urdf").write_text(f'<robot name="wx250s">{"".join(parts)}</robot>')
    return folder
