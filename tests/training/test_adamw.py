"""AdamW is torch's, to the last bit, and does not bring torch's compiler along."""

from __future__ import annotations

import copy
import subprocess
import sys

import torch

from rlvla3.training.adamw import make_adamw


def steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        weight.grad = torch.randn(weight.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()
        assert weight.grad is None


def test_its_steps_and_its_state_are_those_of_torch() -> None:
    ours, theirs = (torch.nn.Parameter(torch.ones(5)) for _ in range(2))
    mine, reference = make_adamw([ours], torch.device("cpu"), lr=0.1, weight_decay=0.01), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01)
    for optimizer, weight in ((mine, ours), (reference, theirs)):
        steps(optimizer, weight, 1)
    assert torch.equal(ours, theirs) and not torch.equal(ours, torch.ones(5))
    again = torch.nn.Parameter(ours.detach().clone())
    resumed = make_adamw([again], torch.device("cpu"), lr=0.1, weight_decay=0.01)
    resumed.load_state_dict(copy.deepcopy(reference.state_dict()))
    for optimizer, weight in ((resumed, again), (reference, theirs)):
        steps(optimizer, weight, 2)
    assert torch.equal(again, theirs)


def test_a_step_does_not_import_the_compiler() -> None:
    code = "import sys, torch; from rlvla3.training.adamw import make_adamw; weight = torch.nn.Parameter(torch.ones(2)); weight.grad = torch.ones(2); "
    code += "optimizer = make_adamw([weight], torch.device('cpu')); optimizer.step(); optimizer.zero_grad(); print('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
