"""Reference tensors of GR00T N1.5's processing: what NVIDIA's code feeds the network for raw observations of LIBERO, and what it makes of actions.

The code is that of Isaac-GR00T at N1.5 (folders gr00t and examples/Libero, with the configuration of Eagle in gr00t/model/backbone/eagle2_hg_model). Run it in
an environment of its own: Python 3.12 with torch 2.11, torchvision 0.26, transformers 4.51.3, dm-tree, einops and pydantic, from the root of the
repository: `python scripts/references/groot_processing.py FOLDER_OF_ISAAC_GR00T`. Nothing is downloaded. It writes below tests/references/:

tokenizers/qwen                       a small tokenizer of the same kind as Eagle's, in the same files
groot/checkpoint/experiment_cfg/metadata.json   statistics and modalities of a data set of LIBERO, as GR00T saves them
groot/processing.safetensors:
    state, actions                    float32 [B, 8], [B, H, 7]: raw. The frames are drawn again by the test: seed 7, uint8 [B, 2, 256, 256, 3]
    tasks                             in the metadata of the file: a JSON list of B texts
    fed_images                        uint8 [B, 2, 28, 28, 3], every 8th row and column of what the vision tower is fed, as pixels from 0 to 255
    fed_state                         float32 [B, 64]
    tokens, token_mask                int64 [B, L], padded on the left
    list_tokens, list_mask            the same where the instruction of one observation is given as a list, as NVIDIA's policy is asked without a batch
    fed_actions                       float32 [B, H, 7], the actions as the network learns them
    executed                          float32 [B, H, 7], what is executed where the network answers `answers`, float32 [B, H, 32]
    fed_by_mean, executed_by_mean     the same with LiberoDataConfigMeanStd, which NVIDIA has for LIBERO-Goal
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
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoProcessor  # noqa: F401  it looks for packages, so it is imported before some are replaced

REFERENCES = Path(__file__).resolve().parents[2] / "tests" / "references"
B, H, SIDE = 2, 16, 256
TASKS = ["put the red_block\nin the bowl", "don't open the top drawer, and wait 27 é"]
CORPUS = [*TASKS, "pick up the mug and place it on the plate", "<image 1> <image 2>", "system\nYou are a helpful assistant.\nuser\nassistant\n", "['close it']"]
STATE = {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1, "gripper": 2}
ACTION = {"x": 1, "y": 1, "z": 1, "roll": 1, "pitch": 1, "yaw": 1, "gripper": 1}


def main() -> None:
    isaac, eagle = Path(sys.argv[1]), Path(tempfile.mkdtemp()) / "eagle"
    shutil.copytree(isaac / "gr00t/model/backbone/eagle2_hg_model", eagle)
    write_tokenizer(eagle, REFERENCES / "tokenizers" / "qwen")
    metadata = write_metadata(REFERENCES / "groot/checkpoint/experiment_cfg/metadata.json")
    transform = import_transform(isaac, eagle, "LiberoDataConfig", metadata)
    random = np.random.default_rng(7)
    frames = random.integers(0, 256, (B, 2, SIDE, SIDE, 3), dtype=np.uint8)
    state, actions = random.standard_normal((B, 8)).astype(np.float32), random.standard_normal((B, H, 7)).astype(np.float32)
    plain = transform(observation(frames, state, np.array(TASKS)))
    listed = transform(observation(frames, state, np.array([[task] for task in TASKS])))
    pixels = (plain["eagle_pixel_values"].reshape(B, 2, 3, 224, 224) * 127.5 + 127.5).round().to(torch.uint8)
    by_mean = import_transform(isaac, eagle, "LiberoDataConfigMeanStd", metadata)
    answers = torch.from_numpy(random.standard_normal((B, H, 32)).astype(np.float32))
    tensors = {
        "state": torch.from_numpy(state),
        "actions": torch.from_numpy(actions),
        "fed_images": pixels.permute(0, 1, 3, 4, 2)[:, :, ::8, ::8],
        "fed_state": plain["state"][:, 0].float(),
        "tokens": plain["eagle_input_ids"],
        "token_mask": plain["eagle_attention_mask"].bool(),
        "list_tokens": listed["eagle_input_ids"],
        "list_mask": listed["eagle_attention_mask"].bool(),
        "fed_actions": fed_actions(transform, frames, state, actions),
        "answers": answers,
        "executed": joined(transform.unapply({"action": answers.clone()}), "action", ACTION),
        "fed_by_mean": fed_actions(by_mean, frames, state, actions),
        "executed_by_mean": joined(by_mean.unapply({"action": answers.clone()}), "action", ACTION),
    }
    path = REFERENCES / "groot" / "processing.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"tasks": json.dumps(TASKS)})


def import_transform(isaac: Path, eagle: Path, configuration: str, metadata: dict[str, Any]) -> Any:
    """The authors' processing of LIBERO, with our tokenizer. Packages that only training or other robots use are replaced by empty ones."""
    if str(isaac) not in sys.path:
        sys.path.insert(0, str(isaac))
        for name in ("pytorch3d", "pytorch3d.transforms", "albumentations", "cv2", "numpydantic", "decord", "gr00t.data.dataset"):
            sys.modules[name] = StubModule(name)
        sys.modules["gr00t.model"] = types.ModuleType("gr00t.model")
        sys.modules["gr00t.model"].__path__ = [str(isaac / "gr00t/model")]
        allow_arrays()
    from examples.Libero import custom_data_config
    from gr00t.data.schema import DatasetMetadata
    from gr00t.model.transforms import GR00TTransform, build_eagle_processor

    transform = getattr(custom_data_config, configuration)().transform()
    (last,) = [step for step in transform.transforms if isinstance(step, GR00TTransform)]
    last.eagle_processor = build_eagle_processor(str(eagle))
    transform.set_metadata(DatasetMetadata.model_validate(metadata["new_embodiment"]))
    transform.eval()
    return transform


