"""The Parquet files of a LeRobotDataset: its steps, its list of episodes, and its sentences.

    data/chunk-000/file-000.parquet            one row for each step, one row group for each episode
    meta/episodes/chunk-000/file-000.parquet   one row for each episode
    meta/tasks.parquet                         one row for each sentence

Invariant: while episodes are added, memory holds the rows of one of them, and the entries of EPISODES_TOGETHER.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.demonstrations.demonstration_file import import_optional
from rlvla3.demonstrations.writing.features import Feature
from rlvla3.demonstrations.writing.statistics import NAMES, Statistics

CHUNK_FILES = 1000
"""Files of a folder chunk-000."""

LARGEST_DATA_BYTES = 100 * 2**20
"""A data file that is larger gets no further episode."""

EPISODES_TOGETHER = 100
"""Entries of the list of episodes that are written together."""


def place(number: int) -> dict[str, int]:
    """Where file `number` of a kind is."""
    return {"chunk_index": number // CHUNK_FILES, "file_index": number % CHUNK_FILES}


def file_path(number: int) -> str:
    return "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet".format(**place(number))


class StepTables:
    """The data files of the dataset in `folder`."""

    def __init__(self, folder: Path, described: Mapping[str, Feature]) -> None:
        self._folder, self._number, self._path = folder / "data", -1, folder
        self._writer: Any = None
        arrow = import_optional("pyarrow")
        self._described = {name: feature for name, feature in described.items() if feature["dtype"] != "video"}
        self._schema = arrow.schema([(name, _arrow_type(arrow, feature)) for name, feature in self._described.items()])

    def add(self, values: Mapping[str, NDArray[Any]], images: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
        """Write one episode. values: [steps, n] each. images: PNG images, one for each step. Returns where it is."""
        arrow = import_optional("pyarrow")
        if self._writer is None or self._path.stat().st_size > LARGEST_DATA_BYTES:
            self.close()
            self._number += 1
            self._path = self._folder / file_path(self._number)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = import_optional("pyarrow.parquet").ParquetWriter(self._path, self._schema, compression="snappy")
        arrays = []
        for name, field in zip(self._described, self._schema, strict=True):
            if name in images:
                arrays.append(arrow.array([{"bytes": image, "path": None} for image in images[name]], field.type))
            else:
                flat = arrow.array(values[name].ravel())
                width = values[name].shape[1]
                arrays.append(flat if width == 1 else arrow.FixedSizeListArray.from_arrays(flat, width).cast(field.type))
        table = arrow.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=len(table))
        return place(self._number)

    def column(self, name: str) -> NDArray[Any]:
        """An array of numbers over all episodes, [steps, n]. Call it after `close`."""
        parquet, width = import_optional("pyarrow.parquet"), self._described[name]["shape"][0]
        parts = [parquet.read_table(self._folder / file_path(number), columns=[name]).column(0).combine_chunks() for number in range(self._number + 1)]
        arrays = [part.to_numpy(zero_copy_only=False) if width == 1 else part.flatten().to_numpy(zero_copy_only=False) for part in parts]
        return np.concatenate(arrays).reshape(-1, width)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _arrow_type(arrow: Any, feature: Feature) -> Any:
    if feature["dtype"] == "image":
        return arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    number = arrow.from_numpy_dtype(np.dtype(feature["dtype"]))
    size = feature["shape"][0]
    return number if size == 1 else arrow.list_(number, size)


class EpisodeTable:
    """The list of episodes of the dataset in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._path, self._rows = folder / "meta" / "episodes" / file_path(0), list[dict[str, Any]]()
        self._writer: Any = None

    def add(self, entry: Mapping[str, Any], statistics: Mapping[str, Statistics]) -> None:
        numbers = {f"stats/{name}/{kind}": of[kind] for name, of in statistics.items() for kind in NAMES}
        self._rows.append({**entry, **numbers, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) == EPISODES_TOGETHER:
            self._write()

    def close(self) -> None:
        if self._rows:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        arrow = import_optional("pyarrow")
        if self._writer is None:
            table = arrow.Table.from_pylist(self._rows)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = import_optional("pyarrow.parquet").ParquetWriter(self._path, table.schema, compression="snappy")
        else:
            table = arrow.Table.from_pylist(self._rows, self._writer.schema)
        self._writer.write_table(table)
        self._rows.clear()


def write_sentences(folder: Path, sentences: Sequence[str]) -> None:
    """meta/tasks.parquet, as pandas writes a table whose index is the sentence: lerobot reads it with pandas."""
    arrow = import_optional("pyarrow")
    described = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    kinds = [{"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None} for name, kind, numpy in described]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": kinds, "pandas_version": "2.2.0"}
    table = arrow.table({"task_index": arrow.array(range(len(sentences)), arrow.int64()), "task": arrow.array(sentences, arrow.string())})
    (folder / "meta").mkdir(exist_ok=True)
    import_optional("pyarrow.parquet").write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), folder / "meta" / "tasks.parquet")


def numbers_of(described: Mapping[str, Feature]) -> Iterator[str]:
    """The names of the arrays of numbers."""
    return (name for name, feature in described.items() if feature["dtype"] not in ("video", "image"))
