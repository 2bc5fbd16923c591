"""Elastic generators on the virtual clock."""

from __future__ import annotations

import numpy as np
import pytest

from rlvla3.errors import RecipeError
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place
from tests.support.elastic_gain import MOST, measure, recipe, shared_cores
from tests.support.rehearsals import small_profile, small_recipe


class Watched(VirtualRuntime):
    """A run that looks closely at every shard that goes over."""

    moves = 0

    def _go_over(self, number: int) -> None:
        assert not self._dispatcher.is_busy(number)
        assert all(request.shard.number != number for request in (*self.shards[number].generator._batcher, *self.shards[number].generator._under_way))
        super()._go_over(number)
        self.moves += 1


def test_every_ticket_is_trained_once_whatever_happens_while_shards_go_over():
    moves, profile = 0, small_profile()
    changing = small_recipe(engine={"generators": 3, "elastic": {"every_s": 1.5}}, training={"updates": 8})
    for seed in range(60):
        runtime = Watched(changing, profile, place(Cluster(1, 4), "hybrid", (1, 3)), seed=seed, faults=draw_faults(seed, 4, 30.0))
        published = list(runtime.train())
        assert sorted(episode.ticket.index for update in published for episode in update.episodes) == list(range(64))
        assert all(lag <= changing.engine.max_staleness for update in published for lag in update.staleness)
        assert [sorted(served) for served in runtime._served] == [np.flatnonzero(runtime.assignment.serves == number).tolist() for number in range(3)]
        moves += runtime.moves
    assert moves > 50


@pytest.mark.slow
def test_it_finds_the_number_that_is_best_on_shared_cores():
    """Two cores: two generators are best, and four are a fifth slower (docs/planning.md)."""
    part = ((60.0, 100.0),)
    (most,) = measure(recipe(MOST, elastic=False), shared_cores(2), part)
    (best,) = measure(recipe(2, elastic=False), shared_cores(2), part)
    (found,) = measure(recipe(MOST, elastic=True), shared_cores(2), part)
    assert found.active == 2
    assert found.pace == pytest.approx(best.pace, rel=0.03) and found.pace > 1.1 * most.pace


def test_several_hosts_are_not_rehearsed():
    with pytest.raises(RecipeError, match="rehearsed on one host, and the cluster has 2"):
        VirtualRuntime(recipe(2, elastic=True), shared_cores(2), place(Cluster(2, 2), "colocated"))


def test_without_it_nothing_is_measured():
    run = VirtualRuntime(small_recipe(), small_profile(), place(Cluster(1, 2), "colocated"))
    list(run.train())
    assert run.assignment.active == 2 and run.assignment.serves.tolist() == [run.placement.generator_of(shard) for shard in range(5)]
