"""Writes docs/metrics.md: `make metrics`."""

from __future__ import annotations

import sys

from rlvla3.observability.glossary import GROUPS
from rlvla3.observability.glossary.printed import page

if __name__ == "__main__":
    sys.stdout.write(page(GROUPS))
