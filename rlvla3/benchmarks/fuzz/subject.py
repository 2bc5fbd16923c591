"""What is fuzzed: recipes, demonstrations, policies. Each subject makes broken files, and reads them as the commands do.

Invariant: a case depends on the seed and on its number only, so that everyone can repeat it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from random import Random

from rlvla3.named import load_named

SUBJECTS: Mapping[str, str] = {
    "recipes": "rlvla3.benchmarks.fuzz.recipes:Recipes",
    "demonstrations": "rlvla3.benchmarks.fuzz.demonstrations:Demonstrations",
    "policies": "rlvla3.benchmarks.fuzz.policies:Policies",
}
"""The class of each subject. A class is imported only where it is asked for."""


class Subject(ABC):
    """What is fuzzed. Each worker process builds it once, before its first case, and the subject may change the process.

    folder: an empty folder for good files, which cases are made from. Import what `read` needs before the end of `__init__`: that time counts in no case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def make(self, random: Random, folder: Path) -> str:
        """Write one case into the empty `folder`, all by draws from `random`. Returns what was changed, in a few words."""

    @abstractmethod
    def read(self, folder: Path) -> None:
        """Read the case in `folder` as a command would. Raises ExplainedError where it is refused; any other exception has escaped."""


def make_subject(name: str, folder: Path) -> Subject:
    """The subject with this name, or that of a `module:Class`."""
    subject: Subject = load_named(SUBJECTS.get(name, name), "subject")(folder)
    return subject
