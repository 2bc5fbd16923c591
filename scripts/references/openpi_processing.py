"""Reference tensors of openpi's processing: what openpi feeds pi0 and pi0.5 for a raw observation, and what it makes of their actions.

Run it from the root of the repository, in a Python environment with numpy, pillow, pydantic, torch, safetensors and tokenizers, beside openpi's source (commit
15a9616): `PYTHONPATH=.:OPENPI/src:OPENPI/packages/openpi-client/src python scripts/references/openpi_processing.py`. Nothing is downloaded: jax and flax
are not needed for these transforms, and are replaced here by the two functions that they use; so is sentencepiece, by the small tokenizer of
tests/references.
It writes tests/references/pi/openpi_processing_{pi0_libero,pi05_libero,pi05_droid}.safetensors:

    raw.state, raw.actions        float32 [S], [H, A']
    task, norm_stats              in the metadata of the file: the instruction, and the content of norm_stats.json
                                  The frames are not stored: tests/support/openpi_frames.py makes them.
    images, published_images      float32 [3 cameras, 3, 32, 40], and at the published size every 16th row and column
    image_mask, tokens, token_mask
    state, actions                normalised and padded: float32 [32], [H, 32]
    model_actions, executed       actions of the model [H, 32], and what is executed [H, A']
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tests.support.openpi_frames import openpi_frames

REFERENCES = Path(__file__).resolve().parents[2] / "tests" / "references"
HEIGHT, WIDTH, HORIZON = 32, 40, 6
TASK = "  put the red_block\nin the bowl "


class ModelType(Enum):
    PI0 = "pi0"
    PI0_FAST = "pi0_fast"
    PI05 = "pi05"


class Pieces:
    """The part of sentencepiece that openpi uses, over a small tokenizer."""

    def __init__(self, model_proto: bytes) -> None:
        self._tokenizer = Tokenizer.from_file(str(REFERENCES / "tokenizers" / "gemma" / "tokenizer.json"))

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [2, *ids] if add_bos else ids


def flatten(tree: Mapping[str, Any], sep: str = "/", prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, sep, f"{prefix}{key}{sep}") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any], sep: str = "/") -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(sep)
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree


def without_jax() -> None:
    """Put modules of ours in the place of those that need jax, flax, orbax, sentencepiece or a download."""
    for name in ("jax", "flax", "orbax", "orbax.checkpoint", "openpi.shared.array_typing", "openpi.models.utils.fsq_tokenizer", "numpydantic", "transformers"):
        sys.modules[name] = MagicMock()
    sys.modules["flax.traverse_util"] = sys.modules["flax"].traverse_util = MagicMock(flatten_dict=flatten, unflatten_dict=unflatten)
    sys.modules["numpydantic"].NDArray = Any
    sys.modules["sentencepiece"] = MagicMock(SentencePieceProcessor=Pieces)
    sys.modules["openpi.shared.download"] = download = ModuleType("download")
    download.maybe_download = lambda *_, **__: Path(__file__)  # type: ignore[attr-defined]
    sys.modules["openpi.models.model"] = model = ModuleType("model")
    model.ModelType = ModelType  # type: ignore[attr-defined]
    import openpi.models
    import openpi.shared

    openpi.models.model, openpi.shared.download = model, download  # type: ignore[attr-defined]
    openpi.models.utils = MagicMock()  # type: ignore[attr-defined]


def statistics(rng: np.random.Generator, sizes: Mapping[str, int]) -> dict[str, Any]:
    found = {}
    for name, size in sizes.items():
        mean, std = rng.normal(size=size), rng.uniform(0.2, 2, size)
        found[name] = {"mean": mean.tolist(), "std": std.tolist(), "q01": (mean - 1.5 * std).tolist(), "q99": (mean + 1.6 * std).tolist()}
    return found


def write_case(name: str, family: ModelType, robot: str, relative: int, discrete: bool) -> None:
    from openpi import transforms
    from openpi.models.tokenizer import PaligemmaTokenizer
    from openpi.policies.droid_policy import DroidInputs, DroidOutputs
    from openpi.policies.libero_policy import LiberoInputs, LiberoOutputs
    from openpi.shared.normalize import NormStats

    rng = np.random.default_rng(17)
    state_size, action_size = 8, 8 if robot == "droid" else 7
    stats = statistics(rng, {"state": state_size, "actions": action_size})
    given = {key: NormStats(**{kind: np.asarray(numbers) for kind, numbers in found.items()}) for key, found in stats.items()}
    base, wrist = openpi_frames()
    state = (np.asarray(stats["state"]["mean"]) + 1.5 * rng.normal(size=state_size)).astype(np.float32)
    actions = (np.asarray(stats["actions"]["mean"]) + rng.normal(size=(HORIZON, action_size))).astype(np.float32)
    model_actions = rng.normal(size=(HORIZON, 32)).astype(np.float32)
    wide = state.astype(np.float64)
    if robot == "droid":
        raw = {"observation/exterior_image_1_left": base, "observation/wrist_image_left": wrist}
        raw |= {"observation/joint_position": wide[:7], "observation/gripper_position": wide[7:]}
    else:
        raw = {"observation/image": base, "observation/wrist_image": wrist, "observation/state": wide}
    quantiles = family != ModelType.PI0
    mask = transforms.make_bool_mask(relative, relative - action_size) if relative else None
    inputs, outputs = (DroidInputs, DroidOutputs) if robot == "droid" else (LiberoInputs, LiberoOutputs)

    def fed(height: int, width: int) -> Any:
        steps = [
            inputs(model_type=family),
            transforms.DeltaActions(mask),
            transforms.Normalize(given, use_quantiles=quantiles),
            transforms.ResizeImages(height, width),
            transforms.TokenizePrompt(PaligemmaTokenizer(200 if quantiles else 48), discrete_state_input=discrete),
            transforms.PadStatesAndActions(32),
        ]
        return transforms.compose(steps)({**raw, "actions": actions.astype(np.float64), "prompt": TASK})

    def images(found: Any) -> torch.Tensor:
        """As openpi's Observation.from_dict scales them."""
        return torch.stack([torch.from_numpy(image).to(torch.float32).permute(2, 0, 1) / 255.0 * 2.0 - 1.0 for image in found["image"].values()])

    small = fed(HEIGHT, WIDTH)
    answer = {"state": small["state"], "actions": model_actions.copy()}
    steps = [transforms.Unnormalize(given, use_quantiles=quantiles), transforms.AbsoluteActions(mask), outputs()]
    executed = transforms.compose(steps)(answer)["actions"]
    tensors = {
        "raw.state": torch.from_numpy(state),
        "raw.actions": torch.from_numpy(actions),
        "images": images(small),
        "published_images": images(fed(224, 224))[..., ::16, ::16].contiguous(),
        "image_mask": torch.tensor([bool(shown) for shown in small["image_mask"].values()]),
        "tokens": torch.from_numpy(small["tokenized_prompt"].astype(np.int64)),
        "token_mask": torch.from_numpy(small["tokenized_prompt_mask"]),
        "state": torch.from_numpy(small["state"].astype(np.float32)),
        "actions": torch.from_numpy(small["actions"].astype(np.float32)),
        "model_actions": torch.from_numpy(model_actions),
        "executed": torch.from_numpy(executed.astype(np.float32)),
    }
    metadata = {"task": TASK, "norm_stats": json.dumps({"norm_stats": stats})}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, REFERENCES / "pi" / f"openpi_processing_{name}.safetensors", metadata)
    print(name, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, list(small["image"]))


def main() -> None:
    without_jax()
    write_case("pi0_libero", ModelType.PI0, "libero", relative=6, discrete=False)
    write_case("pi05_libero", ModelType.PI05, "libero", relative=0, discrete=False)
    write_case("pi05_droid", ModelType.PI05, "droid", relative=0, discrete=True)


if __name__ == "__main__":
    main()
