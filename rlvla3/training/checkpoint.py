"""Checkpoints of a run between two updates. A checkpoint does not depend on the number of ranks, so a run may resume with another number.

    policy/         config.json and model.safetensors: the whole policy, for any use; trained_on.json: the initial states that it was trained on
    trainer.pt      what is the same on all ranks: statistics, the critic's kept features, counters
    accounts.json   what the run has done until then: tickets, steps, seconds, evaluations (accounts.py)
    manifest.json   the checksums of all these files, written last (checksums.py)
    parameters/     the state of each parameter: AdamW's moments, the reference policy. Each rank writes its own shards (torch.distributed.checkpoint).

Invariant: reading a checkpoint never runs code from it, because a checkpoint may come from anywhere.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from rlvla3.checkpoints.weights import check_finite_weight
from rlvla3.errors import ExplainedError, RecipeError, described
from rlvla3.observability.accounts import Accounts
from rlvla3.observability.run_directory import BEST, RunDirectory
from rlvla3.policies.base import Policy, PolicyError
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.training.learner import Learner
from rlvla3.training.ranks import Ranks
from rlvla3.types import Version

FORMAT = 4
"""The format of trainer.pt and parameters/. Raise it when this release can no longer read older ones."""

UNKNOWN = TrainedOn(complete=False)

POLICY, TRAINER, PARAMETERS = "policy", "trainer.pt", "parameters"


class CheckpointError(ExplainedError, ValueError):
    """A checkpoint cannot be written, or a run cannot resume from it. The message names the file, what is wrong with it, and the way out."""


@dataclass(frozen=True)
class Snapshot:
    """A copy of all that a checkpoint holds, so that training can continue meanwhile. weights: whole, on rank 0 only. parameters: this rank's shards.
    accounts: of the run until this version. trained_on: what the weights were trained on."""

    accounts: Accounts
    trained_on: TrainedOn
    weights: Mapping[str, Tensor]
    learner: Mapping[str, Any]
    parameters: Mapping[str, Tensor]

    @property
    def version(self) -> Version:
        return self.accounts.version


def take_snapshot(learner: Learner, accounts: Accounts, trained_on: TrainedOn = UNKNOWN) -> Snapshot:
    """Take a snapshot. All ranks must call it together. accounts: what the run has done until now. trained_on: what the policy was trained on until now."""
    weights = {}
    for name, tensor in learner.policy.state_dict().items():
        whole = learner.parallel.whole(tensor)
        if learner.ranks.first:
            weights[name] = whole.detach().to("cpu", copy=True)
    parameters = {key: tensor.detach().to("cpu", copy=True) for key, tensor in learner.parameter_state().items()}
    state = tree_map_only(Tensor, lambda tensor: tensor.to("cpu", copy=True), learner.state_dict())
    return Snapshot(accounts, trained_on, weights, state, parameters)


def write_snapshot(folder: Path, snapshot: Snapshot, policy: Policy, policy_name: str, ranks: Ranks) -> None:
    """Write a checkpoint into `folder`. All ranks must call it together. policy_name: the recipe's name for this kind of policy.

    Raises OSError where a rank cannot write its shards.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save  # takes a second to import, and nothing waits for it here

    try:
        save(dict(snapshot.parameters), checkpoint_id=folder / PARAMETERS, process_group=ranks.group, no_dist=not dist.is_initialized())
    except CheckpointException as error:  # it is a BaseException, and callers handle only an Exception
        rank, (why, _) = next(iter(error.failures.items()))
        raise OSError(f"rank {rank} cannot write {folder / PARAMETERS}: {why}") from error
    if ranks.first:  # after the part that all ranks take: where rank 0 fails here, no rank waits for it
        policy.save(folder / POLICY, policy_name, snapshot.weights)
        snapshot.trained_on.write(folder / POLICY)
        snapshot.accounts.write(folder)
        torch.save({"format": FORMAT, "version": snapshot.version, "learner": snapshot.learner}, folder / TRAINER)


