"""`rlvla3 watch` as a user starts it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.repository import ROOT


@contextmanager
def watched(place: Path, *words: str) -> Iterator[str]:
    """`rlvla3 watch PLACE` as a user starts it. Gives the address that it prints."""
    command = [sys.executable, "-m", "rlvla3", "watch", str(place), "--port", "0", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            said = ""
            for line in process.stdout:
                said += line
                if address := re.search(r"http://\S+", line):
                    yield address[0]
                    return
            raise AssertionError(said)
        finally:
            process.terminate()
