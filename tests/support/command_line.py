"""The `rlvla3` command in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def rlvla3_process(*words: str | Path, without: Sequence[str] = (), timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it. without: modules it must not import, because importing them takes seconds that a refusal must not take."""
    forbid = f"import sys; sys.modules.update(dict.fromkeys({list(without)})); from rlvla3.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", forbid, *map(str, words)], capture_output=True, text=True, check=False, timeout=timeout_s)
