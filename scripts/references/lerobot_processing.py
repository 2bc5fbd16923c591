"""Reference tensors of lerobot's processing: what lerobot feeds pi0, pi0.5 and SmolVLA for a raw observation, and what it makes of their actions.

Run it in an environment of its own with lerobot 0.6.1 and transformers (Python 3.12, `pip install 'lerobot[pi,smolvla]==0.6.1'`), from the root of the
repository: `python scripts/references/lerobot_processing.py`. Nothing is downloaded. It writes below tests/references/:

tokenizers/gemma, tokenizers/smollm   small tokenizers of the same kinds as PaliGemma's and SmolVLM2's
lerobot/FAMILY                        a checkpoint folder without weights, as lerobot saves it. FAMILY: pi0, pi0_relative, pi05, smolvla. Its image size is
                                      small, and its tokenizer's name is the published one: replace it by the folder below tokenizers/
pi/processing_{pi0,pi0_relative,pi05}.safetensors, smolvla/processing.safetensors   for each folder:
    raw.image, raw.image2             uint8 [B, height, width, 3], the frames of the two cameras; there is no frame for the third, empty camera
    raw.state, raw.actions            float32 [B, 8], [B, H, 7]
    tasks, long_task                  in the metadata of the file: a JSON list of B texts, and a text of more tokens than fit
    images, image_mask                what the vision tower sees: float32 [B, cameras, 3, height, width], and bool [B, cameras]
    published_images                  the same at the published size, every 16th row and column of it
                                      (pi0_relative has no images: they are those of pi0)
    tokens, token_mask                the prompt
    long_tokens, long_token_mask      the prompt of long_task alone
    state, actions                    normalised and padded: float32 [B, 32], [B, H, 32]
    model_actions, executed           actions of the model [B, H, 7], and what the postprocessor makes of them
lerobot/libero.safetensors            lerobot's processing of LIBERO's raw observations: image, pos, quat, qpos -> rotated, state
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from lerobot.processor.env_processor import LiberoProcessorStep
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

REFERENCES = Path(__file__).resolve().parents[2] / "tests" / "references"
HEIGHT, WIDTH = 32, 40
"""The image size of the saved folders. lerobot writes it as (height, width) for pi0 and pi0.5, and as (width, height) for SmolVLA."""
B, H, STATE, ACTION = 2, 6, 8, 7
TASKS = ["put the red_block\nin the bowl", " open the top drawer, and wait 27 é \n"]
LONG_TASK = "pick up the blue mug and place it on the plate, " * 24
FOLDERS = {"google/paligemma-3b-pt-224": "gemma", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": "smollm"}
CORPUS = [*TASKS, "pick up the mug", "Task: close the drawer, State: 12 255 127 0 -1 3 99;\nAction: ", "turn on the stove and put the moka pot on it\n"]


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """As PaliGemma's: byte-pair merges over text whose spaces are written ▁, bytes for unknown characters, and <bos> in front."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training alone: merges end at a space
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    known = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *(token for token in trained["vocab"] if token not in special and token != "é")]
    merges = [tuple(merge) for merge in trained["merges"] if not any("é" in side for side in merge)]
    vocabulary = {token: i for i, token in enumerate(known)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>")


def smollm_tokenizer() -> PreTrainedTokenizerFast:
    """As SmolVLM2's: byte-pair merges over bytes, and nothing in front."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fake_token_around_image>", "<global-img>", "<image>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|im_end|>", eos_token="<|im_end|>", bos_token="<|im_start|>")


def config_of(family: str) -> Any:
    feature = {FeatureType.VISUAL: (3, 64, 64), FeatureType.STATE: (STATE,), FeatureType.ACTION: (ACTION,)}
    kinds = {"observation.images.image": FeatureType.VISUAL, "observation.images.image2": FeatureType.VISUAL, "observation.state": FeatureType.STATE}
    given: dict[str, Any] = {
        "input_features": {key: PolicyFeature(type=kind, shape=feature[kind]) for key, kind in kinds.items()},
        "output_features": {"action": PolicyFeature(type=FeatureType.ACTION, shape=(ACTION,))},
        "chunk_size": H,
        "n_action_steps": 4,
        "empty_cameras": 1,
        "device": "cpu",
    }
    if family == "smolvla":
        config: Any = SmolVLAConfig(**given, resize_imgs_with_padding=(WIDTH, HEIGHT))
    elif family == "pi05":
        config = PI05Config(**given, image_resolution=(HEIGHT, WIDTH))
    else:
        names = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
        relative = {"use_relative_actions": True, "action_feature_names": names} if family == "pi0_relative" else {}
        config = PI0Config(**given, image_resolution=(HEIGHT, WIDTH), **relative)
    config.validate_features()
    return config


def statistics(rng: np.random.Generator) -> dict[str, dict[str, Tensor]]:
    """What a dataset says about its states and actions."""
    found = {}
    for key, size in (("observation.state", STATE), ("action", ACTION)):
        centre, spread = rng.normal(size=size), rng.uniform(0.2, 2, size)
        shares = {"min": -2.0, "q01": -1.5, "q10": -1.0, "q50": 0.0, "q90": 1.1, "q99": 1.6, "max": 2.1}
        numbers = {"mean": centre, "std": spread, **{name: centre + share * spread for name, share in shares.items()}}
        found[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()} | {"count": torch.tensor([100.0])}
    return found


def model_inputs(family: str, config: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The images and their mask, as the policy's own code prepares them."""
    policy = SimpleNamespace(config=config, parameters=lambda: iter([torch.zeros(1)]))
    prepare = {"smolvla": SmolVLAPolicy.prepare_images, "pi05": PI05Policy._preprocess_images}.get(family, PI0Policy._preprocess_images)
    images, masks = prepare(policy, batch)
    return torch.stack(images, 1).contiguous(), torch.stack(masks, 1)


def padded(numbers: Tensor) -> Tensor:
    return torch.nn.functional.pad(numbers, (0, 32 - numbers.shape[-1]))


def write_family(family: str, target: Path) -> None:
    rng = np.random.default_rng(13)
    config, stats = config_of(family), statistics(rng)
    frames = {"image": rng.integers(0, 256, (B, 48, 64, 3), dtype=np.uint8), "image2": rng.integers(0, 256, (B, 30, 20, 3), dtype=np.uint8)}
    # Some numbers lie far outside what the dataset has, so that clipping and the ends of the 256 bins are seen.
    state = (stats["observation.state"]["mean"].numpy() + rng.normal(size=(B, STATE)) * 1.5).astype(np.float32)
    actions = torch.tensor(stats["action"]["mean"].numpy() + rng.normal(size=(B, H, ACTION)), dtype=torch.float32)
    model_actions = torch.tensor(rng.normal(size=(B, H, ACTION)), dtype=torch.float32)
    make = {"smolvla": make_smolvla_pre_post_processors, "pi05": make_pi05_pre_post_processors}.get(family, make_pi0_pre_post_processors)
    before, after = make(config, stats)

    def observed(tasks: list[str]) -> dict[str, Any]:
        rows = len(tasks)
        raw = {"pixels": {name: frame[:rows] for name, frame in frames.items()}, "agent_pos": state[:rows]}
        return before({**preprocess_observation(raw), "task": list(tasks), "action": actions[:rows].clone()})

    long, batch = observed([LONG_TASK]), observed(TASKS)
    images, image_mask = model_inputs(family, config, batch)
    published = config_of(family)
    if family == "smolvla":
        published.resize_imgs_with_padding = (512, 512)
    else:
        published.image_resolution = (224, 224)
    tensors = {
        "raw.image": torch.tensor(frames["image"]),
        "raw.image2": torch.tensor(frames["image2"]),
        "raw.state": torch.tensor(state),
        "raw.actions": actions,
        "images": images,
        "image_mask": image_mask,
        "published_images": model_inputs(family, published, batch)[0][..., ::16, ::16].contiguous(),
        "tokens": batch["observation.language.tokens"],
        "token_mask": batch["observation.language.attention_mask"],
        "long_tokens": long["observation.language.tokens"],
        "long_token_mask": long["observation.language.attention_mask"],
        "state": padded(batch["observation.state"]),
        "actions": padded(batch["action"]),
        "model_actions": model_actions,
        "executed": after(model_actions.clone()),
    }
    if family == "pi0_relative":  # its images are those of pi0
        tensors = {name: tensor for name, tensor in tensors.items() if "image" not in name}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"tasks": json.dumps(TASKS), "long_task": LONG_TASK})
    folder = REFERENCES / "lerobot" / family
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config._save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    print(family, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, sorted(path.name for path in folder.iterdir()))


