"""Rollout and training that have their devices in turn: whoever is away holds nothing there and misses nothing, and nobody enters before the other has left."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlvla3.config import make_recipe
from rlvla3.errors import RecipeError
from rlvla3.planning.bound import update_bound
from rlvla3.planning.memory_fit import memory_need
from rlvla3.planning.rehearsal import rehearse
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.runtimes.processes.messages import LeaveDevice, LeftDevice
from rlvla3.runtimes.processes.roll_call import RollCall
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place
from rlvla3.training.learner import Learner
from rlvla3.training.offload import OffloadedResidence, Residence, _own, learner_tensors
from rlvla3.training.ranks import Ranks
from tests.support.ranks import Work, do, make_policy, make_rollouts, run_update, together
from tests.support.rehearsals import planned_profile
from tests.support.runs import Run, countdown

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")
CPU = torch.device("cpu")


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that they take here, shards and all, whoever shares them."""
    return sum(_own(tensor).untyped_storage().nbytes() for tensor in tensors)


# A residence


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    """Tensors of all kinds, and others that look into them."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    made: list[Tensor] = []
    for dtype in draw(st.lists(st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]), min_size=1, max_size=5)):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        whole = torch.from_numpy(rng.integers(0, 2, shape)).to(dtype, copy=True)
        made += draw(st.sampled_from([[whole], [whole, whole], [whole, whole.flatten()[1:]], [whole.unsqueeze(0).transpose(0, -1), whole]]))
    return made


@given(tensors())
def test_who_leaves_holds_nothing_and_comes_back_with_all_its_bits(given: list[Tensor]) -> None:
    before = [tensor.clone() for tensor in given]
    residence = OffloadedResidence(CPU, lambda: given)
    for _ in range(2):
        residence.leave()
        residence.leave()
        assert size_of(given) == 0
        residence.enter()
        residence.enter()
        for tensor, was in zip(given, before, strict=True):
            assert tensor.shape == was.shape and tensor.dtype == was.dtype and torch.equal(tensor, was)


def test_what_looks_into_a_tensor_still_does() -> None:
    whole = torch.arange(6.0)
    part = whole[2:4]
    residence = OffloadedResidence(CPU, lambda: [part])
    residence.leave()
    assert size_of([whole]) == 0
    residence.enter()
    part.fill_(9)
    assert whole.tolist() == [0, 1, 9, 9, 4, 5]


def test_room_on_the_host_is_taken_once() -> None:
    """And given back for sizes that come no more."""
    present = [torch.randn(64), torch.randn(32)]
    residence = OffloadedResidence(CPU, lambda: present)

    def rooms() -> list[int]:
        residence.leave()
        places = [kept.data_ptr() for _, kept in residence._offloaded]
        residence.enter()
        return places

    assert rooms() == rooms()
    del present[1]
    rooms()
    assert sum(len(room) for room in residence._buffers.values()) == 1


def test_what_was_made_for_inference_or_since_the_last_time_leaves_too() -> None:
    with torch.inference_mode():
        present = [torch.ones(3)]
    residence = OffloadedResidence(CPU, lambda: present)
    residence.leave()
    residence.enter()
    present.append(torch.full((2,), 5.0))
    residence.leave()
    assert size_of(present) == 0
    residence.enter()
    assert [tensor.tolist() for tensor in present] == [[1, 1, 1], [5, 5]]


def test_what_has_no_memory_of_its_own_stays(tmp_path: Path) -> None:
    save_file({"mapped": torch.ones(4)}, tmp_path / "file")
    present = [load_file(tmp_path / "file")["mapped"], torch.from_numpy(np.ones(4)), torch.ones(4)]
    residence = OffloadedResidence(CPU, lambda: present)
    residence.leave()
    assert [size_of([tensor]) > 0 for tensor in present] == [True, True, False]
    residence.enter()
    assert all((tensor == 1).all() for tensor in present)


def test_a_module_settles_away_with_its_tied_weights() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    module[1].weight = module[0].weight
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    present = list(chain(module.parameters(), module.buffers()))
    residence = OffloadedResidence(CPU, lambda: present)
    residence.place(module)
    assert residence.away and size_of(present) == 0
    residence.enter()
    assert module[1].weight is module[0].weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_who_does_not_take_turns_stays() -> None:
    module, residence = nn.Linear(2, 2), Residence(CPU)
    residence.place(module)
    residence.leave()
    assert not residence.away and size_of(module.parameters()) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="what is left free is a GPU's memory: no CUDA device here")
def test_a_gpu_is_free_while_its_tensors_are_away() -> None:
    device = torch.device("cuda", 0)
    module = nn.Linear(1024, 1024)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    began = torch.cuda.memory_allocated(device)
    residence = OffloadedResidence(device, module.parameters)
    residence.place(module)
    for _ in range(2):
        assert torch.cuda.memory_allocated(device) == began
        residence.enter()
        assert torch.cuda.memory_allocated(device) >= began + 4 * 1024 * 1024
        assert all(torch.equal(tensor.cpu(), before[name]) for name, tensor in module.state_dict().items())
        residence.leave()
    assert all(kept.is_pinned() for _, kept in residence._offloaded)


# A learner


def in_turn(ranks: Ranks, work: Work) -> tuple[dict[str, bytes], dict[str, bytes], list[int]]:
    """The weights that `work` comes to where a rank leaves after every update, and where it stays; and what it held while it was away."""
    recipe, policy = work.recipe(ranks.size), make_policy(work.kind, work.exact)
    learner = Learner(policy, recipe, make_rollouts(work.kind), "cpu", ranks)
    residence, found = OffloadedResidence(CPU, lambda: learner_tensors(learner)), []
    for update in range(work.updates):
        residence.enter()
        run_update(learner, recipe, update, work)
        residence.leave()
        moments = [tensor for state in learner.optimizer.state.values() for tensor in state.values()]
        memories = [tensor for features, targets in learner.critic_features._past for tensor in (*features.values(), targets)]
        assert moments and memories and learner.objective.reference
        whole = learner.parallel.published().values() if ranks.first else ()
        found.append(size_of((*policy.parameters(), *policy.buffers(), *moments, *memories, *learner.objective.reference, *whole)))
    residence.enter()
    turned = {name: learner.parallel.whole(tensor).numpy().tobytes() for name, tensor in policy.state_dict().items()}
    return turned, {name: array.tobytes() for name, array in do(ranks, work).weights.items()}, found


KEPT = Work(algorithm={"reference": {"weight": 0.2}})
SHARDED = replace(KEPT, training={"sharding": "full"}, updates=2)


def test_a_learner_that_leaves_between_updates_learns_the_same() -> None:
    """With moments that come after the first step, a reference policy, and a critic's memory."""
    turned, stayed, found = in_turn(Ranks(), replace(KEPT, exact=False))
    assert turned == stayed and found == [0, 0, 0]