class StubModule(types.ModuleType):
    """A module of which anything can be imported, and nothing used."""

    ModalityConfig = dict

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return 0


def allow_arrays() -> None:
    """The authors' statistics are arrays of numpydantic. pydantic takes plain arrays, made of lists, where it is told to."""
    from typing import Annotated

    from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

    number = Annotated[Any, BeforeValidator(np.asarray), PlainSerializer(lambda array: array), WithJsonSchema({})]
    sys.modules["numpydantic"].NDArray = number


def observation(frames: np.ndarray, state: np.ndarray, tasks: np.ndarray) -> dict[str, Any]:
    parts = np.split(state[:, None], np.cumsum(list(STATE.values()))[:-1], -1)
    named = {f"state.{key}": part for key, part in zip(STATE, parts, strict=True)}
    video = {"video.image": frames[:, 0, None], "video.wrist_image": frames[:, 1, None]}
    return {**video, **named, "annotation.human.action.task_description": tasks}


def fed_actions(transform: Any, frames: np.ndarray, state: np.ndarray, actions: np.ndarray) -> Tensor:
    """The actions after the authors' steps for actions, in order."""
    parts = np.split(actions, np.cumsum(list(ACTION.values()))[:-1], -1)
    data = {f"action.{key}": part for key, part in zip(ACTION, parts, strict=True)}
    for step in transform.transforms:
        if getattr(step, "apply_to", None) and step.apply_to[0].startswith("action."):
            data = step(data)
    return joined(data, "action", ACTION)


def joined(data: dict[str, Any], modality: str, sizes: dict[str, int]) -> Tensor:
    return torch.cat([torch.as_tensor(data[f"{modality}.{key}"]) for key in sizes], -1).float()


def write_tokenizer(eagle: Path, target: Path) -> None:
    """A small byte-level tokenizer in Qwen's files, into the folder of Eagle's processor and into `target`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS * 4, trainers.BpeTrainer(vocab_size=340, initial_alphabet=sorted(alphabet), show_progress=False))
    tokenizer.model.save(str(eagle))
    words = len(json.loads((eagle / "vocab.json").read_text()))
    first = 151643  # the number of Qwen's words
    settings = json.loads((eagle / "tokenizer_config.json").read_text())
    added = settings.pop("added_tokens_decoder")
    settings = {key: settings[key] for key in ("add_bos_token", "add_prefix_space", "bos_token", "eos_token", "pad_token", "tokenizer_class")}
    decoder = {str(int(number) - first + words): token for number, token in added.items()}
    (eagle / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": decoder}, indent=1) + "\n")
    (eagle / "added_tokens.json").write_text(json.dumps({token["content"]: int(number) for number, token in decoder.items()}, indent=1) + "\n")
    target.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        shutil.copyfile(eagle / name, target / name)


def write_metadata(path: Path) -> dict[str, Any]:
    """Of the actions, roll never changes."""
    random = np.random.default_rng(11)

    def statistics(size: int, constant: bool) -> dict[str, list[float]]:
        middle, half = random.normal(0, 0.3, size), np.zeros(size) if constant else random.uniform(0.5, 1.5, size)
        numbers = {
            "max": middle + half,
            "min": middle - half,
            "mean": middle + half / 4,
            "std": half / 2 + 0.1,
            "q01": middle - 0.9 * half,
            "q99": middle + 0.9 * half,
        }
        return {name: [float(number) for number in np.round(values, 6)] for name, values in numbers.items()}

    def modality(sizes: dict[str, int], absolute: bool) -> dict[str, Any]:
        return {key: {"absolute": absolute, "rotation_type": None, "shape": [size], "continuous": True} for key, size in sizes.items()}

    state = {key: statistics(size, False) for key, size in STATE.items()}
    action = {key: statistics(size, key == "roll") for key, size in ACTION.items()}
    video = {key: {"resolution": [SIDE, SIDE], "channels": 3, "fps": 20.0} for key in ("image", "wrist_image")}
    metadata = {
        "new_embodiment": {
            "statistics": {"state": state, "action": action},
            "modalities": {"video": video, "state": modality(STATE, True), "action": modality(ACTION, True)},
            "embodiment_tag": "new_embodiment",
        }
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metadata, indent=1) + "\n")
    return metadata


if __name__ == "__main__":
    main()
