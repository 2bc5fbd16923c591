"""A run on disk, between two updates, in one form for any number of ranks: whoever goes on with it may have others.

    policy/         config.json and model.safetensors, whole, for whoever uses the policy
    trainer.pt      what all ranks know alike: statistics, the critic's memory, counters
    parameters/     what is kept of each parameter: AdamW's moments, the reference policy; each rank writes its own shards (torch.distributed.checkpoint)

Nothing of it can run code when it is read: a checkpoint may come from anywhere.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rlvla3.errors import ExplainedError
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.policies.base import Policy, PolicyError
from rlvla3.training.learner import Learner
from rlvla3.training.ranks import Ranks
from rlvla3.types import Version

FORMAT = 3
"""Of trainer.pt and parameters/. Raise it when older ones can no longer be read."""

POLICY, TRAINER, PARAMETERS = "policy", "trainer.pt", "parameters"


class CheckpointError(ExplainedError, ValueError):
    """A checkpoint that cannot be resumed from, or cannot be written: which file, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class Snapshot:
    """All of a checkpoint, copied aside: training may go on. weights: whole, on rank 0 alone. parameters: this rank's shards."""

    version: Version
    weights: Mapping[str, Tensor]
    learner: Mapping[str, Any]
    parameters: Mapping[str, Tensor]


def take_snapshot(learner: Learner, version: Version) -> Snapshot:
    """All ranks take one together. version: the updates done."""
    weights = {}
    for name, tensor in learner.policy.state_dict().items():
        whole = learner.parallel.whole(tensor)
        if learner.ranks.first:
            weights[name] = whole.detach().to("cpu", copy=True)
    parameters = {key: tensor.detach().to("cpu", copy=True) for key, tensor in learner.parameter_state().items()}
    state = tree_map_only(Tensor, lambda tensor: tensor.to("cpu", copy=True), learner.state_dict())
    return Snapshot(version, weights, state, parameters)