@pytest.mark.slow
def test_so_do_two_ranks_with_shards() -> None:
    (first, *_), second = answers = together(2, in_turn, SHARDED)
    for turned, stayed, found in answers:
        assert turned == stayed and found == [0, 0]
    assert first == second[0]


# Runs


class Watched(ActorCritic):
    """Whenever it computes, it asks the workers on the other side how many bytes of their policies are on their devices. They answer from a thread.

    WATCH: the folder of everybody's sockets, where what was answered is written down.
    """

    side = ""

    def act(self, observations, noise, explore):
        self._be_at("rollout", "training")
        return super().act(observations, noise, explore)

    def evaluate(self, observations, actions, trace):
        self._be_at("training", "rollout")
        return super().evaluate(observations, actions, trace)

    def _be_at(self, here: str, there: str) -> None:
        folder = Path(os.environ["WATCH"])
        if not self.side:
            self.side = here
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(folder / f"{here}-{os.getpid()}"))
            listener.listen()
            threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
        for address in folder.glob(f"{there}-*"):
            with socket.socket(socket.AF_UNIX) as asked, (folder / f"{here}.seen").open("a") as seen:
                asked.connect(str(address))
                seen.write(asked.recv(32).decode() + "\n")

    def _answer(self, listener: socket.socket) -> None:
        while True:
            asking, _ = listener.accept()
            with asking:
                asking.send(str(size_of(self.parameters())).encode())


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch, *, offload: bool, **changes: Any) -> Run:
    """A watched run of two shards, and of four updates of which the second is kept."""
    watch = folder / "watch"
    watch.mkdir(parents=True)
    monkeypatch.setenv("WATCH", str(watch))
    settings: dict[str, Any] = {"simulator": {"shards": 2}, "training": {"checkpoint_every": 2}, "engine": {"mode": "sync", "offload": offload}}
    for section, changed in changes.items():
        settings[section] = settings.get(section, {}) | changed
    return Run(folder, countdown(policy={"name": "tests.training.test_offload:Watched"}, algorithm={"reference": {"weight": 0.1}}, **settings))


