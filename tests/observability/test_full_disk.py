"""Files of a run on a disk that is full for a while, and files that are removed under way: appended ones, the record, samples."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlvla3.observability.appended_file import AppendedFile
from rlvla3.observability.metrics_file import MetricsFile
from rlvla3.observability.run_directory import RunDirectory, RunDirectoryError
from rlvla3.observability.run_record import RunRecord
from rlvla3.observability.sampling import SamplingBoard, read_samples
from rlvla3.observability.tensorboard import TensorBoardWatcher
from tests.support.events import RECIPE, update


class FullDisk:
    """os.write on a disk that has room for so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room, self._write = room, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, content: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = content[: self.room]
        self.room -= len(part)
        return self._write(descriptor, part)


@pytest.mark.parametrize("room", range(12))
def test_an_entry_is_in_a_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    path, disk = tmp_path / "log", FullDisk(monkeypatch, room)
    file = AppendedFile(path, head=b"<head>")
    for entry in (b"ab|", b"cd|"):
        with suppress(OSError):
            file.append(entry)
    whole = b"<head>" if room >= 6 else b""
    assert path.read_bytes() == whole + (b"ab|" if room >= 9 else b"")
    disk.room = 100
    file.append(b"ef|")
    file.close()
    assert path.read_bytes() == b"<head>ab|cd|ef|"


@pytest.mark.parametrize("lost", ["file", "folder", "replaced"])
def test_a_file_that_is_removed_under_way_begins_again(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "run" / "log"
    file = AppendedFile(path, head=b"<head>")
    file.append(b"ab|")
    if lost == "folder":
        path.parent.rename(tmp_path / "moved")
    else:
        path.unlink()
    if lost == "replaced":
        path.write_bytes(b"")
    file.append(b"cd|")
    file.close()
    assert path.read_bytes() == b"<head>cd|"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["a pipe", "a device"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "log")
    with pytest.raises(OSError, match="a device or a pipe, and no file"):
        AppendedFile(tmp_path / "log").append(b"ab|")


def test_metrics_miss_nothing_when_the_disk_was_full_meanwhile(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = MetricsFile(run)
    metrics.on(update(1))
    disk = FullDisk(monkeypatch, 17)
    for number in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            metrics.on(update(number))
    assert [line["update"] for line in run.metric_lines()] == [1]
    disk.room = 1 << 20
    metrics.close()
    assert [line["update"] for line in run.metric_lines()] == [1, 2, 3]


def test_curves_are_readable_when_the_disk_was_full_meanwhile(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watcher = TensorBoardWatcher(run)
    watcher.on(update(1))
    disk = FullDisk(monkeypatch, 100)
    with pytest.raises(OSError, match="No space left"):
        watcher.on(update(2))
    disk.room = 1 << 20
    watcher.on(update(3))
    watcher.close()
    curves = accumulator.EventAccumulator(str(run.path))
    curves.Reload()
    assert [point.step for point in curves.Scalars("rollouts/success")] == [1, 2, 3]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("takes", [0, 5])
def test_a_record_that_cannot_be_written_is_given_up_whole_and_told_of_once(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, takes: int) -> None:
    record, told = RunRecord(run.record), list[str]()
    record.begin(RECIPE)
    trainer, generator = record.trainer_writer(told.append), record.generator_writer(0, told.append)
    trainer.append([0], update=0, decisions=1)
    generator.append([0], at=0, version=0, row=0)
    monkeypatch.setattr(generator, "_file", Refusing(generator._file, takes))
    for number in range(1, 4):
        generator.append([number], at=0, version=0, row=0)
        trainer.append([number], update=0, decisions=1)
    late = record.generator_writer(1, told.append)
    late.append([4], at=0, version=0, row=0)
    assert len(told) == 1 and "the record is given up, so `rlvla3 replay` cannot repeat this run" in told[0]
    assert not run.record.exists()
    with pytest.raises(RunDirectoryError, match="no record"):
        record.recipe()


def test_a_record_that_somebody_removes_ends_and_the_run_goes_on(run: RunDirectory) -> None:
    record, told = RunRecord(run.record), list[str]()
    record.begin(RECIPE)
    writer = record.trainer_writer(told.append)
    shutil.rmtree(run.record)
    writer.append([0], update=0, decisions=1)
    writer.append([1], update=0, decisions=1)
    assert not run.record.exists() and not told


class Refusing:
    """An open file on a disk that takes so many bytes of each entry, and raises where it takes none."""

    def __init__(self, file: Any, takes: int) -> None:
        self._file, self._takes = file, takes

    def write(self, content: Any) -> int:
        if not self._takes:
            full_disk()
        return int(self._file.write(bytes(content)[: self._takes]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("takes", [0, 7])
def test_the_samples_of_a_trace_end_where_the_disk_is_full_and_those_of_a_profile_raise(tmp_path: Path, takes: int, capsys: pytest.CaptureFixture[str]) -> None:
    traced = SamplingBoard(["trainer"], folder=tmp_path, max_bytes=1000).meter("trainer")
    traced.enter("train")
    traced._file = Refusing(traced._file, takes)  # type: ignore[attr-defined]
    for _ in range(3):
        traced.enter("overhead")
    assert capsys.readouterr().out.count("samples for trace.json end here") == 1
    assert len(read_samples(tmp_path / "trainer.samples")) == 1
    (tmp_path / "trainer.samples").unlink()
    profiled = SamplingBoard(["trainer"], folder=tmp_path).meter("trainer")
    profiled._file = Refusing(profiled._file, takes)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="No space left"):
        profiled.enter("train")
