"""Instruction tokens."""

import pytest

from rlvla3.policies import tokenizer as tokenizer_file
from rlvla3.policies.base import PolicyError
from rlvla3.policies.tokenizer import ByteTokenizer


@pytest.mark.parametrize("text", ["", "press the button", "Öffne die Schublade!", "打开抽屉", "tab\tand\nnewline  two spaces", "<pad>"])
def test_an_instruction_survives_the_way_to_tokens_and_back(text):
    tokenizer = ByteTokenizer(32)
    tokens = tokenizer.encode([text, "other"])[0]
    assert tokens.shape == (32,)
    assert tokens[: len(text.encode())].tolist() == [byte + 4 for byte in text.encode()]
    assert (tokens[len(text.encode()) :] == 0).all()
    assert tokenizer.decode(tokens) == text


def test_an_instruction_that_is_too_long_is_refused_with_the_limit():
    with pytest.raises(PolicyError, match=r"33 bytes is longer than the policy's limit of 32.*instruction_bytes to 40"):
        ByteTokenizer(32).encode(["x" * 33])


def test_texts_without_end_fill_no_memory_and_keep_their_tokens(monkeypatch):
    monkeypatch.setattr(tokenizer_file, "MOST_KNOWN", 3)
    tokenizer = ByteTokenizer(8)
    texts = [f"at {number}" for number in range(10)] * 2
    assert [tokenizer.decode(tokens) for tokens in tokenizer.encode(texts)] == texts
    assert len(tokenizer._known) <= 3
