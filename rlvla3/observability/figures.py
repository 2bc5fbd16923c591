"""Writes the figures of a benchmark, a check or a plan to a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_figures(figures: Mapping[str, Any], path: Path) -> None:
    """Write the figures as JSON. A missing folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