def seen_from(run: Run, side: str) -> set[int]:
    """Bytes that the other side was seen to hold."""
    return set(map(int, (run.folder.parent / "watch" / f"{side}.seen").read_text().split()))


def test_a_run_in_turn_comes_to_the_same_weights_and_its_sides_never_meet(tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through evaluations and checkpoints, each in its turn."""
    evaluation = {"episodes": 3, "before": True, "after": True}
    staying = begin(tmp_path / "staying", monkeypatch, offload=False, evaluation=evaluation)
    turning = begin(tmp_path / "turning", monkeypatch, offload=True, evaluation=evaluation).finished()
    staying.finished()
    for version in (2, 4):
        assert turning.weights(version) == staying.weights(version)
    for side in ("rollout", "training"):
        assert seen_from(turning, side) == {0} and min(seen_from(staying, side)) > 0
    times = {worker["name"]: worker for worker in turning.summary["workers"]}
    assert [name for name, worker in times.items() if worker["busy"].get("offload", 0) > 0] == ["generator 0", "trainer"]
    assert all(sum(worker["busy"].values()) + sum(worker["idle"].values()) == pytest.approx(1) for worker in times.values())
    assert not any("offload" in worker["busy"] for worker in staying.summary["workers"])


def test_two_ranks_with_shards_take_turns_with_rollout_and_survive_a_killed_simulator(
    tmp_path: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = {"options": {"kwargs": {"step_s": 0.02}}}
    run = begin(tmp_path, monkeypatch, offload=True, simulator=slow, training={"ranks": 2, "sharding": "full"})
    run.until(lambda: run.records("update") and run.workers("shard 1"))
    run.workers("shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    assert summary["tickets"]["trained"] == 32 and summary["tickets"]["rerun"] >= 1
    assert seen_from(run, "training") == seen_from(run, "rollout") == {0}
    assert {worker["name"] for worker in summary["workers"] if "offload" in worker["busy"]} == {"generator 0", "trainer", "trainer 1"}


# Who waits for whom


def test_a_roll_call_ends_once_with_the_last_answer() -> None:
    called: list[str] = []
    call = RollCall(["a", "b"], lambda: called.append("then"))
    for name in ("a", "a", "stranger"):
        call.answered(name)
        assert not called
    for _ in range(2):
        call.answered("b")
    assert called == ["then"]
    RollCall((), lambda: called.append("at once"))
    assert called == ["then", "at once"]


def test_a_lost_host_is_not_waited_for() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvla3[ray]'")
    from rlvla3.runtimes.ray.cluster_supervisor import ClusterSupervisor, SupervisedHost

    news: list[str] = []
    told: list[tuple[int, Any]] = []
    handlers: dict[tuple[int, type], Callable[[Any], None]] = {}

    def silent(number: int) -> Any:
        """A host that says nothing by itself."""
        tell, handle = lambda message: told.append((number, message)), lambda kind, handler: handlers.update({(number, kind): handler})
        return SimpleNamespace(control=SimpleNamespace(send=tell, handle=handle), reconnect=lambda: None)

    hosts = ClusterSupervisor(lambda *_: None, lambda: 0, notify=news.append, fail=news.append, keep=lambda *_: None, report=lambda *_: None)  # type: ignore[arg-type]
    hosts.hosts = [SupervisedHost(number, make_recipe({}), silent(number), ready=number < 2) for number in range(3)]
    hosts._started = True
    for host in hosts.hosts:
        hosts._watch(host)
    hosts.free_devices(then=lambda: news.append("the devices are free"))
    assert told == [(0, LeaveDevice()), (1, LeaveDevice())]
    handlers[0, LeftDevice](LeftDevice())
    assert not news
    hosts._on_lost(1, True)
    assert news[-1] == "the devices are free" and len(news) == 2


# Settings


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"engine": {"offload": True}}, r"engine\.mode=full_async \(max_staleness=1, streaming=true\) they work at the same time: set engine\.max_staleness=0"),
        ({"engine": {"offload": True, "mode": "train_async"}}, r"max_staleness=1, streaming=false"),
        ({"engine": {"offload": True, "mode": "sync", "streaming": True}}, r"max_staleness=0, streaming=true"),
        ({"engine": {"offload": True, "mode": "sync"}, "weights": {"on_host": "cuda_ipc"}}, r"set weights\.on_host=shared_memory"),
        (
            {"engine": {"offload": True, "mode": "sync"}, "memory": {"trainer": 0.8, "generator": 0.5, "simulator": 0.3}},
            r"memory\.trainer=0\.8, memory\.simulator=0\.3 are 1\.1",
        ),
        ({"engine": {"mode": "sync"}, "memory": {"trainer": 0.7, "generator": 0.7}}, r"are 1\.4"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        make_recipe(changes)
    make_recipe({"engine": {"offload": True, "mode": "sync"}, "memory": {"trainer": 0.7, "generator": 0.7, "simulator": 0.3}})  # in no phase more than 1


# Rehearsals

GB = 10**9
BYTES = {"trainer": 40 * GB, "rank": 10 * GB, "generator": 25 * GB, "simulator": 3 * GB, "process": GB}


def planned(offload: bool, **engine: Any) -> Any:
    return make_recipe(
        {
            "simulator": {"shards": 4},
            "policy": {"chunk": 4},
            "training": {"batch": 8, "steps": 1, "epochs": 1, "micro_batch": 8},
            "engine": {"mode": "sync", "offload": offload} | engine,
        }
    )


def test_a_rehearsal_takes_the_time_that_the_bytes_take() -> None:
    """Two ranks hold 30 GB each and two generators 25 GB each: in and out once an update, at 10 GB a second, 11 s."""
    simple = {"episode_steps": [8], "simulate": {"on": "cores", "seconds": [0.25]}, "host": {"cores": [1, 2, 3, 4], "bus": 10 * GB}}
    known, unknown, cluster = planned_profile(**simple, memory=BYTES), planned_profile(**simple), Cluster(1, 2)
    staying, turning = (rehearse(planned(offload), known, cluster, updates=3) for offload in (False, True))
    assert turning.step_time == pytest.approx(staying.step_time + 11)
    assert turning.utilisation["trainer"]["offload"] == pytest.approx(6 / turning.step_time)
    assert turning.utilisation["generator"]["offload"] == pytest.approx(5 / turning.step_time)
    assert rehearse(planned(True), unknown, cluster, updates=3).step_time == pytest.approx(staying.step_time)
    limits = [update_bound(planned(offload), known, place(cluster, "colocated", ())).least for offload in (False, True)]
    assert limits[1] <= turning.step_time + 1e-9 and limits[1] - limits[0] > 8


def test_a_virtual_run_in_turn_survives_its_faults() -> None:
    recipe, cluster = planned(True), Cluster(1, 2)
    for seed in range(8):
        runtime = VirtualRuntime(recipe, planned_profile(memory=BYTES), place(cluster, "colocated", ()), seed=seed, faults=draw_faults(seed, 12, within=200.0))
        assert sum(len(published.episodes) for published in runtime.train()) == recipe.training.updates * 8


def test_a_device_holds_the_larger_of_the_two_and_the_host_what_is_away() -> None:
    memory, placement = planned_profile(memory=BYTES).memory, place(Cluster(1, 2), "colocated", ())
    staying, turning = (memory_need(planned(offload), memory, placement, None) for offload in (False, True))
    assert staying.device == {"trainer": 30 * GB, "generator": 25 * GB, "simulators": 6 * GB}
    assert turning.device == {"trainer": 30 * GB, "simulators": 6 * GB}
    assert staying.host == {"simulators": 4 * GB}
    assert turning.host == {"simulators": 4 * GB, "trainer": 60 * GB, "generator": 50 * GB}
