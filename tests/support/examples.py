"""The files that docs/extending.md shows: fenced blocks with a title, as in ```python title="reach.py"."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.repository import ROOT


def examples() -> dict[str, str]:
    """The content of each file, by its name."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page, re.S | re.M))


def write_examples(folder: Path) -> None:
    """Put all of them into one folder, as the page tells its reader to."""
    for name, content in examples().items():
        (folder / name).write_text(content, encoding="utf-8")
