"""Reference tensors of GR00T N1.5: what the authors' network computes from random weights of tiny size.

The authors' code is the one that lerobot 0.4.4 carries (lerobot/policies/groot; it is NVIDIA's, with other imports). Run it in an environment of its own,
Python 3.11 with torch 2.13.0 (CPU), transformers 4.57.6, diffusers 0.36.0, peft, dm-tree, einops, pydantic and pyyaml, and without torchvision. Unpack the
wheel (`pip download lerobot==0.4.4 --no-deps`, then unzip), and from the root of the repository: `python scripts/references/groot.py FOLDER_OF_THE_WHEEL`.
Nothing is downloaded. It writes tests/references/groot/network.safetensors:

    images           uint8 [B, N, 3, height, width]; the network is fed 2 x / 255 - 1
    image_mask       bool [B, N]
    tokens           int64 [B, L], padded on the left, token_mask bool [B, L]
    state            float32 [B, S]
    noise            float32 [B, H, A]
    hidden           float32 [B, L, W], the backbone's output, and prefix, what the action head attends to; zero for padding
    actions          float32 [B, H, A], after 4 denoising steps from noise
    demonstrations   float32 [B, H, A], times float32 [B] (0 is noise), and loss, the authors' loss of the demonstrations at these times with this noise
    neighbours       float32 [B, H, A], the actions in one padded batch: the authors' network attends to padding

`hidden`, `prefix` and `actions` are computed for one observation at a time, without padding. `loss` is that of rows 0 and 3, whose prompts are of one length.
With transformers 4.51.3, which NVIDIA pins, they are the same to the last bit. Weights: tests/support/groot_references.py.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from rlvla3.policies.groot.options import GrootModel  # noqa: E402
from tests.support.groot_references import groot_config, groot_weights  # noqa: E402

TEXT = [9, 14, 5, 9]
"""Text tokens of the prompts."""

CAMERAS = [2, 2, 1, 2]
"""Images of the prompts."""

EQUAL = [0, 3]
"""Rows whose prompts have the same length."""


def main() -> None:
    authors = import_authors(Path(sys.argv[1]))
    sizes = GrootModel.tiny()
    network = build(authors, sizes).eval()
    draw_weights(network)
    inputs = make_inputs(sizes)
    hidden = torch.zeros(*inputs["tokens"].shape, sizes.prefix_width)
    prefix, actions = torch.zeros_like(hidden), torch.zeros_like(inputs["noise"])
    for row in range(len(TEXT)):
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        mask = one["token_mask"][0]
        one["tokens"], one["token_mask"] = one["tokens"][:, mask], one["token_mask"][:, mask]
        hidden[row, mask], prefix[row, mask], actions[row] = act(network, one, sizes)
    neighbours = act(network, inputs, sizes)[2]
    print("actions beside a longer prompt differ by", float((neighbours - actions).abs().max()), "at most; actions up to", float(actions.abs().max()))
    results = {"hidden": hidden, "prefix": prefix, "actions": actions, "neighbours": neighbours, "loss": loss(network, inputs, sizes)}
    save_file({name: tensor.contiguous() for name, tensor in (inputs | results).items()}, ROOT / "tests/references/groot/network.safetensors")


def import_authors(wheel: Path) -> types.SimpleNamespace:
    """The authors' modules. The packages around them are replaced by empty ones: they would import all of lerobot."""
    for name in ("lerobot", "lerobot.policies", "lerobot.policies.groot", "lerobot.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(wheel / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.modules["lerobot.utils.import_utils"] = types.ModuleType("lerobot.utils.import_utils")
    sys.modules["lerobot.utils.import_utils"]._transformers_available = True  # type: ignore[attr-defined]
    part = "lerobot.policies.groot."
    eagle = importlib.import_module(part + "eagle2_hg_model.modeling_eagle2_5_vl")
    groot = importlib.import_module(part + "groot_n1")
    head = importlib.import_module(part + "action_head.flow_matching_action_head")
    return types.SimpleNamespace(eagle=eagle, groot=groot, head=head)


def build(authors: types.SimpleNamespace, sizes: GrootModel) -> nn.Module:
    """The authors' network, with sizes of ours. Its backbone is put together here, because its constructor downloads the sizes of the published one."""
    vision, text = vision_config(sizes), text_config(sizes)
    config = authors.eagle.Eagle25VLConfig(
        vision_config=vision.to_dict() | {"model_type": "siglip_vision_model"},
        text_config=text.to_dict() | {"architectures": ["Qwen3ForCausalLM"]},
        force_image_size=sizes.vision.image,
        select_layer=-1,
        image_token_index=sizes.language.image_token,
        use_pixel_shuffle=False,
        mlp_connector_layers=1,
        _attn_implementation="sdpa",
    )
    model = authors.eagle.Eagle25VLForConditionalGeneration
    backbone = authors.groot.EagleBackbone.__new__(authors.groot.EagleBackbone)
    nn.Module.__init__(backbone)
    backbone.eagle_model = model(config, vision_model=SiglipVisionModel(vision), language_model=Qwen3ForCausalLM(text))
    backbone.eagle_linear = nn.Identity()
    while len(backbone.eagle_model.language_model.model.layers) > sizes.language.layers:
        backbone.eagle_model.language_model.model.layers.pop(-1)
    backbone.select_layer, backbone.tune_llm, backbone.tune_visual = sizes.language.layers, True, True
    network = nn.Module()
    network.backbone = backbone
    network.action_head = authors.head.FlowmatchingActionHead(authors.head.FlowmatchingActionHeadConfig(**groot_config(sizes)["action_head_cfg"]))
    return network


def draw_weights(network: nn.Module) -> None:
    """The output layer of the language model is not used, and its weights are those of the embedding."""
    output = "backbone.eagle_model.language_model.lm_head.weight"
    others = {name: tensor for name, tensor in network.state_dict().items() if name != output}
    loaded = network.load_state_dict(groot_weights(others), strict=False)
    assert loaded.missing_keys == [output], loaded


def vision_config(sizes: GrootModel) -> SiglipVisionConfig:
    size = sizes.vision
    return SiglipVisionConfig(
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        image_size=size.image,
        patch_size=size.patch,
        attn_implementation="sdpa",
    )


def text_config(sizes: GrootModel) -> Qwen3Config:
    """It has two layers more than are used, as Qwen3-1.7B has more."""
    size = sizes.language
    return Qwen3Config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers + 2,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_value_heads,
        head_dim=size.head_size,
        rope_theta=size.rope_base,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


def make_inputs(sizes: GrootModel) -> dict[str, Tensor]:
    random = np.random.default_rng(0)
    cameras, side, batch = max(CAMERAS), sizes.vision.image, len(TEXT)
    rows = [[int(token) for token in random.integers(0, 256, text)] for text in TEXT]
    image = [sizes.language.image_token] * sizes.vision.tokens
    for row, (prompt, count) in enumerate(zip(rows, CAMERAS, strict=True)):
        rows[row] = prompt[:3] + [*image, 258] * count + prompt[3:]
    length = max(map(len, rows))
    numbers = {name: random.standard_normal((batch, *shape), dtype=np.float32) for name, shape in shapes_of_numbers(sizes).items()}
    return {
        "images": torch.from_numpy(random.integers(0, 256, (batch, cameras, 3, side, side), dtype=np.uint8)),
        "image_mask": torch.tensor([[camera < count for camera in range(cameras)] for count in CAMERAS]),
        "tokens": torch.tensor([[7] * (length - len(row)) + row for row in rows]),
        "token_mask": torch.tensor([[False] * (length - len(row)) + [True] * len(row) for row in rows]),
        "times": torch.tensor([0.1234, 0.5, 0.87, 0.991]),
        **{name: torch.from_numpy(array) for name, array in numbers.items()},
    }


def shapes_of_numbers(sizes: GrootModel) -> dict[str, tuple[int, ...]]:
    chunk = (sizes.horizon, sizes.action_size)
    return {"state": (sizes.state_size,), "noise": chunk, "demonstrations": chunk}


def batch_of(inputs: dict[str, Tensor], sizes: GrootModel) -> tuple[dict[str, Tensor], Any]:
    """What the authors' backbone and action head take."""
    from transformers.feature_extraction_utils import BatchFeature

    pixels = 2 * inputs["images"][inputs["image_mask"]].float() / 255 - 1
    seen = {"pixel_values": pixels, "input_ids": inputs["tokens"], "attention_mask": inputs["token_mask"].long(), "image_sizes": torch.zeros(1)}
    embodiment = torch.full((len(inputs["state"]),), sizes.embodiment)
    mask = torch.ones_like(inputs["demonstrations"])
    action = {"state": inputs["state"][:, None], "embodiment_id": embodiment, "action": inputs["demonstrations"], "action_mask": mask}
    return {f"eagle_{name}": tensor for name, tensor in seen.items()}, BatchFeature(data=action)


@torch.no_grad()
def act(network: Any, inputs: dict[str, Tensor], sizes: GrootModel) -> tuple[Tensor, Tensor, Tensor]:
    """The backbone's output, what the action head attends to, and the actions."""
    seen, action = batch_of(inputs, sizes)
    output = network.backbone(seen)
    hidden = output["backbone_features"].clone()
    with patch("torch.randn", lambda *_, **__: inputs["noise"]):
        actions = network.action_head.get_action(output, action)["action_pred"]
    return hidden, output["backbone_features"], actions


@torch.no_grad()
def loss(network: Any, inputs: dict[str, Tensor], sizes: GrootModel) -> Tensor:
    """The authors' loss of the rows of equal length."""
    rows = {name: tensor[EQUAL] for name, tensor in inputs.items()}
    mask = rows["token_mask"][0]
    rows["tokens"], rows["token_mask"] = rows["tokens"][:, mask], rows["token_mask"][:, mask]
    seen, action = batch_of(rows, sizes)
    with patch("torch.randn", lambda *_, **__: rows["noise"]), patch.object(network.action_head, "sample_time", lambda *_, **__: rows["times"]):
        value: Tensor = network.action_head(network.backbone(seen), action)["loss"]
    return value


if __name__ == "__main__":
    main()
