"""`rlvla3 bench watched`: one run, with a page and without."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rlvla3.benchmarks import watched
from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.errors import RecipeError


@pytest.mark.slow
def test_a_run_is_measured_without_and_with_a_page_that_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: None) -> None:
    asked: list[str] = []
    ask = watched._ask

    def noted(address: str, path: str, tags: dict[str, str]) -> tuple[Any, float]:
        asked.append(path.partition("?")[0])
        return ask(address, path, tags)

    monkeypatch.setattr(watched, "SETTLE_S", 2.0)
    monkeypatch.setattr(watched, "_ask", noted)
    assert watched.main(pairs=1, seconds=8.0, shards=2, figures=tmp_path / "figures.json")
    (pair,) = json.loads((tmp_path / "figures.json").read_text())["pairs"]
    assert pair["ratio"] == pytest.approx(pair["with"]["steps_per_second"] / pair["without"]["steps_per_second"])
    assert pair["with"]["opened_s"] > 0 and pair["with"]["cores"] > 0
    assert set(asked) == {"api/runs", *(f"api/{what}" for what in watched.ASKED)}


def test_a_window_without_two_updates_is_refused_in_words() -> None:
    run = SimpleNamespace(metrics=lambda _: [], wait=lambda _: False)
    with pytest.raises(RecipeError, match="0 updates in 5 s: a rate needs two"):
        watched._rate(cast(ObservedRun, run), 5.0)