def write_snapshot(folder: Path, snapshot: Snapshot, policy: Policy, policy_name: str, ranks: Ranks) -> None:
    """Write a checkpoint into `folder`, all ranks together. policy_name: how a recipe names this kind of policy."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save  # takes a second to import, and nothing waits for it here

    try:
        save(dict(snapshot.parameters), checkpoint_id=folder / PARAMETERS, process_group=ranks.group, no_dist=not dist.is_initialized())
    except CheckpointException as error:  # a BaseException: nobody above would take it for an error
        rank, (why, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank} cannot write {folder / PARAMETERS}: {why}") from error
    if ranks.first:  # after what all do: nobody waits for rank 0 where it fails
        policy.save(folder / POLICY, policy_name, snapshot.weights)
        torch.save({"format": FORMAT, "version": snapshot.version, "learner": snapshot.learner}, folder / TRAINER)


def save_checkpoint(folder: Path, policy_name: str, learner: Learner, version: Version) -> None:
    """Write a checkpoint into `folder` here and now. The caller makes the folder appear whole or not at all."""
    write_snapshot(folder, take_snapshot(learner, version), learner.policy, policy_name, learner.ranks)


class Checkpoints:
    """The checkpoints of a run, written beside training, one at a time. All ranks have one and do the same with it.

    checkpoints.begin(version)
    ...                             # training goes on
    checkpoints.finish()

    To end training because one cannot be written would lose what was learned since the last. So that is told, and the next may succeed; where it does not, it
    is an error. tell: told of it as soon as it is known, from another thread.

    Invariant: all ranks know alike whether a checkpoint was written, and none waits for one that was not.
    """

    def __init__(self, run: RunDirectory, keep: int, learner: Learner, policy_name: str, tell: Callable[[str], object] = print) -> None:
        self._run, self._keep, self._learner, self._policy_name, self._tell = run, keep, learner, policy_name, tell
        self._ranks = learner.ranks.beside()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None

    def begin(self, version: Version) -> None:
        """Take a snapshot; it is written while training goes on. Waits for the checkpoint before; where that could not be written, for this one too, and raises
        CheckpointError where it cannot be either."""
        if self._outcome() is None:
            self._submit(version).add_done_callback(self._tell_of)
        else:
            self.write(version)

    def write(self, version: Version) -> None:
        """Take a snapshot and write it, here and now. Raises CheckpointError where it cannot be written."""
        self._outcome()
        self._submit(version)
        self.finish()

    def finish(self) -> None:
        """Wait until what was begun is on disk. Raises CheckpointError where it could not be written."""
        if (error := self._outcome()) is not None:
            raise error

    def _submit(self, version: Version) -> Future[None]:
        self._under_way = self._thread.submit(self._write, take_snapshot(self._learner, version))
        return self._under_way

    def _outcome(self) -> CheckpointError | None:
        """Wait for what is under way; its error, where it could not be written."""
        under_way, self._under_way = self._under_way, None
        try:
            return under_way.result() if under_way is not None else None
        except CheckpointError as error:
            return error

    def _tell_of(self, written: Future[None]) -> None:
        if isinstance(error := written.exception(), CheckpointError):
            self._tell(f"{error}. Training goes on; where the next checkpoint cannot be written either, the run ends")

    def _write(self, snapshot: Snapshot) -> None:
        """Raises CheckpointError, on all ranks, where one of them could not write its part; RankLost where one is gone."""
        failure: Exception | None = None
        try:
            with self._folder(snapshot.version) as folder:
                write_snapshot(folder, snapshot, self._learner.policy, self._policy_name, self._ranks)
        except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError, by who writes; if it is a lost rank, that is found below
            failure = error
        reasons = self._ranks.gather(f"{type(failure).__name__}: {failure}" if failure else "")
        if any(reasons):
            place, why = self._run.checkpoints, next(filter(None, reasons))
            raise CheckpointError(f"checkpoint {snapshot.version} could not be written in {place} ({why}): see that there is room and access") from failure

    @contextmanager
    def _folder(self, version: Version) -> Iterator[Path]:
        """The folder that all ranks write to. It takes its name when rank 0 leaves, which is when all have written (`save` sees to that)."""
        folder: Path | None = None
        with ExitStack() as stack:
            try:
                if self._ranks.first:
                    folder = stack.enter_context(self._run.checkpoint(version, self._keep))
            finally:
                folder = self._ranks.agree(folder)
            if folder is None:
                raise OSError("rank 0 has no folder for it")
            yield folder


def load_checkpoint(folder: Path, policy: Policy, learner: Learner) -> Version:
    """Put `policy` and `learner` where `folder` left them; returns the version they are at. Raises CheckpointError, also for damaged and foreign files."""
    path = folder / TRAINER
    saved = _read(path)
    if saved["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this release reads {FORMAT}: resume with the release that wrote it, {_way_out(folder)}")
    parameters = _read_parameters(folder, learner)
    try:
        policy.restore(folder / POLICY)
    except PolicyError as error:
        raise CheckpointError(str(error)) from error
    try:
        learner.load_state_dict(saved["learner"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(_does_not_fit(path, folder, error)) from error
    learner.load_parameter_state(parameters)
    version: Version = saved["version"]
    return version


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {TRAINER} in {path.parent}, so training cannot be resumed from there: give the folder of a whole checkpoint")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)  # a full unpickling would run whatever code it holds
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean: zip, pickle, end of file
        raise CheckpointError(_is_damaged(path, path.parent)) from error
    if not isinstance(saved, dict) or not {"format", "version", "learner"} <= saved.keys():
        raise CheckpointError(f"{path} was not written by rlvla3: resume from an earlier checkpoint, {_way_out(path.parent)}")
    return saved


def _read_parameters(folder: Path, learner: Learner) -> dict[str, Tensor]:
    """The state of the learner's parameters, of each tensor the shard that this rank will keep."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    path = folder / PARAMETERS
    try:
        reader = _tensors_reader(path)
        metadata = reader.read_metadata().state_dict_metadata
        sizes = {key: tuple(entry.size) for key, entry in metadata.items()}
    except Exception as error:  # as above
        raise CheckpointError(_is_damaged(path, folder)) from error
    try:
        room = learner.room_for(sizes)
        for key, tensor in room.items():
            if tuple(tensor.shape) != sizes[key]:
                raise ValueError(f"{key} is {sizes[key]} there and {tuple(tensor.shape)} here")
    except ValueError as error:
        raise CheckpointError(_does_not_fit(path, folder, error)) from error
    try:
        load(dict(room), storage_reader=reader, no_dist=True)
    except (Exception, CheckpointException) as error:  # as above, and torch's own is a BaseException
        raise CheckpointError(_is_damaged(path, folder)) from error
    return room


def _tensors_reader(path: Path) -> Any:
    """A reader of shards, and of nothing else: torch's own would unpickle whatever the metadata names."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    class TensorsReader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Metadata:
            with (path / ".metadata").open("rb") as file:
                metadata: Metadata = _MetadataUnpickler(file).load()
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return TensorsReader(path)


class _MetadataUnpickler(pickle.Unpickler):
    """Reads what describes tensors. It knows no class for other values (BytesStorageMetadata), which would be unpickled in their turn."""

    KNOWN = {
        "torch.distributed.checkpoint.metadata": {
            "Metadata",
            "MetadataIndex",
            "TensorStorageMetadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "StorageMeta",
        }
        | {"_MEM_FORMAT_ENCODING"},
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size"} | {str(dtype).partition(".")[2] for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)},
        "pathlib": {"PosixPath", "Path", "PurePosixPath"},
    }

    def find_class(self, module: str, name: str) -> Any:
        if name not in self.KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not describe a tensor")
        return super().find_class(module, name)


def _is_damaged(path: Path, folder: Path) -> str:
    return f"cannot read {path}, it is damaged or not a checkpoint: resume from an earlier one, {_way_out(folder)}"


def _does_not_fit(path: Path, folder: Path, error: Exception) -> str:
    return f"{path} does not fit this policy's learner ({error}): resume with the recipe of the run, {_way_out(folder)}"


def _way_out(folder: Path) -> str:
    return f"or start a new run from the weights alone with policy.checkpoint={folder / POLICY}"
