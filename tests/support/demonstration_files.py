"""Small files of demonstrations, written as the published scripts lay them out, and a simulator that they could be of."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image

from rlvla3.config import Section, SimulatorConfig, check_options
from rlvla3.simulators.action_meaning import OSC_POSE, ActionMeaning
from rlvla3.simulators.base import SingleEnvironment, Step
from rlvla3.types import ActionSpace, Observation, Spaces, Ticket

FPS = 10


class ArmOptions(Section):
    """Settings of the simulator below. only_after: it cannot be built before this file is there. osc: whether its actions mean what LIBERO's do."""

    cameras: list[str] = ["agentview", "robot0_eye_in_hand"]
    image_size: int = 64
    state: int = 8
    action: int = 7
    control_mode: str | None = None
    mirrored: bool = False
    only_after: Path | None = None
    osc: bool = False


class Arm(SingleEnvironment):
    """Success is to act as the demonstrator would, within 0.3."""

    Options = ArmOptions

    @classmethod
    def describe(cls, config: SimulatorConfig) -> Spaces:
        options = check_options(ArmOptions, config.options, "simulator.options")
        cameras = dict.fromkeys(options.cameras, (options.image_size, options.image_size, 3))
        instructions = tuple(map(sentence, config.tasks))
        return Spaces(cameras, options.state, ActionSpace("continuous", options.action), config.max_steps or 20, instructions)

    @classmethod
    def action_meaning(cls, config: SimulatorConfig) -> ActionMeaning:
        return OSC_POSE if check_options(ArmOptions, config.options, "simulator.options").osc else ActionMeaning()

    def __init__(self, config: SimulatorConfig, chunk: int) -> None:
        self.spaces, self.chunk = self.describe(config), chunk
        only_after = check_options(ArmOptions, config.options, "simulator.options").only_after
        if only_after is not None and not only_after.exists():
            raise RuntimeError("this simulator was started too early")

    def begin(self, ticket: Ticket) -> None:
        self.state = np.random.default_rng(ticket.seed).uniform(-1, 1, self.spaces.state).astype(np.float32)
        self.instruction = sentence(ticket.task)

    def act(self, action) -> Step:
        there = bool(np.abs(action - demonstrator(self.state[None], self.spaces.action.size)[0]).mean() < 0.3)
        return Step(float(there), success=there, terminated=there)

    def observe(self) -> Observation:
        images = {camera: frame(height, 100) for camera, (height, _, _) in self.spaces.cameras.items()}
        return Observation(images, self.state, self.instruction)


def sentence(task: str) -> str:
    return task.partition("/")[2].replace("_", " ") or task


def demonstrator(states: NDArray[np.float32], actions: int) -> NDArray[np.float32]:
    """What is done in each of `states` [T, S]: [T, A]."""
    weights = np.random.default_rng(0).normal(0, 0.7, (states.shape[1], actions))
    return np.tanh(states @ weights).astype(np.float32)


def recorded(seed: int, steps: int, state: int = 8, actions: int = 7) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """States [steps + 1, S], the last with nothing after it, and the actions [steps, A]."""
    states = np.random.default_rng(seed).uniform(-1, 1, (steps + 1, state)).astype(np.float32)
    return states, demonstrator(states, actions)[:-1]


