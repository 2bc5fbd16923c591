"""A tokenizer of instructions as bytes. It needs no download and works for every language."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor

from rlvla3.policies.base import PolicyError

SPECIAL = ("<pad>", "<begin>", "<end>", "<unknown>")
VOCABULARY = len(SPECIAL) + 256
MOST_KNOWN = 4096
"""Texts whose tokens are remembered. An environment may say another one at every decision."""


class ByteTokenizer:
    """Byte b is token b + 4. Tokens 0 to 3 are special, and 0 is padding. There are no merges, so a token is always one byte.

    Example:
        >>> ByteTokenizer(length=4).encode(["go"])
        tensor([[107, 115,   0,   0]])
    """

    def __init__(self, length: int) -> None:
        self.length = length
        vocabulary = {name: number for number, name in enumerate(SPECIAL)} | {f"<0x{byte:02X}>": byte + len(SPECIAL) for byte in range(256)}
        # The vocabulary has no characters, so the tokenizer falls back to the UTF-8 bytes of each character.
        self._tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
        self._tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        self._tokenizer.enable_padding(length=length, pad_id=0, pad_token=SPECIAL[0])
        self._known: dict[str, Tensor] = {}

    def encode(self, texts: list[str]) -> Tensor:
        """The tokens of each text, padded: int64 [len(texts), length]. Raises PolicyError for a text that is too long."""
        return torch.stack([self._encoded(text) for text in texts])

    def decode(self, tokens: Tensor) -> str:
        """The text of tokens [length], without padding."""
        return str(self._tokenizer.decode([int(token) for token in tokens if token >= len(SPECIAL)], skip_special_tokens=False))

    def _encoded(self, text: str) -> Tensor:
        if text not in self._known:
            size = len(text.encode())
            if size > self.length:
                raise PolicyError(
                    f"instruction of {size} bytes is longer than the policy's limit of {self.length}: {text!r}. "
                    f"Shorten it, or set policy.options.instruction_bytes to {-(-size // 8) * 8}"
                )
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[text] = torch.tensor(self._tokenizer.encode(text).ids)
        return self._known[text]
