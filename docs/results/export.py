"""Exports models of full size and prints how far each engine is from Paddle's eager mode, as Markdown.

`python docs/results/export.py deit_tiny sot_tiny ...`; without names all models. Weights are random ones of a
trained model's size, as fresh ones give nearly the same logits for every image.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import paddle

from passl_sot.config import list_models
from passl_sot.engine.schema import load_config
from passl_sot.export import export_model
from passl_sot.tasks.base import header_for
from passl_sot.utils.logger import hush_paddle
from passl_sot.zoo import find_config

COLUMNS = ("paddle", "inference", "onnxruntime", "openvino")


def stir(model: paddle.nn.Layer) -> None:
    """Adds noise to the weights, as much as a layer of that width bears."""
    generator = np.random.default_rng(0)
    with paddle.no_grad():
        for name, tensor in model.state_dict().items():
            noise = generator.standard_normal(tensor.shape).astype("float32")
            scale = 0.1
            if len(tensor.shape) > 1:
                scale = (2 / np.prod(tensor.shape[:-1])) ** 0.5 / 2
            if name.endswith("_variance"):
                noise = np.abs(noise)
            tensor.set_value(tensor + paddle.to_tensor((scale * noise).astype("float32")))
    model.eval()


def main() -> None:
    """Prints a row for each model as soon as it is known."""
    hush_paddle()
    print(f"| model | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    for name in sys.argv[1:] or list_models():
        experiment = load_config(find_config(name))
        model = experiment.model.build()
        stir(model)
        with tempfile.TemporaryDirectory() as folder:
            found = export_model(model, header_for(experiment), Path(folder) / name)
        cells = [f"{found[engine]:.1e}" for engine in COLUMNS]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
