"""Instructions, and the state where it is part of the text, become prompt tokens of a fixed length.

Invariant: the tokens of an observation do not depend on the other observations of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlvla3.errors import RecipeError
from rlvla3.processing.specification import PromptProcessing
from rlvla3.processing.tokenizer_files import load_tokenizer

STATE_STEPS = torch.from_numpy(np.linspace(-1, 1, 256 + 1)[:-1])
"""The lower ends of the 256 steps of a number of the state in a prompt. Numbers below the first one are written as -1."""

IMAGE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Where an image stands in the text of a prompt."""

MOST_KNOWN = 4096
"""Prompts that are remembered."""


class Prompts:
    """Writes prompts and makes tokens of them."""

    def __init__(self, how: PromptProcessing, images: int = 0) -> None:
        """images: how many cameras are shown. Raises RecipeError if the tokenizer cannot be loaded."""
        self._how = how
        self._images = "".join(how.image.replace("{number}", str(number + 1)).replace("{tokens}", IMAGE) for number in range(images))
        self.tokenizer = load_tokenizer(how.tokenizer)
        if how.begin == "always" and self.tokenizer.begin is None:
            raise RecipeError(
                f"the tokenizer in {how.tokenizer} has no token of beginning, and the model's prompts start with one: use the model's own tokenizer"
            )
        self._known: dict[str, Tensor] = {}

    def __call__(self, instructions: Sequence[str], state: Tensor) -> tuple[Tensor, Tensor]:
        """instructions of B observations and their normalised state [B, S], not padded -> tokens and their mask [B, L], on the device of the state.

        Raises RecipeError for a prompt that is too long.
        """
        rows = self._rows(self.texts(instructions, state))
        return rows[..., 0].to(state.device, non_blocking=True), rows[..., 1].bool().to(state.device, non_blocking=True)

    def texts(self, instructions: Sequence[str], state: Tensor) -> list[str]:
        """The prompts as text."""
        if self._how.form != "task_state":
            return [self._write(instruction) for instruction in instructions]
        padding = max((self._how.state_size or 0) - state.shape[-1], 0)
        steps = torch.bucketize(torch.nn.functional.pad(state, (0, padding)).cpu().double(), STATE_STEPS, right=True) - 1
        written = (" ".join(map(str, row)) for row in steps.tolist())
        return [f"Task: {_cleaned(text)}, State: {numbers};\nAction: " for text, numbers in zip(instructions, written, strict=True)]

    def check(self, instructions: Sequence[str], state_size: int) -> None:
        """Raise RecipeError where a prompt of one of these instructions could be too long, whatever the state is."""
        if instructions:
            with torch.device("cpu"):  # the policy may be built on the meta device, where there are no numbers
                self(instructions, torch.full((len(instructions), state_size), 0.9))

    def _write(self, text: str) -> str:
        form = self._how.form
        if form == "line":
            return text if text.endswith("\n") else f"{text}\n"
        if form == "openpi_line":
            return f"{_cleaned(text)}\n"
        if form == "task":
            return f"Task: {_cleaned(text)};\nAction: "
        if form == "openvla":
            return f"In: What action should the robot take to {text.lower()}?\nOut:"
        if form == "template":
            return self._how.template.replace("{images}", self._images).replace("{list}", str([text])).replace("{text}", text)
        return text

    def _rows(self, texts: Sequence[str]) -> Tensor:
        """int64 [B, L, 2]: tokens and mask."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            if len(self._known) + len(new) > MOST_KNOWN:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            self._known |= {text: self._row(text, ids) for text, ids in zip(new, self._encode(new), strict=True)}
        return torch.stack([self._known[text] for text in texts])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if self._how.form == "openpi_line":
            line_break = self.tokenizer.plain(["\n"])[0]
            encoded = [ids + line_break for ids in self._begun([text.removesuffix("\n") for text in texts])]
        else:
            encoded = self._begun(texts) if not self._images else [self._with_images(text) for text in texts]
        return [[*ids, *self._how.end] for ids in encoded]

    def _with_images(self, text: str) -> list[int]:
        """The tokens of a prompt that holds places of images."""
        first, *others = self.tokenizer.plain(text.split(IMAGE))
        image = [self._how.image_token] * self._how.image_tokens
        return [*first, *(token for part in others for token in (*image, *part))]

    def _begun(self, texts: Sequence[str]) -> list[list[int]]:
        if self._how.begin == "tokenizer":
            return self.tokenizer.special(texts)
        begin = [self.tokenizer.begin] if self._how.begin == "always" and self.tokenizer.begin is not None else []
        return [begin + ids for ids in self.tokenizer.plain(texts)]

    def _row(self, text: str, ids: list[int]) -> Tensor:
        length = self._how.length
        if len(ids) > length and self._how.overlong == "refuse":
            raise RecipeError(
                f"the prompt {text!r} has {len(ids)} tokens, more than processing.prompt.length={length}: set it to {len(ids)} or more, "
                f"or set processing.prompt.overlong=cut to lose its end, as lerobot and openpi do"
            )
        kept = ids[:length]
        padding = length - len(kept)
        return torch.tensor([kept + [self.tokenizer.pad] * padding, [1] * len(kept) + [0] * padding]).T.contiguous()


def _cleaned(text: str) -> str:
    return text.strip().replace("_", " ").replace("\n", " ")
