"""The command: what it writes, what it says, and that the folder predicts as the checkpoint does."""

import pytest

from passl_sot import Predictor
from passl_sot.engines import ENGINES


def test_every_engine_gives_the_rows_of_the_checkpoint(checkpoint, exported):
    images = str(checkpoint.parent.parent / "val")
    wanted = Predictor(checkpoint)(images)
    assert len({row.names[0] for row in wanted}) > 1  # not one answer for all
    for engine in ENGINES:
        rows = Predictor(exported, engine=engine)(images)
        assert [row.names for row in rows] == [row.names for row in wanted]
        for row, known in zip(rows, wanted, strict=True):
            assert row.probabilities == pytest.approx(known.probabilities, abs=1e-5)


def test_it_says_how_exact_each_engine_is_and_nothing_else(checkpoint, invoke, tmp_path):
    result = invoke("export", "--weights", checkpoint, "--out", tmp_path / "out")
    assert result.returncode == 0
    assert result.stderr == ""
    print(result.stdout)
