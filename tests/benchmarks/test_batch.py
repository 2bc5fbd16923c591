"""The benchmark of a batch: every part is measured once for each batch, and shards get what the generator has decided."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rlvla3.benchmarks import batch
from rlvla3.benchmarks.batch import DECISIONS, Host, measure
from rlvla3.cli import main

PARTS = ("requests", "gather", "instructions", "tensors", "noise", "arrays", "scatter", "answer")


def test_the_figures_go_into_a_file(tmp_path, capsys):
    main(["bench", "batch", "--cameras", "1", "--size", "8", "--batch", "3", "--batches", "2", "--json", str(tmp_path / "batch.json")])
    figures = json.loads((tmp_path / "batch.json").read_text())
    assert figures["copied_bytes"] == 3 * (8 * 8 * 3 + 4 * 8 + 4)
    assert list(figures["parts"]) == [*PARTS, "whole"]
    for times in figures["parts"].values():
        assert 0 < times["cpu_min_ms"] <= times["cpu_median_ms"] and 0 < times["wall_min_ms"] <= times["wall_median_ms"]
    assert "whole" in capsys.readouterr().out


def test_every_batch_answers_every_shard_and_goes_through_all_rows(monkeypatch: pytest.MonkeyPatch):
    """Part by part or as a whole: either way the shards get what was decided, and the frames were copied."""
    batches: list[tuple[list[int], list[int]]] = []
    seen: list[bool] = []

    class Watched(Host):
        async def decide(self, episodes, work) -> None:
            self.decisions.actions[:] = len(batches)
            self.frames["image.camera 0"][:] = 0
            batches.append(([episode.ticket.index for episode in episodes], [episode.row for episode in episodes]))
            await super().decide(episodes, work)
            assert all((episode.actions == len(batches) - 1).all() for episode in episodes)
            seen.append(bool(np.all(self.frames["image.camera 0"] == 1) or np.all(self.engine._actor.waiting.host["image.camera 0"].numpy() == 1)))

    monkeypatch.setattr(batch, "Host", Watched)
    figures = measure(cameras=1, size=4, batch=2, batches=1)
    assert figures["parts"].keys() == {*PARTS, "whole"}
    assert batches == [([2 * number, 2 * number + 1], [row, row]) for number in range(2) for row in range(DECISIONS)]
    assert all(seen)
