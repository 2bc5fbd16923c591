"""The weights of a checkpoint: names, shapes and formats from the headers of its files, and each tensor only when it is asked for.

Invariants: reading a header allocates no more than the header has, and refuses one of more than 100 MB. Torch is imported only when a tensor is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlvla3 import metadata
from rlvla3.errors import RecipeError
from rlvla3.metadata import Count, Metadata, PathWithin, checked, parse_json, refuse_no_file, shown

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_HEADER = 100_000_000
"""In bytes. The library safetensors has the same limit."""

BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Number format -> bytes of a number, as safetensors names the formats."""

COPY_AGAIN = "Copy the checkpoint again"

MOST_COUNTED = 100_000
"""Of what config.json counts: actions, steps, pixels of a side, tokens, layers, heads. More is damage."""

LARGEST_NUMBER = 3.4e38
"""Numbers beyond it are infinite as float32."""


class _Index(Metadata):
    """model.safetensors.index.json."""

    weight_map: dict[str, PathWithin]


class _Entry(Metadata):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Count]
    data_offsets: Annotated[list[Count], Field(min_length=2, max_length=2)]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. dtype: as safetensors names it, such as F32 or BF16. name: what the file calls it.

    place: the file and the name in it where the numbers are now, if they have been moved.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    place: tuple[Path, str] | None = None


class WeightFiles(Mapping[str, StoredTensor]):
    """The tensors of a checkpoint by name. They may lie in several files."""

    def __init__(self, tensors: Mapping[str, StoredTensor]) -> None:
        self._tensors = dict(tensors)

    def __getitem__(self, name: str) -> StoredTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __or__(self, other: WeightFiles) -> WeightFiles:
        return WeightFiles({**self._tensors, **other._tensors})

    def renamed(self, new_name: Callable[[str], str]) -> WeightFiles:
        """The same tensors by other names. What their files call them stays known."""
        return WeightFiles({new_name(name): tensor for name, tensor in self._tensors.items()})

    def tensor(self, name: str) -> Tensor:
        """Read one tensor, onto the CPU. Raises RecipeError if its file cannot be read."""
        return read_tensor(self._tensors[name])


def read_tensor(stored: StoredTensor) -> Tensor:
    """Read one tensor, onto the CPU. Raises RecipeError if its file cannot be read."""
    file, name = stored.place or (stored.file, stored.name)
    refuse_no_file(file, COPY_AGAIN)
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)  # type: ignore[no-any-return]
        import torch

        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)[name]  # type: ignore[no-any-return]
    except Exception as error:  # safetensors and torch raise types of their own for damaged files, and OSError for missing ones
        raise RecipeError(f"{file}: {name} cannot be read: {error}. Copy the checkpoint again") from error


def read_numbers(stored: StoredTensor) -> list[float]:
    """The numbers of a small tensor, without torch. Raises RecipeError where they cannot be read, or are not finite."""
    from safetensors import safe_open

    refuse_no_file(stored.file, COPY_AGAIN)
    try:
        with safe_open(stored.file, framework="numpy") as opened:
            numbers = [float(number) for number in opened.get_tensor(stored.name).reshape(-1)]
    except Exception as error:  # safetensors raises types of its own for damaged files, and numpy knows no bfloat16
        raise RecipeError(f"{stored.file}: {stored.name} cannot be read: {error}. Copy the checkpoint again") from error
    check_finite(numbers, f"{stored.file}: {stored.name}")
    return numbers


def check_finite(numbers: Sequence[float], where: str) -> None:
    """Raise RecipeError where a number is NaN, or infinite as float32. where: its file and key."""
    if bad := [place for place, number in enumerate(numbers) if not abs(number) <= LARGEST_NUMBER]:
        raise RecipeError(
            f"{where}[{bad[0]}] is {shown(numbers[bad[0]])}, and must be a finite number: statistics that hold such numbers scale nothing. Compute them again"
        )


