"""What a run changes in the files of a checkpoint that came in GR00T's layout. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.contents import Checkpoint, write_json
from rlvla3.checkpoints.weight_files import read_json


def update(folder: Path, came: Checkpoint, options: Mapping[str, Any], chunk: int) -> list[str]:
    """Write the horizon and the denoising steps of the run into config.json, if they are not those that came. Returns a sentence for each change."""
    config = read_json(folder / "config.json")
    head = config["action_head_cfg"]
    horizon, steps = options["model"]["horizon"], options["flow"]["denoising_steps"]
    said = []
    if config["action_horizon"] != horizon:
        said.append(f"config.json: action_horizon was {config['action_horizon']}, and is {horizon} as in the run")
    if head["num_inference_timesteps"] != steps:
        said.append(f"config.json: num_inference_timesteps was {head['num_inference_timesteps']}, and is {steps} as in the run")
    if said:
        changed = {**head, "action_horizon": horizon, "num_inference_timesteps": steps}
        write_json(folder / "config.json", {**config, "action_horizon": horizon, "action_head_cfg": changed})
    return said