def save_checkpoint(folder: Path, policy_name: str, learner: Learner, version: Version) -> None:
    """Write a checkpoint into `folder` and wait for it. The caller must make sure that the folder appears whole or not at all."""
    write_snapshot(folder, take_snapshot(learner, Accounts(version)), learner.policy, policy_name, learner.ranks)


class CheckpointWriter:
    """Writes the checkpoints of a run while training continues, one at a time. Each rank has one, and all ranks make the same calls.

        checkpoints.begin(accounts)
        ...                             # training continues
        checkpoints.finish()

    trained_on: what the policy was trained on until now. Whoever trains keeps it up to date.

    A checkpoint that cannot be written does not end training, because that would lose the updates since the last one. The writer calls `notify` with a message,
    and the next checkpoint may succeed. Only `write` raises, for a caller that cannot go on without.

    notify: called with the message as soon as the failure is known, from another thread.

    Invariant: all ranks agree on whether a checkpoint was written. No rank waits for a checkpoint that failed.
    """

    def __init__(self, run: RunDirectory, keep: int, learner: Learner, policy_name: str, notify: Callable[[str], object] = print) -> None:
        self._run, self._keep, self._learner, self._policy_name, self._notify = run, keep, learner, policy_name, notify
        self.trained_on = UNKNOWN
        self._evaluated: set[Version] = set()
        self._ranks = learner.ranks.separate_channel()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None

    def begin(self, accounts: Accounts, asked: bool = False) -> None:
        """Take a snapshot and start to write it. Waits for the checkpoint before. asked: whether the user waits to hear that it is there."""
        self._outcome()
        self._submit(accounts).add_done_callback(partial(self._tell, accounts.version, asked))

    def write(self, accounts: Accounts) -> None:
        """Take a snapshot, write it and wait for it. Raises CheckpointError where it cannot be written."""
        self._outcome()
        self._submit(accounts)
        self.finish()

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk. Raises CheckpointError where it could not be written."""
        if (error := self._outcome()) is not None:
            raise error

    def keep(self, version: Version) -> None:
        """The checkpoint of `version`, which is evaluated beside training, is not removed until `let_go`."""
        self._evaluated.add(version)

    def keep_best(self, version: Version) -> None:
        """From now on, the checkpoint of `version` is the best one. Rank 0 notes it when the checkpoints before are written."""
        if self._ranks.first:
            self._thread.submit(self._keep_best, version)

    def let_go(self, version: Version) -> None:
        """The evaluation of `version` is over, and whether its checkpoint is the best one is known: `keep_best` comes before."""
        self._thread.submit(self._evaluated.discard, version)

    def _keep_best(self, version: Version) -> None:
        try:
            self._run.keep_best(version)
        except OSError as error:
            self._notify(f"{self._run.checkpoints / BEST} does not lead to checkpoint {version}, the best one until now ({described(error)})")

    def _submit(self, accounts: Accounts) -> Future[None]:
        self._under_way = self._thread.submit(self._write, take_snapshot(self._learner, accounts, self.trained_on))
        return self._under_way

    def _outcome(self) -> CheckpointError | None:
        """Wait for the checkpoint that is being written. Returns its error, or None where it was written."""
        under_way, self._under_way = self._under_way, None
        try:
            return under_way.result() if under_way is not None else None
        except CheckpointError as error:
            return error

    def _tell(self, version: Version, asked: bool, written: Future[None]) -> None:
        if isinstance(error := written.exception(), CheckpointError):
            self._notify(f"{error}. Training goes on, earlier checkpoints stay, and the next one is tried")
        elif asked and error is None:
            self._notify(f"checkpoint {version} kept in {self._run.checkpoints}, and the run goes on")

    def _write(self, snapshot: Snapshot) -> None:
        """Raises CheckpointError on all ranks where one rank could not write its part, and RankLost where a rank has ended."""
        failure: Exception | None = None
        try:
            with self._folder(snapshot.version) as folder:
                write_snapshot(folder, snapshot, self._learner.policy, self._policy_name, self._ranks)
        except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError; where a rank is lost, the next call raises RankLost
            failure = error
        reasons = self._ranks.gather(f"{type(failure).__name__}: {failure}" if failure else "")
        if any(reasons):
            place, why = self._run.checkpoints, next(filter(None, reasons))
            raise CheckpointError(
                f"checkpoint {snapshot.version} could not be written in {place} ({why}): make sure that the disk has room and the folder is writable"
            ) from failure

    @contextmanager
    def _folder(self, version: Version) -> Iterator[Path]:
        """The folder that all ranks write to. It gets its final name when rank 0 leaves the block. By then all ranks have written: `save` waits for them."""
        folder: Path | None = None
        with ExitStack() as stack:
            try:
                if self._ranks.first:
                    folder = stack.enter_context(self._run.checkpoint(version, self._keep, self._notify, lambda: frozenset(self._evaluated)))
            finally:
                folder = self._ranks.broadcast(folder)
            if folder is None:
                raise OSError("rank 0 could not make the folder")
            yield folder


def load_checkpoint(folder: Path, policy: Policy, learner: Learner) -> Version:
    """Set `policy` and `learner` to the state in `folder`. Returns its version. Raises CheckpointError, also for damaged files and files of other programs."""
    path = folder / TRAINER
    saved = _read(path)
    if saved["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {saved['format']}, this release reads {FORMAT}: resume with the release that wrote it, {_way_out(folder)}")
    parameters = _read_parameters(folder, learner)
    try:
        policy.restore(folder / POLICY)
    except (PolicyError, RecipeError) as error:
        raise CheckpointError(str(error)) from error
    try:
        learner.load_state_dict(saved["learner"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:  # torch's own are a RuntimeError
        raise CheckpointError(_does_not_fit(path, folder, error)) from error
    learner.load_parameter_state(parameters)
    version: Version = saved["version"]
    return version


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {TRAINER} in {path.parent}, so training cannot be resumed from there: give the folder of a whole checkpoint")
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)  # without weights_only, it would run code from the file
    except Exception as error:  # a damaged file may raise any error: of zip, of pickle, end of file
        raise CheckpointError(_is_damaged(path, path.parent)) from error
    numbers = [saved.get("format"), saved.get("version")] if isinstance(saved, dict) else [None]
    if not all(type(number) is int and number >= 0 for number in numbers) or not isinstance(saved.get("learner"), dict):
        raise CheckpointError(f"{path} was not written by rlvla3: resume from an earlier checkpoint, {_way_out(path.parent)}")
    whole: dict[str, Any] = saved
    return whole


def _read_parameters(folder: Path, learner: Learner) -> dict[str, Tensor]:
    """The state of the learner's parameters: of each tensor, the shard that this rank keeps."""
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
        room = learner.empty_parameter_state(sizes)
        for key, tensor in room.items():
            if tuple(tensor.shape) != sizes[key]:
                raise ValueError(f"{key} has shape {sizes[key]} in the checkpoint and {tuple(tensor.shape)} in the recipe's policy")
    except ValueError as error:
        raise CheckpointError(_does_not_fit(path, folder, error)) from error
    try:
        load(dict(room), storage_reader=reader, no_dist=True)
    except (Exception, CheckpointException) as error:  # as above; torch's CheckpointException is a BaseException
        raise CheckpointError(_is_damaged(path, folder)) from error
    for key, tensor in room.items():
        try:
            check_finite_weight(tensor, key, path)
        except RecipeError as error:
            raise CheckpointError(f"{error}, {_way_out(folder)}") from error
    return room


def _tensors_reader(path: Path) -> Any:
    """A reader that reads only tensors. torch's own reader would unpickle any class that the metadata name."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    class TensorsReader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Metadata:
            with (path / ".metadata").open("rb") as file:
                metadata: Metadata = _MetadataUnpickler(file).load()
            for where in (metadata.storage_data or {}).values():
                if Path(where.relative_path).name != where.relative_path or not (path / where.relative_path).is_file():
                    raise pickle.UnpicklingError(f"a tensor is said to be in {where.relative_path}, which is no file of the checkpoint")
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return TensorsReader(path)


class _MetadataUnpickler(pickle.Unpickler):
    """Unpickles only classes that describe tensors. It refuses BytesStorageMetadata, because its values would be unpickled too."""

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
