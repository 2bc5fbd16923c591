"""Names, shapes and formats of the tensors in a file that torch.save wrote, without torch.

Invariant: nothing in the file is executed. Of what a pickle may name, only the few things that a state dict of tensors consists of are known here, and all
else is refused. torch reads the numbers later, with weights_only.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.checkpoints.weight_files import BYTES, LONGEST_HEADER, StoredTensor
from rlvla3.errors import RecipeError
from rlvla3.metadata import refuse_no_file, shortened, shown

FORMATS = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "BoolStorage": "BOOL",
}
"""torch's storages -> number formats, as safetensors names them."""


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    numbers: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    shape: tuple[int, ...]


class _Reader(pickle.Unpickler):
    """Reads the pickle of a state dict. Raises pickle.UnpicklingError for anything else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in FORMATS:
            return FORMATS[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return _tensor if name == "_rebuild_tensor_v2" else _parameter
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no state dict needs")

    def persistent_load(self, described: tuple[Any, ...]) -> _Storage:
        _, dtype, key, _, numbers = described
        if dtype not in FORMATS.values() or not isinstance(numbers, int) or numbers < 0:
            raise pickle.UnpicklingError(f"it describes a storage of {shown(numbers)} numbers of format {shown(dtype)}")
        return _Storage(str(key), str(dtype), numbers)


def _tensor(storage: _Storage, offset: int, shape: tuple[int, ...], *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise pickle.UnpicklingError(f"it describes a tensor of shape {shown(shape)}")
    return _Tensor(storage, shape)


def _parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


def read_torch_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a state dict in a file of torch. Raises RecipeError for a file that is damaged, or holds anything else."""
    refuse_no_file(path, "Copy it again")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            described = next((name for name in sizes if name.endswith("/data.pkl")), None)
            if described is None or sizes[described] > LONGEST_HEADER:
                raise pickle.UnpicklingError("it holds no description of tensors")
            state = _Reader(io.BytesIO(archive.read(described))).load()
    except (OSError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{path} is no file of torch 1.6 or newer, or it is half-written ({error}). Copy it again") from error
    except Exception as error:  # a damaged pickle raises almost any type
        raise RecipeError(
            f"{path} holds more than a state dict of tensors, and is not read: {shortened(str(error))}. Save that alone with torch.save"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in state.items()):
        raise RecipeError(f"{path} holds more than a state dict of tensors, and is not read. Save the state dict alone with torch.save")
    root = described.removesuffix("data.pkl")
    for name, tensor in state.items():
        _check_storage(path, name, tensor, sizes.get(f"{root}data/{tensor.storage.key}", 0))
    return {name: StoredTensor(path, name, tensor.shape, tensor.storage.dtype) for name, tensor in state.items()}


def _check_storage(path: Path, name: str, tensor: _Tensor, found: int) -> None:
    storage = tensor.storage
    needed = storage.numbers * BYTES[storage.dtype]
    if found != needed or math.prod(tensor.shape) > storage.numbers:
        raise RecipeError(f"{path}: {name} of shape {list(tensor.shape)} has {found} bytes, and its storage needs {needed}. It is damaged: copy it again")
