"""Other libraries' training pipelines, for `tools/benchmark.py --mode data --compare NAME`.

Run as a script by an interpreter that has the library; imports nothing of this project:
`python peers.py NAME FILE_OF_PATHS SIDE BATCH [WORDS]`, with words to add where it is missing. For each line
on standard input it prepares the next BATCH images, float32 and normalized, on one core, and says the CPU
time since its last answer, so that images prepared ahead count too.

| name | beside RandomResizedCrop, flip and normalizing, as its documentation has it |
|---|---|
| timm | rand-m9-mstd0.5-inc1, erasing with 0.25; bicubic |
| torchvision | its own RandAugment of magnitude 9, erasing with 0.25; bicubic on tensors, antialiased |
| dali | its own RandAugment of magnitude 9, erasing with 0.25; cubic, antialiased; on the CPU |
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INSTALL = {
    "timm": "pip install timm",
    "torchvision": "pip install torch torchvision",
    "dali": "pip install nvidia-dali-cuda120; it needs no GPU",
}
PEERS = tuple(_INSTALL)


def timm_batches(paths: list[str], side: int, batch: int) -> Iterator:
    """timm's transform, on Pillow images."""
    from timm.data import create_transform

    options = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "interpolation": "bicubic"}
    return _one_by_one(paths, batch, create_transform(side, is_training=True, **options))


def torchvision_batches(paths: list[str], side: int, batch: int) -> Iterator:
    """torchvision's second generation of transforms, on uint8 tensors as it advises."""
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandAugment(num_ops=2, magnitude=9),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
            v2.RandomErasing(0.25),
        ]
    )
    return _one_by_one(paths, batch, transform)


def _one_by_one(paths: list[str], batch: int, transform: Callable) -> Iterator:
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    for at in range(0, len(paths), batch):
        images = []
        for path in paths[at : at + batch]:
            with Image.open(path) as image:
                images.append(transform(image.convert("RGB")))
        yield torch.stack(images)


def dali_batches(paths: list[str], side: int, batch: int) -> Iterator:
    """DALI's pipeline of its ImageNet example, with its RandAugment, on the CPU."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment

    @pipeline_def(enable_conditionals=True)
    def prepare() -> object:
        files, _ = fn.readers.file(files=paths)
        images = fn.decoders.image_random_crop(
            files, device="cpu", random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
        )
        images = fn.resize(images, size=[side, side], interp_type=types.INTERP_CUBIC, antialias=True)
        images = rand_augment.rand_augment(images, n=2, m=9, shape=[side, side], fill_value=128)
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            mirror=fn.random.coin_flip(),
        )
        if fn.random.coin_flip(probability=0.25, dtype=types.BOOL):
            corner = fn.random.uniform(range=[0.0, 0.7], shape=2)
            size = fn.random.uniform(range=[0.15, 0.6], shape=2)
            images = fn.erase(images, anchor=corner, shape=size, normalized=True, axis_names="HW")
        return images

    # One batch at a time: the time of a call is that of its batch.
    options = {"num_threads": 1, "exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}
    pipeline = prepare(batch_size=batch, device_id=None, **options)
    pipeline.build()
    for _ in itertools.repeat(None):
        yield pipeline.run()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves the protocol of `passl_sot.bench.model.Peer`."""
    name, listed, side, batch, *words = sys.argv[1:]
    with open(listed, encoding="utf-8") as file:
        paths = file.read().splitlines()
    makers = (timm_batches, torchvision_batches, dali_batches)
    try:
        batches = makers[PEERS.index(name)](paths, int(side), int(batch))
        batches = itertools.chain([next(batches)], batches)  # the first answer warms up
    except ImportError as error:
        sys.exit(
            f"{sys.executable} can't run {name}: {error}. Install it there ({_INSTALL[name]}) or name an "
            "interpreter that has it by --peer-python" + "".join(words)
        )
    _say("ready")
    before = time.process_time()
    for _ in sys.stdin:
        next(batches)
        now = time.process_time()
        _say(str(now - before))
        before = now


if __name__ == "__main__":
    main()
