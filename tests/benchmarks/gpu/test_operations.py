"""The operations that a policy needs: counted by torch, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rlvla3.benchmarks.gpu.operations import Operations, PolicyOperations, counted, counting, read_bytes
from rlvla3.benchmarks.gpu.policies import CHUNK, POLICIES
from rlvla3.policies.pi.options import PiModel
from rlvla3.policies.vla.sizes import DecoderSizes

WORDS, STEPS = 48, 4
"""Tokens of the prompt, and denoising steps, of the pi0 that is measured."""


@pytest.fixture(scope="module")
def counts() -> dict[str, PolicyOperations]:
    """In a process of its own, as in the measurement."""
    names = ["mini VLA, tiny", "pi0, tiny"]
    with counting(names) as count:
        return {name: count(name) for name in names}


def decoder(tokens: int, seen: int, sizes: DecoderSizes) -> int:
    """Operations of a decoder's layers: projections, attention of `tokens` to `seen` positions, a gated MLP of three products."""
    inner = sizes.heads * sizes.head_size
    projections = 2 * tokens * sizes.width * (2 * inner + 2 * sizes.key_value_heads * sizes.head_size)
    return sizes.layers * (projections + 4 * tokens * seen * inner + 6 * tokens * sizes.width * sizes.mlp_width)


def pi0_by_hand(model: PiModel) -> int:
    """The operations of an inference of pi0, without the small projections of state, action and time."""
    vision, patches = model.vision, model.vision.tokens
    layer = 2 * patches * (4 * vision.width**2 + 2 * vision.width * vision.mlp_width) + 4 * patches**2 * vision.width
    seeing = vision.layers * layer + 2 * patches * vision.width * (3 * vision.patch**2 + model.language.width)
    prefix = patches + WORDS
    chunk = 1 + model.horizon
    return seeing + decoder(prefix, prefix, model.language) + STEPS * decoder(chunk, prefix + chunk, model.expert)


def test_pi0_needs_what_its_sizes_say(counts: dict[str, PolicyOperations]):
    assert counts["pi0, tiny"].acting.of(1) == pytest.approx(pi0_by_hand(PiModel.tiny("pi0")), rel=0.05)


@pytest.mark.thorough
@pytest.mark.slow
def test_pi0_of_the_published_size_needs_one_and_a_half_teraflop():
    with counting(["pi0 3.5 B"]) as count:
        found = count("pi0 3.5 B")
    by_hand = pi0_by_hand(PiModel.published("pi0").model_copy(update={"horizon": CHUNK}))
    assert found.acting.of(3) == pytest.approx(3 * by_hand, rel=0.01)
    assert 1.4e12 < found.acting.of(1) < 1.5e12
    assert 5.3e9 < found.read < 5.5e9


def test_learning_needs_a_backward_pass_only_where_something_is_trained(counts: dict[str, PolicyOperations]):
    mini, pi0 = counts["mini VLA, tiny"], counts["pi0, tiny"]
    assert 2.5 < mini.learning.of(8) / mini.acting.of(8) < 3  # three passes' worth; the first layer needs no gradient of its input
    assert 0.9 < pi0.learning.of(8) / pi0.acting.of(8) < 1.1  # one denoising step in place of four, and the frozen prefix has no backward pass


def test_operations_grow_with_the_decisions(counts: dict[str, PolicyOperations]):
    acting = counts["mini VLA, tiny"].acting
    assert acting.once > 0  # the words of an instruction are encoded once
    assert acting.of(5) - acting.of(4) == acting.each
    assert Operations(once=3, each=2).of(10) == 23


def test_products_and_attention_are_counted_and_sums_are_not():
    a, b = torch.zeros(3, 4), torch.zeros(4, 5)
    assert counted(lambda: a @ b) == 2 * 3 * 4 * 5
    assert counted(lambda: a + a) == 0


def test_an_embedding_is_not_read_whole():
    assert read_bytes(nn.ModuleList([nn.Embedding(1000, 8), nn.Linear(8, 4)])) == 2 * (8 * 4 + 4)


def test_counting_leaves_no_fake_tensor_behind(counts: dict[str, PolicyOperations]):
    """Policies keep constants from call to call. A fake one would break every policy of this process."""
    policy = POLICIES["pi0, tiny"].build("cpu")
    assert all(type(tensor) in (torch.Tensor, nn.Parameter) for tensor in (*policy.parameters(), *policy.buffers()))
