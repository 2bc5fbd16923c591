"""Instructions become tokens of a fixed length that do not depend on their neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlvla3.errors import RecipeError
from rlvla3.processing import prompts as prompts_module
from rlvla3.processing.prompts import Prompts
from rlvla3.processing.specification import PromptProcessing
from rlvla3.processing.tokenizer_files import load_tokenizer
from tests.support.vla_checkpoints import tokenizer_folder

STATE = torch.tensor([[-1.1, -1.0, 0.0, 0.99, 1.0, 2.0]])


def made(**how: Any) -> Prompts:
    return Prompts(PromptProcessing.model_validate({"length": 96, **how}))


@pytest.mark.parametrize(("form", "text"), [
    ("plain", "Put the_cup\n in"),
    ("line", "Put the_cup\n in\n"),
    ("openpi_line", "Put the cup  in\n"),
    ("task", "Task: Put the cup  in;\nAction: "),
    ("task_state", "Task: Put the cup  in, State: -1 0 128 254 255 255;\nAction: "),
    ("openvla", "In: What action should the robot take to put the_cup\n in?\nOut:"),
    ("template", "<image>Put the_cup\n in</s>"),
])  # fmt: skip
def test_each_form_is_written_as_its_authors_do(form: str, text: str):
    assert made(form=form, template="<image>{text}</s>").texts(["Put the_cup\n in"], STATE) == [text]


def test_the_steps_of_a_state_are_numpys_digitize():
    state = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32))
    state[0] = torch.from_numpy(np.linspace(-1, 1, 257)[[0, 1, 2, 100, 128, 200, 255, 256]].astype(np.float32))
    theirs = np.digitize(state.numpy(), bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    for ours, row in zip(made(form="task_state").texts(["go"] * 50, state), theirs, strict=True):
        assert ours == f"Task: go, State: {' '.join(map(str, row))};\nAction: "


def test_old_lerobots_state_is_padded_before_it_is_written():
    assert made(form="task_state", state_size=8).texts(["go"], STATE)[0].endswith("255 255 128 128;\nAction: ")


@pytest.mark.parametrize("form", ["line", "task_state"])
def test_tokens_do_not_depend_on_the_batch(form: str):
    prompts, texts = made(form=form, tokenizer=tokenizer_folder("pi0")), ["pick up the mug", "go", "close the drawer"]
    state = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    tokens, mask = prompts(texts, state)
    assert tokens.shape == mask.shape == (3, 96) and tokens.dtype == torch.int64 and mask.dtype == torch.bool
    for row in range(3):
        alone = made(form=form, tokenizer=tokenizer_folder("pi0"))(texts[row : row + 1], state[row : row + 1])
        assert torch.equal(alone[0][0], tokens[row]) and torch.equal(alone[1][0], mask[row])


def test_an_overlong_prompt_is_refused_with_the_way_out_or_cut():
    with pytest.raises(RecipeError, match=r"'go home\\n' has 8 tokens, more than processing\.prompt\.length=4: set it to 8 or more.*overlong=cut"):
        made(length=4)(["go home"], STATE)
    assert made(length=4, overlong="cut")(["go home"], STATE)[0].tolist() == [[byte + 4 for byte in b"go h"]]


def test_a_state_that_makes_the_prompt_too_long_is_refused_before_the_run():
    """Numbers of three digits are the longest."""
    made(form="task_state", length=58).check(["go"], 8)
    with pytest.raises(RecipeError, match="has 58 tokens, more than"):
        made(form="task_state", length=57).check(["go"], 8)


def test_begin_and_end():
    for begin, first in (("tokenizer", True), ("always", True), ("never", False)):
        tokens, mask = made(tokenizer=tokenizer_folder("pi0"), begin=begin, end=[7, 8])(["pick up"], STATE)
        ids = tokens[mask].tolist()
        assert ids[-2:] == [7, 8] and (ids[0] == 2) is first
    assert made(begin="always")(["go"], STATE)[0][0, 0] == 1, "the tokenizer of bytes has one as well"


def test_a_tokenizer_of_sentencepiece_without_the_package_is_refused_in_words(tmp_path: Path):
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(RecipeError, match=r"tokenizer\.model (needs the package sentencepiece|cannot be read)"):
        made(tokenizer=str(tmp_path))


def test_the_memory_of_prompts_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prompts_module, "MOST_KNOWN", 3)
    prompts = made()
    for start in range(4):
        texts = [f"go {number}" for number in range(start, start + 3)]
        fresh = made()(texts, STATE)
        assert torch.equal(prompts(texts, STATE)[0], fresh[0])
    assert len(prompts._known) <= 3


def test_the_tokenizer_of_bytes_fits_a_vocabulary_of_260():
    tokenizer = load_tokenizer("bytes")
    assert tokenizer.plain(["aÿ"]) == [[101, 199, 195]] and tokenizer.size == 260 and tokenizer.pad == 0
