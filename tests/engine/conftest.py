"""Runs without their pictures, and a comparison of two runs."""

from pathlib import Path

import numpy as np
import pytest

from passl_sot.engine import pictures, trainer
from passl_sot.weights.checkpoint import read_checkpoint


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Runs in this process end without their pictures, which take two thirds of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "draw_run", lambda *_: None)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Runs end with their pictures, as users' runs do."""
    monkeypatch.setattr(trainer, "draw_run", pictures.draw_run)


@pytest.fixture(scope="session")
def same_update():
    """Compares runs after one update from one start: gradients, by Adam's first moment, and weights."""

    def compare(first: Path, second: Path, kinds: tuple = ("model", "ema"), atol: float = 1e-7) -> None:
        one, two = read_checkpoint(first), read_checkpoint(second)
        assert one.meta["progress"]["step"] == two.meta["progress"]["step"] == 1
        assert one.tensors.keys() == two.tensors.keys()
        moments = {name: m for name, m in one.part("optimizer").items() if "moment1" in name}
        assert len(moments) > 20
        for name, moment in moments.items():
            found = two.part("optimizer")[name]
            np.testing.assert_allclose(found, moment, rtol=1e-4, atol=atol, err_msg=name)
            weight = name.split("|")[0]
            # Adam divides by the gradient's size: where there is none, it steps along rounding errors.
            certain = np.abs(moment) > 1e-5
            for kind in kinds:
                a, b = (saved.part(kind)[weight][certain] for saved in (one, two))
                np.testing.assert_allclose(b, a, rtol=0, atol=1e-6, err_msg=weight)

    return compare
