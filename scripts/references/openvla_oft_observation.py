"""Make what the authors' code of OpenVLA-OFT feeds for raw observations, and what it makes of them: from frames, state and instruction to actions.

Run it as openvla_oft.py beside it, in the same environment with tensorflow 2.21 and json_numpy added. It writes below tests/references/openvla_oft/:

folder/                  config.json, preprocessor_config.json, tokenizer and dataset_statistics.json as the authors' classes save them. The tokenizer is a
                         small one of Llama's kind
observation.safetensors  for each observation of tests/support/openvla_references.py:
    images, jpeg_images      what the towers see, float32 [B, 2, 6, 14, 14]: every 16th row and column. The authors compress each frame as JPEG before they
                             resize it: the first ones were not
    ids                      the prompt, with the token that predict_action adds, padded with -1
    state                    normalised
    network_actions          un-normalised actions of the network, without JPEG
    actions                  what LIBERO executes: the gripper read as the authors' evaluation does
"""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import openvla_oft as reference
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import LlamaTokenizerFast

from tests.support.openvla_references import DATASET, EMPTY_TOKEN, INSTRUCTIONS, OBSERVED, frames, observed_sizes, states, statistics, weights

FOLDER = reference.FOLDER / "folder"


class Unrounded(ModuleType):
    """torch for the authors' evaluation, which casts all inputs to bfloat16: here they stay float32."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def llama_tokenizer() -> LlamaTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    corpus = [f"In: What action should the robot take to {text.lower()}?\nOut:" for text in INSTRUCTIONS]
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=360, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return LlamaTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<PAD>", legacy=False)


def evaluation() -> tuple[Any, Any]:
    """The authors' modules of evaluation, without those that they import and this run does not use."""
    import sys

    from prismatic.vla.constants import NormalizationType

    for name in ("prismatic.vla.datasets.rlds.utils.data_utils", "prismatic.models.film_vit_wrapper"):
        sys.modules[name] = ModuleType(name)
    sys.modules["prismatic.vla.datasets.rlds.utils.data_utils"].NormalizationType = NormalizationType  # type: ignore[attr-defined]
    sys.modules["prismatic.models.film_vit_wrapper"].FiLMedPrismaticVisionBackbone = None  # type: ignore[attr-defined]
    for name in ("datasets", "datasets.rlds", "datasets.rlds.utils"):
        sys.modules[f"prismatic.vla.{name}"] = ModuleType(name)
    from experiments.robot import openvla_utils, robot_utils

    openvla_utils.torch = Unrounded("torch")
    return openvla_utils, robot_utils


def save_folder(network: Any, processor: Any) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    network.config.save_pretrained(FOLDER)
    processor.save_pretrained(FOLDER)
    (FOLDER / "dataset_statistics.json").write_text(json.dumps(statistics(), indent=1))


@torch.no_grad()
def main() -> None:
    reference.prepare()
    openvla_utils, robot_utils = evaluation()
    from prismatic.extern.hf.processing_prismatic import PrismaticImageProcessor, PrismaticProcessor

    size = observed_sizes()
    reference.shrink(size)
    network, heads = reference.authors_network(size), reference.authors_heads(size)
    network.vision_backbone.set_num_images_in_input(2)
    network.load_state_dict(weights(network.state_dict()))
    network.norm_stats = statistics()
    images = PrismaticImageProcessor(
        use_fused_vision_backbone=True,
        image_resize_strategy="resize-naive",
        input_sizes=[[3, 224, 224]] * 2,
        interpolations=["bicubic"] * 2,
        means=[[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]],
        stds=[[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]],
    )
    processor = PrismaticProcessor(images, llama_tokenizer())
    save_folder(network, processor)
    settings = SimpleNamespace(num_images_in_input=2, center_crop=True, use_proprio=True, unnorm_key=DATASET)
    seen: dict[str, list[Any]] = {name: [] for name in ("images", "jpeg_images", "ids", "state", "network_actions", "actions")}
    predict, encode, decode = network.predict_action, openvla_utils.tf.image.encode_jpeg, openvla_utils.tf.io.decode_image

    def watched(**given: Any) -> Any:
        seen["images" if openvla_utils.tf.image.encode_jpeg is not encode else "jpeg_images"].append(
            given["pixel_values"].view(2, 6, 224, 224)[..., ::16, ::16]
        )
        seen["ids"].append([*given["input_ids"][0].tolist(), EMPTY_TOKEN])
        seen["state"].append(torch.from_numpy(given["proprio"]))
        return predict(**given)

    network.predict_action = watched
    for compressed in (True, False):
        if not compressed:
            openvla_utils.tf.image.encode_jpeg, openvla_utils.tf.io.decode_image = (lambda image: image), (lambda image, **_: image)
        for number in range(OBSERVED):
            observation = {"full_image": frames("scene")[number].numpy(), "wrist_image": frames("hand")[number].numpy(), "state": states()[number].numpy()}
            chunk = openvla_utils.get_vla_action(settings, network, processor, observation, INSTRUCTIONS[number], **heads)
            if not compressed:
                seen["network_actions"].append(torch.from_numpy(np.stack(chunk)))
                executed = [robot_utils.invert_gripper_action(robot_utils.normalize_gripper_action(action)) for action in chunk]
                seen["actions"].append(torch.from_numpy(np.stack(executed)))
    openvla_utils.tf.image.encode_jpeg, openvla_utils.tf.io.decode_image = encode, decode
    longest = max(map(len, seen["ids"]))
    ids = torch.tensor([row + [-1] * (longest - len(row)) for row in seen.pop("ids")[:OBSERVED]])
    seen["state"] = seen["state"][:OBSERVED]
    found = {name: torch.stack(tensors).contiguous() for name, tensors in seen.items()} | {"ids": ids}
    save_file(found, reference.FOLDER / "observation.safetensors", {"shapes": json.dumps(reference.shapes_of(network, heads))})
    print({name: (tuple(tensor.shape), tensor.double().std().item()) for name, tensor in found.items()})
    print("JPEG changes the images by", (found["images"] - found["jpeg_images"]).abs().mean().item())


if __name__ == "__main__":
    main()
