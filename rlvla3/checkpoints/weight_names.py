"""Names of weights: a network's against those of the checkpoints that people have. Nothing here imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvla3.errors import some_of


@dataclass(frozen=True)
class WeightNames:
    """How a network's names correspond to a checkpoint's.

    renames: pairs of prefixes (ours, theirs). The longest prefix that fits wins. ("", "model.") puts "model." in front of all names.
    tied: their name -> their name of the same tensor. Both hold the same numbers, and the network has only the second.
    unused: prefixes of their names that the network has no use for, each for a documented reason. They are carried, and written back as they came.
    optional: our names that a checkpoint may lack; the network keeps what it was built with. They are stated.
    """

    renames: Sequence[tuple[str, str]] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> WeightNames:
        """What dataclasses.asdict made plain data of, and JSON lists of tuples."""
        renames = tuple((ours, theirs) for ours, theirs in described["renames"])
        return cls(renames, described["tied"], tuple(described["unused"]), tuple(described["optional"]))

    def theirs(self, ours: str) -> str:
        """The checkpoint's name of a network's tensor."""
        return _renamed(ours, self.renames)

    def ours(self, theirs: str) -> str:
        """The network's name of a checkpoint's tensor."""
        return _renamed(theirs, [(theirs, ours) for ours, theirs in self.renames])

    def stored(self, theirs: str, weights: Container[str]) -> str:
        """The name by which a checkpoint stores a tensor: of tied names, it may have any."""
        copies = [copy for copy, original in self.tied.items() if original == theirs and copy in weights]
        return copies[0] if copies and theirs not in weights else theirs

    def check(self, names: Iterable[str]) -> None:
        """Raise ValueError where two of a network's names have one name in the checkpoint, or a name does not come back. It is a mistake of ours."""
        theirs = {name: self.theirs(name) for name in names}
        lost = [name for name, other in theirs.items() if self.ours(other) != name]
        double = [name for name, count in Counter(theirs.values()).items() if count > 1]
        if lost or double:
            raise ValueError(f"the names of weights do not correspond one to one: {some_of(lost + double)}")


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    fitting = [pair for pair in renames if name.startswith(pair[0])]
    old, new = max(fitting, key=lambda pair: len(pair[0]), default=("", ""))
    return new + name[len(old) :]
