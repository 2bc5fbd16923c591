"""A Ray run without Ray's processes: who works where, what is refused and in which words, and where time goes."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import STAGES, MeterBoard
from rlvla3.types import Purpose, Ticket

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")

from rlvla3.runtimes.ray.cluster import Node, connect, roles, with_devices
from rlvla3.runtimes.ray.host_actor import GrantedTickets, _own_folder
from rlvla3.runtimes.ray.messages import RunTickets, Status
from rlvla3.runtimes.ray.reports import Reports


def ray_recipe(**changes):
    return make_recipe({"simulator": {"tasks": ["reach-v3"], "shards": 8}, "runtime": "ray"} | changes)


@pytest.mark.parametrize(
    ("kind", "ratio", "gpus", "hosts", "trainers"),
    [
        ("colocated", "", 0, {0: ((0,), 2), 1: ((0,), 2), 2: ((0,), 2), 3: ((0,), 2)}, {0: (0,)}),
        ("disaggregated", "3:1", 0, {0: ((0,), 3), 1: ((0,), 3), 2: ((0,), 2)}, {3: (0,)}),
        ("disaggregated", "3:1", 4, dict.fromkeys(range(4), ((0, 1, 2), 2)), {0: (3,)}),
        ("separate", "2:1:1", 4, dict.fromkeys(range(4), ((2, 0, 1), 2)), {0: (3,)}),
        ("hybrid", "1:1", 2, dict.fromkeys(range(4), ((1, 0), 2)), {0: (0,)}),
    ],
)
def test_stages_are_dealt_to_nodes_as_the_placement_says(kind, ratio, gpus, hosts, trainers):
    dealt = roles(ray_recipe(placement={"kind": kind, "ratio": ratio}), [Node(gpus, 8)] * 4, ranks=1)
    assert {s.node: (s.devices, s.recipe.simulator.shards) for s in dealt if s.recipe} == hosts
    assert {s.node: s.trainer_devices for s in dealt if s.trainers} == trainers
    assert all(s.recipe.engine.generators >= 1 and not s.recipe.engine.record for s in dealt if s.recipe)


def test_simulators_draw_on_the_gpus_that_the_placement_gives_them():
    """Numbered as the host sees them: those of generators come first. Where EGL cannot draw there, the host may use the CPU, so `devices` stays empty."""

    def host(name):
        simulator = {"name": name, "tasks": ["reach-v3"] if name == "metaworld" else [], "shards": 8}
        return roles(ray_recipe(simulator=simulator, placement={"kind": "separate", "ratio": "2:1:1"}), [Node(4, 8)], ranks=1)[0]

    assert (host("metaworld").devices, host("metaworld").draw_on) == ((2, 0, 1), ("cuda:1", "cuda:2"))
    assert host("metaworld").recipe.simulator.devices == []
    assert host("gymnasium:CartPole-v1").recipe.simulator.devices == ["cuda:1", "cuda:2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": {"kind": "hybrid", "ratio": "1:1"}}, "observations never leave their host"),
        ({"simulator": {"shards": 3}}, "shards=3 for 4 hosts"),
    ],
)
def test_what_cannot_be_dealt_is_refused(changes, message):
    with pytest.raises(RecipeError, match=message):
        roles(ray_recipe(**changes), [Node(0, 8)] * 4, ranks=1)


def test_trainer_ranks_have_a_gpu_each():
    with pytest.raises(RecipeError, match=r"training.ranks=3 is more than the 2 GPUs that placement.kind=disaggregated gives the trainer"):
        roles(ray_recipe(training={"ranks": 3}, placement={"kind": "disaggregated"}), [Node(2, 8)] * 2, ranks=3)
    dealt = roles(ray_recipe(training={"ranks": 3}), [Node(0, 8)] * 2, ranks=3)  # CPUs are shared
    assert [rank for station in dealt for rank in station.trainers] == [0, 1, 2]


def test_nodes_without_a_gpu_have_no_part_where_others_have_one():
    head = Node(0, 8, head=True)
    assert with_devices([head, Node(4, 8), Node(4, 8)]) == [Node(4, 8)] * 2
    assert with_devices([head, Node(0, 8)]) == [head, Node(0, 8)]


@pytest.mark.parametrize(
    ("generators", "least", "dealt"),
    [
        (8, 2, [(2, 1)] * 4),
        (8, 6, [(2, None), (2, None), (2, 1), (2, 1)]),  # 2 + 2 + 1 + 1 always, 8 at most
        (5, 1, [(2, 1), (1, None), (1, None), (1, None)]),
    ],
)
def test_limits_of_elastic_generators_are_dealt_out_like_generators(generators, least, dealt):
    engine = {"generators": generators, "elastic": {"least": least}}
    hosts = [station.recipe.engine for station in roles(ray_recipe(engine=engine), [Node(0, 8)] * 4, ranks=1) if station.recipe]
    assert [(host.generators, host.elastic and host.elastic.least) for host in hosts] == dealt


def test_elastic_generators_that_leave_no_host_a_choice_are_refused():
    with pytest.raises(RecipeError, match=r"least=1 leaves nothing to choose with engine.generators=2 on 2 hosts.* set engine.generators to 3 or more"):
        roles(ray_recipe(engine={"generators": 2, "elastic": {}}), [Node(0, 8)] * 2, ranks=1)


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", "local", "head:", ":6379"])
def test_what_is_no_address_is_said_to_be_none(address):
    with pytest.raises(RecipeError, match="is no address of a Ray cluster: write host:port"):
        connect(address)


def test_an_address_where_nobody_is_is_refused_without_asking_ray(monkeypatch):
    """Ray asks for minutes."""
    monkeypatch.setattr("ray.init", lambda *args, **options: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(RecipeError, match=f"no Ray cluster answers at ray.address=127.0.0.1:{port} .*ray start --head"):
        connect(f"127.0.0.1:{port}")


def test_a_host_begins_a_ticket_when_it_has_the_weights_that_its_bound_asks_for():
    newest = -1
    ledger = GrantedTickets(control=None, newest=lambda: newest)  # type: ignore[arg-type]  # nothing is said
    first, second = (Ticket(index, "reach", 0, index, Purpose.TRAIN) for index in (8, 9))
    ledger.grant(RunTickets(0, [(first, 1), (second, 2)]))
    taken = []
    for newest in (0, 1, 2):  # noqa: B007  # the ledger looks at it
        taken.append((ledger.take(), ledger.take()))
    assert taken == [(None, None), (first, None), (second, None)]


def test_a_host_removes_what_killed_ones_have_left_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with _own_folder() as living:
        fresh, left = Path(tempfile.mkdtemp(prefix="ray-host-")), Path(tempfile.mkdtemp(prefix="ray-host-"))
        for folder in (living, left):
            (folder / "shard-0.log").touch()
            os.utime(folder, (0, 0))
        with _own_folder() as own:
            assert set(tmp_path.iterdir()) == {living, fresh, own}
    assert set(tmp_path.iterdir()) == {fresh}


class Actor:
    """One that tells of one worker."""

    def __init__(self, now):
        self.board, self.steps = MeterBoard(["worker"], now), 0
        self.meter = self.board.meter("worker")

    def status(self):
        return Status(self.board.read(), self.board.stages(), self.board.ages(), self.steps)


def test_what_actors_tell_is_summed_over_their_lives_and_the_rest_is_start():
    clock = 0.0

    def now():
        return clock

    reports = Reports({"host 0": ["worker"], "trainer": ["trainer"]}, now)

    def seconds():
        return {stage: float(spent) for stage, spent in zip(STAGES, reports.board.read()[0], strict=True) if spent}

    clock = 10.0
    actor = Actor(now)
    assert seconds() == {"start": 10}  # Ray has taken its time
    actor.meter.enter("simulate")
    clock, actor.steps = 13.0, 30
    reports.take("host 0", actor.status())
    actor.meter.enter("ticket")
    clock = 15.0
    reports.take("host 0", actor.status())
    clock = 16.0  # nothing has come since: what it was in, it is in
    assert seconds() == {"start": 10, "simulate": 3, "ticket": 3}
    reports.lost("host 0")
    clock = 20.0
    another = Actor(now)
    another.meter.enter("simulate")
    clock, another.steps = 22.0, 20
    assert seconds() == {"start": 16, "simulate": 3, "ticket": 3}
    reports.take("host 0", another.status())
    assert seconds() == {"start": 14, "simulate": 5, "ticket": 3}
    assert reports.steps() == 50
    assert reports.board.read().sum(axis=1).tolist() == [22, 22]
    assert np.all(reports.board.stages() == [STAGES.index("simulate"), 0])
