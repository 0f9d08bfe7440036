"""Other libraries' training pipelines, for `tools/benchmark.py --mode data --compare NAME`.

Run as a script by an interpreter that has the library; imports nothing of this project:
`python data_peers.py NAME FILE_OF_PATHS SIDE BATCH`. For each line on standard input it prepares the next
BATCH images and says the processor time that took. The recipe: RandomResizedCrop, flip,
rand-m9-mstd0.5-inc1, normalise, erasing with 0.25 (torchvision: its own RandAugment of magnitude 9).
"""

import sys
import time
from collections.abc import Callable

PEERS = ("timm", "torchvision")


def timm_pipeline(side: int) -> Callable:
    """timm's transform on a Pillow image."""
    from timm.data import create_transform

    options = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "interpolation": "bicubic"}
    return create_transform(side, is_training=True, **options)


def torchvision_pipeline(side: int) -> Callable:
    """torchvision's second generation of transforms, on a uint8 tensor as it advises."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=9),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            v2.RandomErasing(0.25),
        ]
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves the protocol of `passl_sot.engine.benchmark.Peer`."""
    name, listed, side, batch = sys.argv[1:]
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    prepare = {"timm": timm_pipeline, "torchvision": torchvision_pipeline}[name](int(side))
    with open(listed, encoding="utf-8") as file:
        paths = file.read().splitlines()
    at = 0
    _say("ready")
    for _ in sys.stdin:
        began = time.process_time()
        images = []
        for path in paths[at : at + int(batch)]:
            with Image.open(path) as image:
                images.append(prepare(image.convert("RGB")))
        torch.stack(images)
        _say(str(time.process_time() - began))
        at += int(batch)


if __name__ == "__main__":
    main()
