"""Instructions, and the state where it is part of the text, become prompt tokens of a fixed length (prompt_text.py writes and encodes them).

Invariant: the tokens of an observation do not depend on the other observations of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvla3.processing.prompt_text import PromptText
from rlvla3.processing.specification import PromptProcessing

MOST_KNOWN = 4096
"""Prompts that are remembered."""


class Prompts:
    """Writes prompts and makes tokens of them."""

    def __init__(self, how: PromptProcessing, images: int = 0) -> None:
        """images: how many cameras are shown. Raises RecipeError if the tokenizer cannot be loaded."""
        self._how, self._text = how, PromptText(how, images)
        self.tokenizer = self._text.tokenizer
        self._known: dict[str, Tensor] = {}

    @property
    def has_state(self) -> bool:
        """Whether the state is part of the text."""
        return self._how.form == "task_state"

    def __call__(self, instructions: Sequence[str], state: Tensor | None) -> tuple[Tensor, Tensor]:
        """instructions of B observations and their normalised state [B, S], not padded, on the host -> tokens and their mask [B, L], on the host.

        Raises RecipeError for a prompt that is too long.
        """
        rows = self._rows(self.texts(instructions, state))
        return rows[..., 0], rows[..., 1].bool()

    def texts(self, instructions: Sequence[str], state: Tensor | None) -> list[str]:
        """The prompts as text. state: may be None where it is no part of them."""
        return self._text.write(instructions, () if state is None or not self.has_state else state.double().numpy())

    def check(self, instructions: Sequence[str], state_size: int) -> None:
        """Raise RecipeError where a prompt of one of these instructions could be too long, whatever the state is."""
        self._text.check(instructions, state_size)

    def _rows(self, texts: Sequence[str]) -> Tensor:
        """int64 [B, L, 2]: tokens and mask."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            if len(self._known) + len(new) > MOST_KNOWN:
                self._known.clear()
                new = list(dict.fromkeys(texts))
            self._known |= {text: self._row(ids) for text, ids in zip(new, self._text.encode(new), strict=True)}
        return torch.stack([self._known[text] for text in texts])

    def _row(self, ids: list[int]) -> Tensor:
        padding = self._how.length - len(ids)
        return torch.tensor([ids + [self.tokenizer.pad] * padding, [1] * len(ids) + [0] * padding]).T.contiguous()
