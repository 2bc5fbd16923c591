"""Qwen's tokenizer from vocab.json, merges.txt and added_tokens.json: GR00T's tokenizer comes as these files, without a tokenizer.json.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvla3.errors import RecipeError
from rlvla3.metadata import read_json, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY, MERGES, ADDED, SETTINGS = "vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen cuts a text before bytes are paired: words with the space before them, single digits, marks, line breaks."""


def read_byte_pairs(folder: Path) -> Tokenizer:
    """The tokenizer. Raises RecipeError where a file is missing or damaged, or where the tokenizer is of another kind."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    kind = _read(folder, SETTINGS).get("tokenizer_class")
    if kind not in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
        raise RecipeError(
            f"{folder / SETTINGS}: tokenizer_class is {kind!r}, and only Qwen2Tokenizer is read from {VOCABULARY}: give a folder with tokenizer.json"
        )
    try:
        pairs = models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES))
    except Exception as error:  # tokenizers raises a bare Exception for every damaged file
        raise RecipeError(f"{folder / VOCABULARY} and {MERGES} cannot be read as a tokenizer: {error}. Copy both files again") from error
    tokenizer = Tokenizer(pairs)
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    added = _read(folder, ADDED)
    if odd := [token for token, number in added.items() if isinstance(number, bool) or not isinstance(number, int)]:
        raise RecipeError(f"{folder / ADDED}: {shown(odd[0])} is {shown(added[odd[0]])}, and must be the number of a token. Copy the file again")
    ordered = sorted(added, key=added.__getitem__)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ordered])
    if wrong := [token for token in ordered if tokenizer.token_to_id(token) != added[token]]:
        raise RecipeError(
            f"{folder / ADDED}: {wrong[0]} is token {added[wrong[0]]}, and after the words of {VOCABULARY} it would be {tokenizer.token_to_id(wrong[0])}: the "
            f"files do not belong together. Copy both again"
        )
    return tokenizer


def _read(folder: Path, name: str) -> Mapping[str, Any]:
    content = read_json(folder / name, f"The tokenizer in {VOCABULARY} needs it: copy it there")
    if not isinstance(content, dict):
        raise RecipeError(f"{folder / name} holds a {type(content).__name__}, and must hold a mapping. Copy it again")
    return content
