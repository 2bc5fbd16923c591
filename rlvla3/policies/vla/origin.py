"""The pretrained checkpoint that a policy was made from: what it takes to write the policy in the layout that came in.

Invariant: a run does not need the checkpoint's own folder again once its policy is loaded. Only tensors that no network has are read from it later, because
they may be large; where the folder is gone by then, they are left out.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from rlvla3.checkpoints.checkpoint import Checkpoint, kept_checkpoint

ORIGINAL = "original"
"""The folder within a saved policy where its origin is kept."""


class Origin:
    """A checkpoint, with its small files in memory: configuration, processors, statistics, tokenizer."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        with TemporaryDirectory() as folder:
            checkpoint.keep(Path(folder))
            self._files = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    @classmethod
    def kept_in(cls, folder: Path) -> Origin | None:
        """The origin that `keep` wrote into `folder`. None where there is none: the policy began with random weights."""
        return cls(kept_checkpoint(folder)) if folder.is_dir() else None

    def keep(self, folder: Path) -> None:
        """Write the checkpoint into `folder`, without the weights that the policy itself has."""
        if self.checkpoint.folder.is_dir():
            self.checkpoint.keep(folder, self.checkpoint.unused)
            return
        for path, content in self._files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
