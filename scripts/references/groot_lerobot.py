"""Reference tensors of lerobot's processing of GR00T N1.5: its folder as lerobot saves it, and what lerobot feeds the network for raw observations.

The code is lerobot 0.4.4 (the last that has N1.5 is 0.5.1), with Eagle's processor of Isaac-GR00T. Run it in the environment of groot_processing.py, where
lerobot's dependencies are too, after that script: `python scripts/references/groot_lerobot.py FOLDER_OF_LEROBOTS_WHEEL FOLDER_OF_ISAAC_GR00T`. Nothing is
downloaded. It writes below tests/references/groot/:

lerobot/                              config.json, and the steps of both pipelines with their files
lerobot.safetensors:
    state, actions                    float32 [B, 8], [B, H, 7]: raw. The frames are drawn again by the test: seed 8, uint8 [B, 2, 96, 128, 3]
    task                              in the metadata of the file: one text, because lerobot feeds all observations the text of the first
    fed_images, fed_state, tokens, token_mask, fed_actions   as in groot_processing.py
    answers, executed                 float32 [B, 32], and what is executed, [B, 7]
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoProcessor

GROOT = Path(__file__).resolve().parents[2] / "tests" / "references" / "groot"
B, H, HEIGHT, WIDTH = 2, 16, 96, 128
TASK = "put the red_block in the bowl"
UNUSED = ["datasets", "datasets.utils", "datasets.utils.logging", "serial", "deepdiff", "lerobot.policies.groot.configuration_groot"]
UNUSED += [f"lerobot.{name}" for name in ("teleoperators", "teleoperators.utils", "teleoperators.teleoperator", "datasets", "datasets.utils")]
UNUSED += ["lerobot.datasets.lerobot_dataset"]
"""Modules for data sets, robots and training."""

CAMERAS = ["observation.images.front", "observation.images.wrist"]


def main() -> None:
    wheel, isaac = Path(sys.argv[1]), Path(sys.argv[2])
    processing = import_processing(wheel)
    config, statistics = make_config(), make_statistics()
    before, after = processing.make_groot_pre_post_processors(config, statistics)
    folder = GROOT / "lerobot"
    shutil.rmtree(folder, ignore_errors=True)
    for pipeline in (before, after):
        pipeline.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(saved_config(config), indent=1) + "\n")
    eagle = eagle_processor(isaac)
    for step in before.steps:
        if hasattr(step, "_proc"):
            step._proc = eagle
    random = np.random.default_rng(8)
    frames = torch.from_numpy(random.integers(0, 256, (B, 2, HEIGHT, WIDTH, 3), dtype=np.uint8))
    state, actions, answers = (torch.from_numpy(random.standard_normal(shape).astype(np.float32)) for shape in ((B, 8), (B, H, 7), (B, 32)))
    images = {key: frames[:, index].permute(0, 3, 1, 2) / 255 for index, key in enumerate(CAMERAS)}
    fed = before({**images, "observation.state": state.clone(), "action": actions.clone(), "task": [TASK] * B})
    pixels = (fed["eagle_pixel_values"].reshape(B, 2, 3, 224, 224) * 127.5 + 127.5).round().to(torch.uint8)
    tensors = {
        "state": state,
        "actions": actions,
        "fed_images": pixels.permute(0, 1, 3, 4, 2)[:, :, ::8, ::8],
        "fed_state": fed["state"][:, 0],
        "tokens": fed["eagle_input_ids"],
        "token_mask": fed["eagle_attention_mask"].bool(),
        "fed_actions": fed["action"],
        "answers": answers,
        "executed": after(answers.clone()),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, GROOT / "lerobot.safetensors", metadata={"task": TASK})


class StubModule(types.ModuleType):
    """A module of which anything can be imported, and nothing used."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


def import_processing(wheel: Path) -> Any:
    """lerobot's module of GR00T's processing. What only data sets and training use is replaced by empty modules."""
    sys.path.insert(0, str(wheel))
    for name in UNUSED:
        sys.modules[name] = StubModule(name)
    for name in ("lerobot.policies", "lerobot.policies.groot"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(wheel / name.replace(".", "/"))]
    import lerobot.policies.groot.processor_groot as processing

    return processing


def eagle_processor(isaac: Path) -> Any:
    """Eagle's processor with our small tokenizer."""
    folder = Path(tempfile.mkdtemp()) / "eagle"
    shutil.copytree(isaac / "gr00t/model/backbone/eagle2_hg_model", folder)
    shutil.copytree(GROOT.parent / "tokenizers" / "qwen", folder, dirs_exist_ok=True)
    sys.modules["decord"] = StubModule("decord")
    processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=True, use_fast=True)
    processor.tokenizer.padding_side = "left"
    return processor


def make_config() -> Any:
    feature = types.SimpleNamespace
    return feature(
        chunk_size=50,
        n_action_steps=50,
        max_state_dim=64,
        max_action_dim=32,
        embodiment_tag="new_embodiment",
        tokenizer_assets_repo="lerobot/eagle2hg-processor-groot-n1p5",
        device="cpu",
        input_features={**{key: feature(type="VISUAL", shape=(3, HEIGHT, WIDTH)) for key in CAMERAS}, "observation.state": feature(type="STATE", shape=(8,))},
        output_features={"action": feature(type="ACTION", shape=(7,))},
    )


def saved_config(config: Any) -> dict[str, Any]:
    """What lerobot writes as config.json, as far as it matters."""
    content = {"type": "groot", "n_obs_steps": 1, "base_model_path": "nvidia/GR00T-N1.5-3B"} | vars(config)
    for which in ("input_features", "output_features"):
        content[which] = {key: {"type": feature.type, "shape": list(feature.shape)} for key, feature in content[which].items()}
    return content


def make_statistics() -> dict[str, dict[str, torch.Tensor]]:
    """Of the state, the last number never changes."""
    random = np.random.default_rng(12)
    found = {}
    for key, size in (("observation.state", 8), ("action", 7)):
        middle, half = random.normal(0, 0.3, size).astype(np.float32), random.uniform(0.5, 1.5, size).astype(np.float32)
        half[7:] = 0
        found[key] = {"min": torch.from_numpy(middle - half), "max": torch.from_numpy(middle + half), "mean": torch.from_numpy(middle)}
    return found


if __name__ == "__main__":
    main()
