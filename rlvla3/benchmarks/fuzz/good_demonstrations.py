"""Small good files of demonstrations, one of each format, which broken ones are made from.

Each has three successful episodes of a few steps, a state of 8 numbers, and frames of 16 x 16 pixels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.demonstrations.demonstration_file import import_optional
from rlvla3.observability.run_record import RunRecord

STEPS = (4, 5, 6)
STATE, SIDE, FPS = 8, 16, 10
CAMERA = "observation.images.agentview"
LIBERO_TASK = "libero_goal/put_the_bowl_on_the_plate"

Arrays = dict[str, NDArray[Any]]


def episode(number: int, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """States [steps + 1, STATE], actions [steps, size] and frames [steps + 1, SIDE, SIDE, 3]."""
    numbers, steps = np.random.default_rng(number), STEPS[number]
    states, actions = numbers.uniform(-1, 1, (steps + 1, STATE)), numbers.uniform(-1, 1, (steps, size))
    return states.astype(np.float32), actions.astype(np.float32), numbers.integers(0, 256, (steps + 1, SIDE, SIDE, 3), np.uint8)


def libero(folder: Path) -> None:
    path = folder / f"{LIBERO_TASK}_demo.hdf5"
    path.parent.mkdir()
    with import_optional("h5py").File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = f"libero/bddl_files/{LIBERO_TASK}.bddl"
        data.attrs["problem_info"] = json.dumps({"problem_name": "libero_tabletop", "language_instruction": [*"put the bowl on the plate"]})
        data.attrs["macros_image_convention"] = "opengl"
        for number, steps in enumerate(STEPS):
            states, actions, frames = episode(number, 7)
            joints = np.random.default_rng(number).normal(size=(steps + 1, 7))
            arrays: Arrays = {
                "actions": actions,
                "states": np.concatenate([np.arange(steps)[:, None], joints[:steps], np.zeros((steps, 3))], 1),
                "rewards": np.eye(steps, dtype=np.uint8)[-1],
                "dones": np.eye(steps, dtype=np.uint8)[-1],
                "obs/agentview_rgb": frames[1:],
                "obs/ee_pos": states[1:, :3],
                "obs/ee_ori": states[1:, 3:6],
                "obs/gripper_states": states[1:, 6:],
                "obs/joint_states": joints[1:],
            }
            for name, array in arrays.items():
                data[f"demo_{number}/{name}"] = array


def maniskill(folder: Path, images: bool) -> None:
    with import_optional("h5py").File(folder / "trajectory.h5", "w") as file:
        for number, steps in enumerate(STEPS):
            states, actions, frames = episode(number, 4)
            arrays: Arrays = {"actions": actions, "success": np.eye(steps, dtype=bool)[-1], "terminated": np.eye(steps, dtype=bool)[-1]}
            if images:
                arrays |= {"obs/agent/qpos": states[:, :3], "obs/agent/qvel": states[:, 3:5], "obs/extra/tcp_pose": states[:, 5:]}
                file.create_dataset(f"traj_{number}/obs/sensor_data/agentview/rgb", data=frames, compression="gzip")
            else:
                arrays["obs"] = states
            for name, array in arrays.items():
                file[f"traj_{number}/{name}"] = array
    episodes = [{"episode_id": number, "control_mode": "pd_joint_delta_pos", "success": True} for number in range(len(STEPS))]
    about = {"env_id": "PickCube-v1", "env_kwargs": {"obs_mode": "rgb" if images else "state", "control_mode": "pd_joint_delta_pos"}}
    (folder / "trajectory.json").write_text(json.dumps({"env_info": about, "commit_info": {}, "episodes": episodes}))


def lerobot(folder: Path, version: str, video: bool) -> None:
    rows, films = [], []
    for number, steps in enumerate(STEPS):
        states, actions, frames = episode(number, 7)
        films.append(frames[:-1])
        for step in range(steps):
            row: dict[str, Any] = {"observation.state": states[step].tolist(), "action": actions[step].tolist(), "episode_index": number}
            row |= {"frame_index": step, "task_index": 0, "next.success": step == steps - 1}
            rows.append(row if video else row | {CAMERA: {"bytes": _png(frames[step]), "path": None}})
    features = {
        CAMERA: {"dtype": "video" if video else "image", "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]},
        "observation.state": {"dtype": "float32", "shape": [STATE], "names": None},
        "action": {"dtype": "float32", "shape": [7], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    info: dict[str, Any] = {"codebase_version": version, "fps": FPS, "chunks_size": 1000, "features": features, "total_episodes": len(STEPS)}
    lines: list[dict[str, Any]] = [{"episode_index": number, "tasks": ["stack the blocks"], "length": steps} for number, steps in enumerate(STEPS)]
    (folder / "meta").mkdir()
    if version.startswith("v2"):
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if video else None
        for number in range(len(STEPS)):
            write_rows(folder / f"data/chunk-000/episode_{number:06d}.parquet", [row for row in rows if row["episode_index"] == number])
            if video:
                _encode(folder / f"videos/chunk-000/{CAMERA}/episode_{number:06d}.mp4", films[number])
        (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "stack the blocks"}) + "\n")
    else:
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if video else None
        for number, line in enumerate(lines):
            line |= {"data/chunk_index": 0, "data/file_index": 0}
            if video:
                place = {"chunk_index": 0, "file_index": 0, "from_timestamp": sum(STEPS[:number]) / FPS}
                line |= {f"videos/{CAMERA}/{name}": value for name, value in place.items()}
        write_rows(folder / "data/chunk-000/file-000.parquet", rows)
        write_rows(folder / "meta/episodes/chunk-000/file-000.parquet", lines)
        write_rows(folder / "meta/tasks.parquet", [{"task_index": 0, "__index_level_0__": "stack the blocks"}])
        if video:
            _encode(folder / f"videos/{CAMERA}/chunk-000/file-000.mp4", np.concatenate(films))
    (folder / "meta/info.json").write_text(json.dumps(info))


def recording(folder: Path, recipe: Recipe) -> None:
    """The record of a run: two updates of `training.batch` tickets each, of two decisions each."""
    record = RunRecord(folder / "record")
    record.begin(recipe)
    for ticket in range(2 * recipe.training.batch):
        update = ticket // recipe.training.batch
        for row in range(2):
            record.generator_writer(0).append(np.array([ticket]), row=row, version=update, at=2 * ticket + row)
        record.trainer_writer().append(np.array([ticket]), update=update, decisions=2)


FORMS: Mapping[str, Callable[[Path], None]] = {
    "libero": libero,
    "maniskill": lambda folder: maniskill(folder, images=False),
    "maniskill images": lambda folder: maniskill(folder, images=True),
    "lerobot 2.1": lambda folder: lerobot(folder, "v2.1", video=False),
    "lerobot 2.1 video": lambda folder: lerobot(folder, "v2.1", video=True),
    "lerobot 3.0": lambda folder: lerobot(folder, "v3.0", video=False),
    "lerobot 3.0 video": lambda folder: lerobot(folder, "v3.0", video=True),
}
"""Each format, and what writes a good file of it into an empty folder."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    import_optional("pyarrow.parquet").write_table(import_optional("pyarrow").Table.from_pylist(rows), path)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    import_optional("PIL.Image").fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _encode(path: Path, frames: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"fps": FPS, "codec": "libx264", "output_params": ["-g", "2", "-threads", "1"], "macro_block_size": 1}
    encoder = import_optional("imageio_ffmpeg").write_frames(str(path), (SIDE, SIDE), **how)
    encoder.send(None)
    for image in frames:
        encoder.send(np.ascontiguousarray(image))
    encoder.close()
