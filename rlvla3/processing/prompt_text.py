"""Prompts as text and as token ids. Nothing here imports torch, so that a prompt is checked and shown in an instant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlvla3.errors import RecipeError
from rlvla3.processing.specification import PromptProcessing
from rlvla3.processing.tokenizer_files import load_tokenizer

STATE_STEPS = np.linspace(-1, 1, 256 + 1)[:-1]
"""The lower ends of the 256 steps of a number of the state in a prompt. Numbers below the first one are written as -1."""

IMAGE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Where an image stands in the text of a prompt."""


class PromptText:
    """Writes prompts, and finds their token ids."""

    def __init__(self, how: PromptProcessing, images: int = 0) -> None:
        """images: how many cameras are shown. Raises RecipeError if the tokenizer cannot be loaded."""
        self._how = how
        self._images = "".join(how.image.replace("{number}", str(number + 1)).replace("{tokens}", IMAGE) for number in range(images))
        self.tokenizer = load_tokenizer(how.tokenizer)
        if how.begin == "always" and self.tokenizer.begin is None:
            raise RecipeError(
                f"the tokenizer in {how.tokenizer} has no token of beginning, and the model's prompts start with one: use the model's own tokenizer"
            )

    def write(self, instructions: Sequence[str], state: ArrayLike) -> list[str]:
        """The prompts of B instructions and their normalised state [B, S], not padded."""
        if self._how.form != "task_state":
            return [self._write(instruction) for instruction in instructions]
        numbers = np.asarray(state, np.float64)
        padding = max((self._how.state_size or 0) - numbers.shape[-1], 0)
        steps = np.digitize(np.pad(numbers, ((0, 0), (0, padding))), STATE_STEPS) - 1
        written = (" ".join(map(str, row)) for row in steps.tolist())
        return [f"Task: {_cleaned(text)}, State: {numbers};\nAction: " for text, numbers in zip(instructions, written, strict=True)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of prompts, without padding. Raises RecipeError for a prompt that is too long."""
        if self._how.form == "openpi_line":
            line_break = self.tokenizer.plain(["\n"])[0]
            encoded = [ids + line_break for ids in self._begun([text.removesuffix("\n") for text in texts])]
        else:
            encoded = self._begun(texts) if not self._images else [self._with_images(text) for text in texts]
        return [self._fitting(text, [*ids, *self._how.end]) for text, ids in zip(texts, encoded, strict=True)]

    def check(self, instructions: Sequence[str], state_size: int) -> None:
        """Raise RecipeError where a prompt of one of these instructions could be too long, whatever the state is."""
        if instructions:
            self.encode(self.write(instructions, np.full((len(instructions), state_size), 0.9)))

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

    def _fitting(self, text: str, ids: list[int]) -> list[int]:
        length = self._how.length
        if len(ids) > length and self._how.overlong == "refuse":
            raise RecipeError(
                f"the prompt {text!r} has {len(ids)} tokens, more than processing.prompt.length={length}: set it to {len(ids)} or more, "
                f"or set processing.prompt.overlong=cut to lose its end, as lerobot and openpi do"
            )
        return ids[:length]


def _cleaned(text: str) -> str:
    return text.strip().replace("_", " ").replace("\n", " ")
