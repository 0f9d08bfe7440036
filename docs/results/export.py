"""Exports models of full size and prints how far each engine is from Paddle's eager mode, as Markdown.

`python docs/results/export.py deit_tiny sot_tiny ...`; without names all models. A name may end in `@384`, a
size to export for. Weights are random ones of a trained model's size, as fresh ones give nearly the same
logits for every image. A model that can't be exported is named on standard error, and the status is then 1.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import paddle

from passl_sot.config import list_models
from passl_sot.engine.schema import load_config
from passl_sot.engines import ENGINES
from passl_sot.export import export_model
from passl_sot.export.card import ExportError
from passl_sot.export.source import change_size
from passl_sot.tasks.base import header_for
from passl_sot.utils.logger import hush_paddle
from passl_sot.zoo import find_config


def bearable(shape: Sequence[int]) -> float:
    """The standard deviation of noise that a parameter of a deep model bears."""
    if len(shape) < 2:
        return 0.1
    return float((2 / np.prod(shape[:-1])) ** 0.5 / 2)


def stir(model: paddle.nn.Layer, deviation: Callable[[Sequence[int]], float] = bearable) -> None:
    """Adds noise to the weights of a model, by the shape of each, and puts it in evaluation mode."""
    generator = np.random.default_rng(0)
    with paddle.no_grad():
        for name, tensor in model.state_dict().items():
            noise = deviation(tensor.shape) * generator.standard_normal(tensor.shape)
            if name.endswith("_variance"):
                noise = np.abs(noise)
            tensor.set_value(tensor + paddle.to_tensor(noise.astype("float32")))
    model.eval()


def differences(name: str, size: str) -> dict[str, float]:
    """The greatest difference of each engine from the model of this name, at another size if one is given."""
    experiment = load_config(find_config(name))
    model = experiment.model.build()
    stir(model)
    header = header_for(experiment)
    if size:
        header = change_size(model, header, int(size))
    with tempfile.TemporaryDirectory() as folder:
        return export_model(model, header, Path(folder) / name)


def main() -> None:
    """Prints a row for each model as soon as it is known."""
    hush_paddle()
    failed = []
    print(f"| model | {' | '.join(ENGINES)} |\n|{'---|' * (1 + len(ENGINES))}")
    images = [name for name in list_models() if find_config(name).parent.name != "text"]
    for label in sys.argv[1:] or images:
        name, _, size = label.partition("@")
        try:
            found = differences(name, size)
        except ExportError as error:
            failed.append(f"{label}: {error}")
            continue
        cells = [f"{found[engine]:.1e}" for engine in ENGINES]
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
