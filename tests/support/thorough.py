"""Cases that show once more what the other cases of their test show: of another seed, mode, family or size. `make test` leaves them out."""

from __future__ import annotations

from typing import Any

import pytest


def thorough(*cases: Any) -> list[Any]:
    """For `pytest.mark.parametrize`. A case of several values is a tuple."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough) for case in cases]
