"""Files that segmenters and detectors read and write alike."""

from collections.abc import Sequence
from pathlib import Path

import paddle
from paddle import nn

from passl_sot.config import UserError
from passl_sot.config.errors import listing
from passl_sot.weights.checkpoint import read_weights


def load_into(model: nn.Layer, path: str | Path, config: Path) -> None:
    """Fills a model of a config; a UserError where the file isn't of it, and the model is then unchanged.

    The suites load what fits, leave the rest random, and run what a pickled file tells them to.
    """
    # Its JSON part is of checkpoints of our own trainer, which neither suite writes.
    found, _ = read_weights(path)
    wanted = model.state_dict()
    wrong = [n for n, x in wanted.items() if n not in found or list(found[n].shape) != list(x.shape)]
    if wrong:
        raise UserError(
            f"{path} isn't of the model in {config}: it lacks, or has in another shape, "
            f"{listing(wrong, 5)} of {len(wanted)} tensors"
        )
    model.set_state_dict({name: paddle.to_tensor(found[name]) for name in wanted})


def refuse_same_names(names: Sequence[str]) -> None:
    """A UserError where the picture of an image would replace that of another: pictures get these names."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"several images are called {listing(twice, 5)}: predict them into other folders")