def frame(size: int, brightness: int) -> NDArray[np.uint8]:
    """The right way up: red above, green on the left, and as blue as the moment is late."""
    image = np.zeros((size, size, 3), np.uint8)
    image[: size // 2, :, 0] = 200
    image[:, : size // 2, 1] = 200
    image[..., 2] = brightness % 250
    return image


def film(steps: int, size: int, first: int = 10) -> NDArray[np.uint8]:
    """A frame a step, each bluer than the one before: [steps, H, W, 3]."""
    return np.stack([frame(size, first + 10 * step) for step in range(steps)])


def write_libero(
    path: Path,
    episodes: Mapping[int, int],
    *,
    size: int = 64,
    lag: int = 1,
    convention: str | None = "opengl",
    failed: Sequence[int] = (),
    scale: float = 1.0,
    leave_out: Sequence[str] = (),
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """A file of episodes {number: steps}. lag: 1 as LIBERO's own script writes it, 0 as those that write it anew. Returns each episode's states and actions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if convention is not None:
            task = path.stem.removesuffix("_demo")
            data.attrs["bddl_file_name"] = f"libero/bddl_files/{path.parent.name}/{task}.bddl"
            data.attrs["problem_info"] = json.dumps({"problem_name": "libero_tabletop", "language_instruction": [*task.replace("_", " ")]})
            data.attrs["macros_image_convention"] = convention
        for number, steps in episodes.items():
            states, actions = recorded(number, steps)
            written.append((states, actions))
            seen, joints = states[lag:][:steps], np.random.default_rng(number).normal(size=(steps + 1, 7))
            stored = film(steps + 1, size)[lag:][:steps]
            stored = stored if convention == "opencv" else stored[:, ::-1]
            ends = np.eye(steps, dtype=np.uint8)[-1] * (number not in failed)
            flat = np.concatenate([np.arange(steps)[:, None], joints[:steps], np.zeros((steps, 30))], 1)
            arrays = {
                "actions": actions * scale,
                "states": flat,
                "robot_states": np.zeros((steps, 9)),
                "rewards": ends,
                "dones": ends,
                "obs/agentview_rgb": stored,
                "obs/eye_in_hand_rgb": stored,
                "obs/ee_pos": seen[:, :3],
                "obs/ee_ori": seen[:, 3:6],
                "obs/ee_states": seen[:, :6],
                "obs/gripper_states": seen[:, 6:],
                "obs/joint_states": joints[lag:][:steps],
            }
            group = data.create_group(f"demo_{number}")
            for name in arrays.keys() - set(leave_out):
                group[name] = arrays[name]
    return written


def write_maniskill(
    path: Path, lengths: Sequence[int], *, images: bool = False, control_mode: str = "pd_joint_delta_pos", failed: Sequence[int] = (), obs: bool = True
):
    """NAME.h5 and NAME.json. Returns each episode's states and actions."""
    written = []
    with h5py.File(path, "w") as file:
        for number, steps in enumerate(lengths):
            states, actions = recorded(number, steps, actions=4)
            written.append((states, actions))
            group = file.create_group(f"traj_{number}", track_order=True)
            group["actions"] = actions
            ends = np.eye(steps, dtype=bool)[-1]
            group["success"], group["terminated"], group["truncated"] = ends & (number not in failed), ends, np.zeros(steps, bool)
            if images:
                group["obs/agent/qpos"], group["obs/agent/qvel"], group["obs/extra/tcp_pose"] = states[:, :3], states[:, 3:5], states[:, 5:]
                group["obs/sensor_param/base_camera/cam2world_gl"] = np.zeros((steps + 1, 4, 4))
                group.create_dataset("obs/sensor_data/base_camera/rgb", data=film(steps + 1, 64), compression="gzip", compression_opts=5)
            elif obs:
                group["obs"] = states
    episodes = [
        {"episode_id": number, "episode_seed": number, "control_mode": control_mode, "elapsed_steps": steps, "success": number not in failed}
        for number, steps in enumerate(lengths)
    ]
    info = {"env_id": "PickCube-v1", "max_episode_steps": 50, "env_kwargs": {"obs_mode": "rgb" if images else "state", "control_mode": control_mode}}
    path.with_suffix(".json").write_text(json.dumps({"env_info": info, "commit_info": {}, "episodes": episodes}))
    return written


def write_lerobot(
    folder: Path,
    lengths: Sequence[int],
    *,
    version: str = "v2.1",
    video: bool = False,
    tasks: Sequence[str] = ("stack the blocks",),
    size: int = 64,
    names: tuple[str, str, str] = ("observation.images.agentview", "observation.state", "action"),
    failed: Sequence[int] | None = None,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """A dataset of one camera, its episodes' tasks in turn; each episode's film begins brighter than the last one's. Returns each episode's states and
    actions."""
    camera, state, action = names
    episodes = [recorded(number, steps) for number, steps in enumerate(lengths)]
    films = [film(steps, size, first=10 + 40 * number) for number, steps in enumerate(lengths)]
    rows: list[dict[str, Any]] = []
    for number, (states, actions) in enumerate(episodes):
        for step in range(len(actions)):
            row = {state: states[step].tolist(), action: actions[step].tolist(), "timestamp": step / FPS, "frame_index": step, "episode_index": number}
            row |= {"index": len(rows), "task_index": number % len(tasks)}
            row |= {} if video else {camera: {"bytes": _png(films[number][step]), "path": f"frame_{step:06d}.png"}}
            row |= {} if failed is None else {"next.success": step == len(actions) - 1 and number not in failed}
            rows.append(row)
    features: dict[str, Any] = {
        camera: {"dtype": "video" if video else "image", "shape": [size, size, 3], "names": ["height", "width", "channels"]},
        state: {"dtype": "float32", "shape": [8], "names": None},
        action: {"dtype": "float32", "shape": [7], "names": None},
    }
    features |= {} if failed is None else {"next.success": {"dtype": "bool", "shape": [1], "names": None}}
    info = {"codebase_version": version, "fps": FPS, "chunks_size": 1000, "features": features, "total_episodes": len(lengths)}
    (_write_3 if version.startswith("v3") else _write_2)(folder, info, rows, films if video else None, camera, tasks)
    return episodes


def _write_2(folder: Path, info: dict[str, Any], rows: list[dict[str, Any]], films: list[NDArray[np.uint8]] | None, camera: str, tasks: Sequence[str]) -> None:
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if films else None
    listed = []
    for number in range(info["total_episodes"]):
        own = [row for row in rows if row["episode_index"] == number]
        _write_rows(folder / f"data/chunk-000/episode_{number:06d}.parquet", own)
        listed.append({"episode_index": number, "tasks": [tasks[number % len(tasks)]], "length": len(own)})
        if films:
            _encode(folder / f"videos/chunk-000/{camera}/episode_{number:06d}.mp4", films[number], "libx264")
    _write_json(folder / "meta/info.json", info)
    (folder / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in listed))
    (folder / "meta/tasks.jsonl").write_text("".join(json.dumps({"task_index": number, "task": task}) + "\n" for number, task in enumerate(tasks)))


def _write_3(folder: Path, info: dict[str, Any], rows: list[dict[str, Any]], films: list[NDArray[np.uint8]] | None, camera: str, tasks: Sequence[str]) -> None:
    info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4" if films else None
    _write_rows(folder / "data/chunk-000/file-000.parquet", rows)
    listed, first = [], 0
    for number in range(info["total_episodes"]):
        steps = sum(row["episode_index"] == number for row in rows)
        line: dict[str, Any] = {"episode_index": number, "tasks": [tasks[number % len(tasks)]], "length": steps, "data/chunk_index": 0, "data/file_index": 0}
        line |= {"dataset_from_index": first, "dataset_to_index": first + steps, "stats/action/mean": [0.0]}
        if films:
            where = {"chunk_index": 0, "file_index": 0, "from_timestamp": first / FPS, "to_timestamp": (first + steps) / FPS}
            line |= {f"videos/{camera}/{name}": value for name, value in where.items()}
        listed.append(line)
        first += steps
    if films:
        _encode(folder / f"videos/{camera}/chunk-000/file-000.mp4", np.concatenate(films), "libsvtav1")
    _write_json(folder / "meta/info.json", info)
    _write_rows(folder / "meta/episodes/chunk-000/file-000.parquet", listed)
    _write_rows(folder / "meta/tasks.parquet", [{"task_index": number, "__index_level_0__": task} for number, task in enumerate(tasks)])


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _encode(path: Path, frames: NDArray[np.uint8], codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    quality = ["-crf", "18", "-g", "2", "-pix_fmt", "yuv420p"]
    encoder = imageio_ffmpeg.write_frames(str(path), frames.shape[2:0:-1], fps=FPS, codec=codec, quality=None, output_params=quality, macro_block_size=1)
    encoder.send(None)
    for image in frames:
        encoder.send(np.ascontiguousarray(image))
    encoder.close()


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
