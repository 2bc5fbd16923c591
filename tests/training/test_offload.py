"""A learner and a policy that leave their device: whoever is away holds nothing there, and comes back with all its bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlvla3.training.learner import Learner
from rlvla3.training.offload import OffloadedResidence, Residence, learner_tensors
from rlvla3.training.ranks import Ranks
from tests.support.ranks import Work, do, make_policy, make_rollouts, run_update, together
from tests.support.tensors import size_of

CPU = torch.device("cpu")


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