def count(value: Any, where: str) -> int:
    """`value`, if it is a whole number from 1 to MOST_COUNTED. Raises RecipeError. where: its file and key."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST_COUNTED:
        raise RecipeError(f"{where} is {shown(value)}, and must be a whole number from 1 to {MOST_COUNTED}")
    return value


def has_weights(folder: Path) -> bool:
    """Whether `read_weight_files` finds weights in `folder`."""
    return any((folder / f"model.safetensors{end}").is_file() for end in ("", ".index.json"))


def read_weight_files(folder: Path, stem: str = "model") -> WeightFiles:
    """The tensors of `folder`: of {stem}.safetensors, or of the files that {stem}.safetensors.index.json names. Raises RecipeError."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return WeightFiles(read_header(folder / f"{stem}.safetensors"))
    places = checked(_Index, read_json(index), str(index), COPY_AGAIN).weight_map
    if not places:
        raise RecipeError(f"{index}: weight_map is empty: it must say for each tensor in which file it is. {COPY_AGAIN}")
    headers = {name: read_header(folder / name, f"{index.name} names it") for name in sorted(set(places.values()))}
    stored = {name: tensor for header in headers.values() for name, tensor in header.items()}
    for name in [*places, *stored]:
        if name not in stored or name not in places:
            where = "the index names it, and no file has it" if name not in stored else f"{stored[name].file.name} has it, and the index does not name it"
            raise RecipeError(f"{index}: {name}: {where}. Copy the checkpoint again")
    return WeightFiles({name: headers[file][name] for name, file in places.items() if name in headers[file]} | stored)


def read_header(path: Path, why: str = "a checkpoint needs it") -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, from its header alone. Raises RecipeError for a file that is missing, half-written or damaged."""
    refuse_no_file(path, COPY_AGAIN)
    if not path.is_file():
        raise RecipeError(f"{path} is missing: {why}. Copy it there, or give another checkpoint")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LONGEST_HEADER:
            raise RecipeError(
                f"{path} has {size} bytes and says that its header has {length}: at most {LONGEST_HEADER} are read. The file is damaged: copy it again"
            )
        if 8 + length > size:
            raise RecipeError(f"{path} ends within its header: it has {size} bytes and needs more than {8 + length}. It is half-written: copy it again")
        text = file.read(length)
    way_out = "The file is damaged: copy it again"
    header = parse_json(text, f"{path}: its header", way_out)
    if not isinstance(header, dict):
        raise RecipeError(f"{path}: its header holds {shown(header)}, and must hold a mapping. {way_out}")
    entries = {name: checked(_Entry, entry, f"{path}: its header: {shown(name)}", way_out) for name, entry in header.items() if name != "__metadata__"}
    found = {name: StoredTensor(path, name, tuple(entry.shape), entry.dtype) for name, entry in entries.items()}
    _check_offsets(path, found, {name: entry.data_offsets for name, entry in entries.items()}, size - 8 - length)
    return found


def _check_offsets(path: Path, found: Mapping[str, StoredTensor], ends: Mapping[str, Sequence[int]], room: int) -> None:
    place = 0
    for name, (start, end) in sorted(ends.items(), key=lambda entry: tuple(entry[1])):
        count = 1
        for side in found[name].shape:
            count *= side
        needed = count * BYTES.get(found[name].dtype, 0)
        if (found[name].dtype in BYTES and end - start != needed) or start != place:
            raise RecipeError(
                f"{path}: {name} of shape {list(found[name].shape)} has {end - start} bytes, and needs {needed}. The file is damaged: copy it again"
            )
        if end > room:
            raise RecipeError(f"{path} ends within {name}: it has {room} bytes of numbers, and {name} ends at {end}. It is half-written: copy it again")
        place = end


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises RecipeError where it is missing, half-written or no mapping."""
    content = metadata.read_json(path, "Copy it there, or give another checkpoint" if not path.is_file() else COPY_AGAIN)
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds {shown(content)}, and must hold a mapping. {COPY_AGAIN}")
    return content
