"""Tokenizers from the files that checkpoints come with: tokenizer.json, sentencepiece's tokenizer.model, or Qwen's vocab.json. Nothing here imports torch.

Nothing is ever downloaded behind a user's back: a name on the hub is looked up in the local cache first, and a refusal says how to give a folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvla3.config import path_of
from rlvla3.errors import RecipeError
from rlvla3.metadata import read_json
from rlvla3.processing.byte_pairs import VOCABULARY, read_byte_pairs

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = "bytes"
BYTE_OFFSET, BYTE_BEGIN, BYTE_VOCABULARY = 4, 1, 260
"""The tokenizer of bytes: byte b is token b + 4. Token 0 is padding, 1 is the beginning."""

FILES = ("tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model", VOCABULARY)
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
"""Files that lie beside those."""

GIVE_FOLDER = "give a folder that holds tokenizer.json or tokenizer.model: processing.prompt.tokenizer=FOLDER"


@dataclass(frozen=True)
class TextTokenizer:
    """Text to token ids.

    plain: the ids of each text, with no special tokens. special: the same with those that the tokenizer's files ask for.
    begin: the token of beginning, if there is one. pad: the token of padding. size: number of tokens.
    """

    plain: Callable[[Sequence[str]], list[list[int]]]
    special: Callable[[Sequence[str]], list[list[int]]]
    begin: int | None
    pad: int
    size: int


def load_tokenizer(name: str) -> TextTokenizer:
    """The tokenizer in the folder `name`, or that of the hub's repository `name`, or the one of bytes. Raises RecipeError."""
    if name == BYTES:
        return _bytes()
    folder = _folder_of(name)
    for file, load in zip(FILES, (_from_json, _from_sentencepiece, _from_sentencepiece, _from_byte_pairs), strict=True):
        if (folder / file).is_file():
            return load(folder / file)
    raise RecipeError(f"there is no tokenizer in {folder}: {GIVE_FOLDER}")


def copy_tokenizer(name: str, folder: Path) -> None:
    """Copy the files of a tokenizer that lies in a local folder `name` into `folder`. One of the hub, or of bytes, has no files here."""
    place = path_of(name)
    place = place.parent if place.is_file() else place
    for file in (*FILES, *BESIDE) if place.is_dir() else ():
        if (place / file).is_file():
            shutil.copyfile(place / file, folder / file)


def tokenizer_contents(name: str) -> dict[str, bytes]:
    """The files of the tokenizer `name`, by their names: what a folder needs to be that tokenizer. None for the one of bytes. Raises RecipeError."""
    folder = None if name == BYTES else _folder_of(name)
    return {file: (folder / file).read_bytes() for file in (*FILES, *BESIDE) if (folder / file).is_file()} if folder else {}


def _folder_of(name: str) -> Path:
    folder = path_of(name)
    if folder.is_file() and folder.name in FILES:
        folder = folder.parent
    return folder if folder.is_dir() else _from_hub(name)


def _bytes() -> TextTokenizer:
    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[byte + BYTE_OFFSET for byte in text.encode()] for text in texts]

    return TextTokenizer(encode, encode, BYTE_BEGIN, 0, BYTE_VOCABULARY)


def _from_json(path: Path) -> TextTokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception for every damaged file
        raise RecipeError(f"{path} cannot be read as a tokenizer: {error}. Copy the file again, or {GIVE_FOLDER}") from error
    return _of(tokenizer, path.parent)


def _from_byte_pairs(path: Path) -> TextTokenizer:
    return _of(read_byte_pairs(path.parent), path.parent)


def _of(tokenizer: Tokenizer, folder: Path) -> TextTokenizer:
    """A tokenizer of the library tokenizers, with the settings that stand beside it."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = _settings(folder)

    def encode(texts: Sequence[str], special: bool) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=special)]

    begin = _token(tokenizer, settings.get("bos_token"), "<bos>", "<s>")
    pad = _token(tokenizer, settings.get("pad_token"), "<pad>", "<PAD>")

    def with_special(texts: Sequence[str]) -> list[list[int]]:
        encoded = encode(texts, True)
        if not settings.get("add_bos_token") or begin is None:
            return encoded
        return [ids if ids[:1] == [begin] else [begin, *ids] for ids in encoded]

    return TextTokenizer(lambda texts: encode(texts, False), with_special, begin, pad or 0, tokenizer.get_vocab_size())


def _from_sentencepiece(path: Path) -> TextTokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise RecipeError(f"{path} needs the package sentencepiece: pip install sentencepiece, or {GIVE_FOLDER.replace(' or tokenizer.model', '')}") from error
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise RecipeError(f"{path} cannot be read as a tokenizer: {error}. Copy the file again, or {GIVE_FOLDER}") from error

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in pieces.encode(list(texts))]

    begin = pieces.bos_id()
    return TextTokenizer(encode, lambda texts: [[begin, *ids] for ids in encode(texts)], begin, max(pieces.pad_id(), 0), pieces.get_piece_size())


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    settings = read_json(path, "Copy the file again") if path.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _token(tokenizer: Any, named: Any, *usual: str) -> int | None:
    """The id of a special token: of the one that the settings name, or of the first usual one that exists."""
    text = named.get("content") if isinstance(named, dict) else named
    for candidate in (text, *usual):
        if isinstance(candidate, str) and (number := tokenizer.token_to_id(candidate)) is not None:
            return int(number)
    return None


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise RecipeError(f"there is no folder {name}: {GIVE_FOLDER}")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=["tokenizer*", "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json"]))
    except ImportError as error:
        raise RecipeError(f"the tokenizer {name} is on the hub, and the package huggingface_hub is not installed: {GIVE_FOLDER}") from error
    except Exception as error:  # the hub's errors: offline, not found, gated; each of a type of its own
        raise RecipeError(
            f"the tokenizer {name} cannot be had from the hub ({type(error).__name__}). Some tokenizers need a login there. Or {GIVE_FOLDER}"
        ) from error
