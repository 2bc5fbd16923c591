"""Action tokens."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical

from rlvla3.policies.options import TokenOptions
from rlvla3.policies.tokens import TOKENS, TokenHead, choice_logprob, sample_choices

C, A = 3, 2


def head_and_model(temperature=1.0, scale=2.0):
    torch.manual_seed(0)
    logits = scale * torch.randn(1, 1, C, A * TOKENS)
    return TokenHead(TokenOptions(temperature=temperature), C, A), lambda points, times: (logits.expand(len(points), -1, -1, -1), torch.zeros(1, 1, 1, 1))


def test_tokens_and_actions_are_openvla_s():
    head, _ = head_and_model()
    actions = torch.cat([torch.linspace(-1.2, 1.2, 4001), torch.tensor([-1.0, 1.0])])
    edges = head.edges.numpy()  # whether a number exactly on an edge is below or above it depends on the edge's last digit
    np.testing.assert_allclose(edges, np.linspace(-1, 1, 256), atol=1e-7)
    digits = np.digitize(actions.clamp(-1, 1).numpy(), edges)
    assert (head.tokens_of(actions).numpy() == TOKENS - digits).all()
    centres = (edges[:-1] + edges[1:]) / 2
    np.testing.assert_allclose(head.actions_of(head.tokens_of(actions)).numpy(), centres[np.clip(digits - 1, 0, 254)], atol=1e-7)


def test_every_token_but_the_doubled_highest_survives_the_way_to_an_action_and_back():
    head, _ = head_and_model()
    tokens = torch.arange(1, TOKENS)
    assert (head.tokens_of(head.actions_of(tokens)) == tokens).all()
    assert head.actions_of(torch.tensor([0, 1])).unique().numel() == 1
    assert (head.actions_of(head.tokens_of(torch.linspace(-1, 1, 999))) - torch.linspace(-1, 1, 999)).abs().max() <= 1 / 255 + 1e-6


def test_log_prob_and_entropy_are_those_of_a_categorical_at_the_temperature():
    head, model = head_and_model(temperature=0.7)
    sample = head.sample(model, torch.randn(8, C, A), torch.arange(8) % 2 == 0)
    logprob, entropy, _ = head.evaluate(model, sample.trace)
    reference = Categorical(logits=model(torch.zeros(8, 1), None)[0].view(8, C, A, TOKENS) / 0.7)
    torch.testing.assert_close(logprob, reference.log_prob(sample.trace["tokens"]))
    torch.testing.assert_close(entropy, reference.entropy())
    torch.testing.assert_close(logprob, sample.logprob, rtol=0, atol=0)


def test_without_exploration_the_likeliest_token_is_taken():
    head, model = head_and_model()
    sample = head.sample(model, torch.randn(8, C, A), torch.zeros(8, dtype=torch.bool))
    likeliest = model(torch.zeros(8, 1), None)[0].view(8, C, A, TOKENS).argmax(-1)
    assert (sample.trace["tokens"] == likeliest).all()


def test_choices_are_drawn_with_their_probabilities():
    torch.manual_seed(1)
    logits = torch.randn(5)
    chosen = sample_choices(logits.expand(100_000, 5), torch.randn(100_000), torch.ones(100_000, dtype=torch.bool))
    shares = torch.bincount(chosen, minlength=5) / 100_000
    torch.testing.assert_close(shares, logits.softmax(0), rtol=0, atol=0.006)


@pytest.mark.parametrize("noise", [-40.0, -8.0, 0.0, 8.0, 40.0])
def test_the_most_extreme_noise_still_chooses_something_possible(noise):
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]])
    chosen = sample_choices(logits, torch.tensor([noise]), torch.tensor([True]))
    assert chosen.item() in (1, 2)
    assert choice_logprob(logits, chosen)[0].item() > -2


def test_half_precision_never_chooses_beyond_the_last():
    torch.manual_seed(0)
    chosen = sample_choices(torch.randn(200, TOKENS, dtype=torch.bfloat16), torch.full((200,), 40.0), torch.ones(200, dtype=torch.bool))
    assert chosen.max() < TOKENS


def test_the_clone_loss_is_the_cross_entropy_of_the_expert_s_tokens():
    head, model = head_and_model()
    actions = torch.rand(4, C, A) * 2 - 1
    expected = -choice_logprob(model(torch.zeros(4, 1), None)[0].view(4, C, A, TOKENS), head.tokens_of(actions))[0].mean()
    torch.testing.assert_close(head.clone_loss(model, actions, torch.Generator()), expected)
