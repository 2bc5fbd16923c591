"""Make tests/references/lerobot/end_to_end.safetensors: what lerobot executes for a raw observation with a whole tiny checkpoint of pi0, pi0.5 and SmolVLA.

Run it from the repository's root, in a Python 3.12 environment with lerobot 0.6.1 (torch 2.11, transformers 5.5.4):

    PYTHONPATH=. python scripts/references/lerobot_end_to_end.py                  writes FAMILY.executed, float32 [2, 6, 7]
    PYTHONPATH=. python scripts/references/lerobot_end_to_end.py FAMILY FOLDER    loads what rlvla3 wrote, and prints how much its actions differ

The checkpoint is loaded as users load it: `from_pretrained` and the saved pipelines. The raw observation is the one of lerobot_processing.py, and the noise is
that of tests/support/lerobot_references.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from scripts.references.pi_lerobot import shrink
from scripts.references.smolvla_lerobot import vlm_config
from tests.support.lerobot_references import REFERENCES, TOKENIZERS, folder_without_weights, noise, sizes, weights

FILE = REFERENCES / "lerobot" / "end_to_end.safetensors"
EMBEDDING, HEAD = (f"paligemma_with_expert.paligemma.{name}.weight" for name in ("model.language_model.embed_tokens", "lm_head"))


def tiny(family: str) -> ExitStack:
    """While it is open, lerobot builds tiny networks, and asks no hub for the configuration of SmolVLM."""
    stack = ExitStack()
    if family == "smolvla":
        library, tokenizer = "lerobot.policies.smolvla.smolvlm_with_expert", SimpleNamespace(fake_image_token_id=61, global_image_token_id=62)
        stack.enter_context(patch(f"{library}.AutoConfig", SimpleNamespace(from_pretrained=lambda name: vlm_config(sizes(family)))))
        stack.enter_context(patch(f"{library}.AutoProcessor", SimpleNamespace(from_pretrained=lambda name: SimpleNamespace(tokenizer=tokenizer))))
    return stack


def executed(family: str, folder: Path) -> Tensor:
    """What the checkpoint in `folder` executes."""
    name = "smolvla/processing" if family == "smolvla" else f"pi/processing_{family}"
    file = REFERENCES / f"{name}.safetensors"
    raw = load_file(file)
    with safe_open(file, "pt") as opened:
        tasks = json.loads(opened.metadata()["tasks"])
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(family).from_pretrained(folder, config=config, strict=True).eval()
    before, after = make_pre_post_processors(config, pretrained_path=str(folder))
    frames = {key: raw[f"raw.{key}"].numpy() for key in ("image", "image2")}
    observation: dict[str, Any] = preprocess_observation({"pixels": frames, "agent_pos": raw["raw.state"].numpy()})
    return after(policy.predict_action_chunk(before({**observation, "task": tasks}), noise=noise()))


def save(family: str, folder: Path) -> None:
    """Let lerobot write a checkpoint of known weights."""
    config = PreTrainedConfig.from_pretrained(folder_without_weights(folder, family))
    policy = get_policy_class(family)(config)
    known = weights(family, policy.model.state_dict())
    if family != "smolvla":
        known[HEAD] = known[EMBEDDING]
    policy.model.load_state_dict(known)
    policy.save_pretrained(folder)


@torch.no_grad()
def main() -> None:
    for family, library in {"pi0": modeling_pi0, "pi05": modeling_pi05}.items():
        shrink(library, sizes(family))
    if len(sys.argv) == 3:
        family, folder = sys.argv[1], Path(sys.argv[2])
        with tiny(family):
            print(family, (executed(family, folder) - load_file(FILE)[f"{family}.executed"]).abs().max().item())
        return
    made = {}
    for family in TOKENIZERS:
        with tempfile.TemporaryDirectory() as folder, tiny(family):
            save(family, Path(folder))
            made[f"{family}.executed"] = executed(family, Path(folder)).contiguous()
            print(family, made[f"{family}.executed"].std(0).mean().item(), sorted(path.name for path in Path(folder).iterdir()))
    save_file(made, FILE)
    FILE.chmod(0o644)


if __name__ == "__main__":
    main()
