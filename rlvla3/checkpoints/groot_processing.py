"""What GR00T N1.5 is fed, as settings of processing. NVIDIA keeps most of it in code, and lerobot has its own ways. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.groot_names import IMAGE_TEXT, IMAGE_TOKEN
from rlvla3.checkpoints.weight_files import read_json
from rlvla3.errors import RecipeError
from rlvla3.metadata import shown
from rlvla3.processing.byte_pairs import ADDED, VOCABULARY

TOKENIZER = "lerobot/eagle2hg-processor-groot-n1p5"
"""Where the files of Eagle's tokenizer are on the hub: they are no part of the checkpoints."""

CHAT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{images}%s<|im_end|>\n<|im_start|>assistant\n"
IMAGE = "<image {number}><img>{tokens}</img>"

FRAME_TOKENS, IMAGE_FRAME_TOKENS, TEXT_TOKENS = 20, 8, 64
"""Tokens of a prompt: those around the instruction, those around an image, and those that the longest instruction may have."""


def image_token(folder: Path) -> int:
    """The token that stands for an image token: as the checkpoint's own tokenizer says, if it has one. Raises RecipeError."""
    if not (folder / ADDED).is_file():
        return IMAGE_TOKEN
    number = read_json(folder / ADDED).get(IMAGE_TEXT)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise RecipeError(f"{folder / ADDED}: {IMAGE_TEXT} is {shown(number)}, and must be the number of a token. Copy the file again")
    return number


def images(cameras: Sequence[str], size: int, *, crop: float, how: str) -> dict[str, Any]:
    """Images of `cameras`, in the order in which the model sees them. how: the filter (specification.ImageProcessing)."""
    scale = {"mean": [0.5] * 3, "std": [0.5] * 3}
    return {"cameras": [{"key": key} for key in cameras], "size": [size, size], "resize": "stretch", "crop_before": crop, "filter": how, **scale}


def prompt(folder: Path, cameras: int, tokens: int, placeholder: str) -> dict[str, Any]:
    """The chat prompt. cameras: how many. tokens: of an image. placeholder: {text} for the instruction, or {list} for a list of it as Python writes it."""
    length = FRAME_TOKENS + cameras * (tokens + IMAGE_FRAME_TOKENS) + TEXT_TOKENS
    said = {"form": "template", "template": CHAT % placeholder, "image": IMAGE, "image_token": image_token(folder), "image_tokens": tokens}
    return {**said, "length": length, "begin": "never", "tokenizer": str(folder) if (folder / VOCABULARY).is_file() else TOKENIZER}


def bounds(low: Sequence[float], high: Sequence[float], source: str) -> dict[str, Any]:
    """From minima and maxima to -1 and 1. A number that never changes is fed as 0."""
    return {"method": "bounds", "low": list(low), "high": list(high), "source": source, "constant": "zero"}


def carried(folder: Path) -> tuple[str, ...]:
    """The files that go along when a checkpoint is written again: all but weights, and what training saves beside them."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return tuple(str(path) for path in files if not _is_weights(path) and path.suffix not in (".pt", ".pth", ".bin"))


def _is_weights(path: Path) -> bool:
    return path.name.startswith("model") and (path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"))


def language_model(sizes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The sizes of the language model, with the token that stands for an image token."""
    return {**sizes["language"], "image_token": image_token(folder)}