def write_libero() -> None:
    rng = np.random.default_rng(14)
    quaternion = rng.normal(size=(3, 4))
    quaternion = np.concatenate([quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True), [[0.0, 0.0, 0.0, 1.0]]])
    robot = {
        "eef": {"pos": torch.tensor(rng.normal(size=(4, 3))), "quat": torch.tensor(quaternion)},
        "gripper": {"qpos": torch.tensor(rng.normal(size=(4, 2)))},
    }
    image = rng.integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
    raw = {**preprocess_observation({"pixels": {"image": image}}), "observation.robot_state": robot}
    done = LiberoProcessorStep().observation(raw)
    tensors = {"image": torch.tensor(image), "pos": robot["eef"]["pos"], "quat": robot["eef"]["quat"], "qpos": robot["gripper"]["qpos"]}
    tensors |= {"rotated": done["observation.images.image"].contiguous(), "state": done["observation.state"]}
    save_file(tensors, REFERENCES / "lerobot" / "libero.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    for name, tokenizer in {"gemma": gemma_tokenizer(), "smollm": smollm_tokenizer()}.items():
        tokenizer.save_pretrained(REFERENCES / "tokenizers" / name)
    original = AutoTokenizer.from_pretrained

    def local(name: str, **options: Any) -> Any:
        return original(str(REFERENCES / "tokenizers" / FOLDERS[name]), **options)

    with patch("lerobot.processor.tokenizer_processor.AutoTokenizer.from_pretrained", local):
        for family in ("pi0", "pi0_relative", "pi05"):
            write_family(family, REFERENCES / "pi" / f"processing_{family}.safetensors")
        write_family("smolvla", REFERENCES / "smolvla" / "processing.safetensors")
    write_libero()


if __name__ == "__main__":
    main()
