"""Words of the command line that nobody knows: what may have been meant is said."""

from __future__ import annotations

import pytest

from rlvla3.cli import main


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "recipe.yaml", "--jsn", "seed=1"])
    assert "unknown: --jsn: did you mean --json?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["tain", "a"], "tain is unknown: did you mean train?"),
        (["bench", "chaoss"], "chaoss is unknown: did you mean chaos?"),
        (["export", "a", "b", "--layout", "lerobt"], "lerobt is unknown: did you mean lerobot?"),
        (["eval", "a", "--protcol", "b"], "unknown: --protcol: did you mean --protocol?"),
        (["train", "a", "--zzz"], "unknown: --zzz\n"),
        (["zzz"], "invalid choice: 'zzz'"),
    ],
)
def test_what_is_misspelt_is_answered_with_what_may_have_been_meant(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert complaint in capsys.readouterr().err
