"""Time that maps of relevance take, in units of the forward and backward pass of the same images.

    python docs/results/maps.py [CONFIG ...] [--images 100] [--batch 20]

Prints, for each config and method, the processor seconds of a forward pass with the gradients of all
parameters, those of the maps, and their ratio.
"""

import argparse
import time
from collections.abc import Callable

from passl_sot.launch.cpu_env import tune


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Of processor time, of all repeats after one that warms up."""
    work()
    began = time.process_time()
    for _ in range(repeats):
        work()
    return time.process_time() - began


def main() -> None:
    """The command."""
    import paddle

    from passl_sot import create_model
    from passl_sot.vis.relevance import explain, methods_of

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", default=["sot_tiny", "deit_tiny", "swin_tiny"])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20)
    options = parser.parse_args()
    repeats = max(1, options.images // options.batch)
    for config in options.configs:
        model = create_model(config)
        model.eval()
        images = paddle.randn([options.batch, model.backbone.in_chans, *model.backbone.img_size])

        def both() -> None:
            model(images).sum().backward()  # noqa: B023
            model.clear_gradients()  # noqa: B023

        whole = seconds(both, repeats)
        for method in methods_of(model):
            maps = seconds(lambda: explain(model, images, method=method), repeats)  # noqa: B023
            figures = f"both passes {whole:.2f} s  maps {maps:.2f} s  ratio {maps / whole:.2f}"
            print(f"{config}  {method:10}  {figures}", flush=True)


if __name__ == "__main__":
    tune()  # as the command line does: must stand before Paddle starts
    main()
