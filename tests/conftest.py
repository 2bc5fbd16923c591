"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No test is about time: a slow machine is not a defect.
settings.register_profile("rlvla3", deadline=None)
settings.load_profile("rlvla3")
