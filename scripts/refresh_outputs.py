"""Run the rehearsals that a document shows, and put what they print today into the document.

    python scripts/refresh_outputs.py docs/papers.md docs/planning.md     # about 10 minutes

A block of the document is run again if it begins with `$ rlvla3 rehearse` or `$ rlvla3 plan` and shows one command. These commands run on the virtual clock, so
they print the same on every machine. Commands that measure a machine stay as they are.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```\n\$ (rlvla3 (?:rehearse|plan) [^\n]*)\n(.*?)^```$", re.M | re.S)


def output_of(command: str) -> str:
    """What the command prints, without spaces at the ends of lines. Raises CalledProcessError where it fails."""
    print(command, flush=True)
    words = [sys.executable, "-m", "rlvla3", *shlex.split(command)[1:]]
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    return "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())


def refresh(document: Path) -> None:
    """Replace the outputs in one document."""

    def block(found: re.Match[str]) -> str:
        command, shown = found.groups()
        several = "\n$ " in shown
        return found[0] if several else f"```\n$ {command}\n{output_of(command)}```"

    document.write_text(BLOCK.sub(block, document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:] or sys.exit(__doc__):
        refresh(Path(name))
