"""Check by hand that what rlvla3 writes in lerobot's layout loads in lerobot: its weights, strictly, and its processors.

Run it from the repository's root, in a Python 3.12 environment with lerobot 0.6.1 and pydantic:
`PYTHONPATH=. python scripts/references/lerobot_export.py`. Nothing is downloaded. It prints one line a family, and fails where something differs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from safetensors.torch import load_file

from rlvla3.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from rlvla3.checkpoints.weights import load_weights
from rlvla3.policies.pi.options import PiModel
from scripts.references.pi_lerobot import shrink
from tests.support.vla_checkpoints import EMBEDDING, REFERENCES, change, lerobot_folder, network_of, tokenizer_folder

POLICIES = {"pi0": (modeling_pi0, modeling_pi0.PI0Policy), "pi05": (modeling_pi05, modeling_pi05.PI05Policy)}


def exported(folder: Path, family: str) -> Path:
    """A tiny checkpoint that was read, changed and written again."""
    base = lerobot_folder(folder / "base", family)
    change(base / "config.json", lambda config: config.update(image_resolution=[56, 56]))  # the size of the tiny vision tower
    checkpoint = read_checkpoint(base)
    state = network_of(family, seed=3).state_dict()
    load_weights(state, checkpoint)
    for tensor in state.values():
        tensor.add_(0.5)
    write_checkpoint(folder / "exported", checkpoint, state)
    return folder / "exported"


def check(family: str, folder: Path) -> None:
    library, policy_class = POLICIES[family]
    shrink(library, PiModel.tiny("pi05" if family == "pi05" else "pi0").model_dump())
    target = exported(folder, family)
    policy: Any = policy_class.from_pretrained(target)  # strict; it prints, and goes on with random weights, where a key does not fit
    written = load_file(target / "model.safetensors")
    own = policy.state_dict()
    assert own.keys() == written.keys(), own.keys() ^ written.keys()
    head = "model.paligemma_with_expert.paligemma.lm_head.weight"
    differing = [name for name in own if not torch.equal(own[name].float(), written[name].float())]
    assert not differing, differing[:5]
    assert torch.equal(written[head], written[f"model.{EMBEDDING}"])
    overrides = {"tokenizer_processor": {"tokenizer_name": tokenizer_folder(family)}, "device_processor": {"device": "cpu"}}
    before, after = make_pre_post_processors(policy.config, str(target), preprocessor_overrides=overrides)
    reference = load_file(REFERENCES / "pi" / f"processing_{family}.safetensors")
    executed = after(reference["model_actions"].clone())
    assert torch.equal(executed, reference["executed"])
    print(f"{family}: {len(own)} tensors equal, {len(before.steps)} and {len(after.steps)} processing steps loaded, actions un-normalised alike")


def main() -> None:
    for family in POLICIES:
        with tempfile.TemporaryDirectory() as folder:
            check(family, Path(folder))


if __name__ == "__main__":
    main()
