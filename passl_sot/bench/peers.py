"""Other libraries' pipelines with a config's own settings, for `benchmark --mode data --compare NAME`.

Run as a script by an interpreter that has the library; imports nothing of this project:
`python peers.py NAME JOBS [WORDS]`, with words to add where it is missing. JOBS is a JSON file, a list of

    {"paths": [...], "batch": 32, "side": [224, 224], "transforms": [...], "batch_transforms": [...] or null}

with steps as in a config. For each line on standard input, the number of a job (empty: 0), it prepares that
job's next images, float32 and normalized, on one core, and says the CPU time since its last answer, so that
images prepared ahead count too. Paths that end in .npy hold pixels, uint8 [H, W, 3].

| name | takes from the config | its own |
|---|---|---|
| timm | all, Mixup too, in the order of its loader or of its training script, as the config has it | |
| torchvision | crop, flip, normalizing, erasing, Mixup | RandAugment of two operations; on tensors |
| dali | crop, flip, normalizing; erasing's probability | RandAugment of two; cubic; no Mixup; on the CPU |
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_INSTALL = {
    "timm": "pip install timm",
    "torchvision": "pip install torch torchvision",
    "dali": "pip install nvidia-dali-cuda120; it needs no GPU",
}
PEERS = tuple(_INSTALL)
# Steps of a config by name, with the values they have where the config gives none.
_STEPS: dict[str, dict[str, Any]] = {
    "RandomResizedCrop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "interpolation": "bicubic"},
    "RandomHorizontalFlip": {"prob": 0.5},
    "RandAugment": {"policy": "rand-m9-mstd0.5-inc1"},
    "AutoAugment": {},
    "ThreeAugment": {},
    "ColorJitter": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "Resize": {"crop_pct": 1.0, "interpolation": "bicubic"},
    "CenterCrop": {},
    "Normalize": {"mean": MEAN, "std": STD},
    "RandomErasing": {"prob": 0.25, "scale": (0.02, 1 / 3), "ratio": 0.3, "mode": "pixel", "count": 1},
    "Mixup": {
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "prob": 1.0,
        "switch_prob": 0.5,
        "label_smoothing": 0.1,
    },
}
_POLICIES = {"AutoAugment": "original", "ThreeAugment": "3a"}  # timm's names


class JobError(Exception):
    """A library can't do what a config asks for."""


def _steps(name: str, job: dict, known: set[str]) -> dict[str, dict]:
    """The settings of a job's steps by name, in their order."""
    steps = [*job["transforms"], *(job["batch_transforms"] or [])]
    unknown = sorted({step["name"] for step in steps} - known)
    if unknown:
        raise JobError(
            f"{name} is given no counterpart of {', '.join(unknown)}: compare by a config without it"
        )
    return {step["name"]: {**_STEPS[step["name"]], **step} for step in steps}


def timm_batches(job: dict) -> Iterator:
    """timm's transforms on Pillow images; mixed bytes are normalized and erased as its loader does."""
    import torch
    from PIL import ImageOps
    from timm.data import FastCollateMixup, Mixup, create_transform
    from timm.data.random_erasing import RandomErasing

    posterize = ImageOps.posterize
    # Its RandAugment may ask for 0 bits, at which Pillow 13 raises an error.
    ImageOps.posterize = lambda image, bits: posterize(image, max(1, bits))
    steps = _steps("timm", job, set(_STEPS))
    order = list(steps)
    # Bytes are mixed by timm's loader, which then normalizes and erases batches; numbers by its script.
    late = "Mixup" in steps and order.index("Mixup") < order.index("Normalize")
    normalize = steps["Normalize"]
    options = {"mean": normalize["mean"], "std": normalize["std"], "use_prefetcher": late}
    if "Resize" in steps:
        resize = steps["Resize"]
        options |= {"crop_pct": resize["crop_pct"], "interpolation": resize["interpolation"]}
    else:
        crop = steps["RandomResizedCrop"]
        options |= {"is_training": True, "color_jitter": None}
        options |= {key: crop[key] for key in ("scale", "ratio", "interpolation")}
        options["hflip"] = steps.get("RandomHorizontalFlip", {"prob": 0.0})["prob"]
        options["auto_augment"] = steps.get("RandAugment", {}).get("policy")
        for ours, theirs in _POLICIES.items():
            if ours in steps:
                options["auto_augment"] = theirs
        if "ColorJitter" in steps:
            options["color_jitter"] = tuple(steps["ColorJitter"][key] for key in _STEPS["ColorJitter"])
    erase = steps.get("RandomErasing")
    erasing = None
    if erase and late:
        area = {"min_area": erase["scale"][0], "max_area": erase["scale"][1], "min_aspect": erase["ratio"]}
        how = {"mode": erase["mode"], "max_count": erase["count"], "device": "cpu"}
        erasing = RandomErasing(erase["prob"], **area, **how)
    elif erase:
        options |= {"re_prob": erase["prob"], "re_mode": erase["mode"], "re_count": erase["count"]}
    transform = create_transform(tuple(job["side"]), **options)
    mix: Any = None
    if "Mixup" in steps:
        kind = Mixup
        if late:
            kind = FastCollateMixup
        mix = kind(**{key: steps["Mixup"][key] for key in _STEPS["Mixup"]})
    mean, std = (255 * torch.tensor(normalize[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    for images in _one_by_one(job, transform):
        if late:
            batch, _ = mix([(image, 0) for image in images])
            batch = batch.float().sub_(mean).div_(std)
            if erasing:
                batch = erasing(batch)
        else:
            batch = torch.stack(images)
            if mix:
                batch, _ = mix(batch, torch.zeros(len(batch), dtype=torch.int64))
        yield batch


def torchvision_batches(job: dict) -> Iterator:
    """torchvision's second generation of transforms, on uint8 tensors as it advises."""
    import torch
    from torchvision.transforms import v2

    own = {"AutoAugment", "ThreeAugment"}
    steps = _steps("torchvision", job, set(_STEPS) - own)
    modes = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
    height, width = job["side"]
    make: dict[str, Callable[[dict], object]] = {
        "RandomResizedCrop": lambda s: v2.RandomChoice(
            [
                v2.RandomResizedCrop(
                    (height, width), scale=s["scale"], ratio=s["ratio"], interpolation=mode, antialias=True
                )
                for name, mode in modes.items()
                if s["interpolation"] in (name, "random")
            ]
        ),
        "RandomHorizontalFlip": lambda s: v2.RandomHorizontalFlip(s["prob"]),
        "RandAugment": lambda s: v2.RandAugment(num_ops=2, magnitude=_magnitude(s)),
        "ColorJitter": lambda s: v2.ColorJitter(*(s[key] for key in _STEPS["ColorJitter"])),
        "Resize": lambda s: v2.Resize(
            math.floor(height / s["crop_pct"]), interpolation=modes[s["interpolation"]], antialias=True
        ),
        "CenterCrop": lambda s: v2.CenterCrop((height, width)),
        "Normalize": lambda s: v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(s["mean"], s["std"])]
        ),
        "RandomErasing": lambda s: v2.RandomErasing(
            s["prob"], scale=s["scale"], ratio=(s["ratio"], 1 / s["ratio"]), value="random"
        ),
    }
    transform = v2.Compose([v2.PILToTensor(), *(make[name](s) for name, s in steps.items() if name in make)])
    mixing = steps.get("Mixup")
    mix = None
    if mixing:
        kinds = [(v2.MixUp, mixing["mixup_alpha"]), (v2.CutMix, mixing["cutmix_alpha"])]
        mix = v2.RandomChoice([kind(alpha=alpha, num_classes=1000) for kind, alpha in kinds if alpha])
    for images in _one_by_one(job, transform):
        batch = torch.stack(images)
        if mix:
            batch, _ = mix(batch, torch.zeros(len(batch), dtype=torch.int64))
        yield batch


def _magnitude(step: dict) -> int:
    """That of a policy in timm's spelling, `rand-m9-mstd0.5-inc1`."""
    return next(int(part[1:]) for part in step["policy"].split("-") if part[:1] == "m" and part[1:].isdigit())


def _one_by_one(job: dict, transform: Callable) -> Iterator[list]:
    """The images of each batch, one after the other from Pillow through a transform."""
    import numpy as np
    import torch
    from PIL import Image

    torch.set_num_threads(1)
    paths, batch = job["paths"], job["batch"]
    for at in range(0, len(paths), batch):
        images = []
        for path in paths[at : at + batch]:
            if path.endswith(".npy"):
                images.append(transform(Image.fromarray(np.load(path))))
                continue
            with Image.open(path) as image:
                images.append(transform(image.convert("RGB")))
        yield images


def dali_batches(job: dict) -> Iterator:
    """DALI's pipeline of its ImageNet example, with its RandAugment, on the CPU."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment

    known = {
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandAugment",
        "Normalize",
        "RandomErasing",
        "Mixup",
    }
    steps = _steps("dali", job, known)
    crop, normalize = steps["RandomResizedCrop"], steps["Normalize"]
    flip = steps.get("RandomHorizontalFlip", {"prob": 0.0})["prob"]
    erase = steps.get("RandomErasing", {"prob": 0.0})["prob"]

    @pipeline_def(enable_conditionals=True)
    def prepare() -> object:
        files, _ = fn.readers.file(files=job["paths"])
        images = fn.decoders.image_random_crop(
            files, device="cpu", random_area=list(crop["scale"]), random_aspect_ratio=list(crop["ratio"])
        )
        images = fn.resize(images, size=job["side"], interp_type=types.INTERP_CUBIC, antialias=True)
        if "RandAugment" in steps:
            images = rand_augment.rand_augment(
                images, n=2, m=_magnitude(steps["RandAugment"]), shape=job["side"], fill_value=128
            )
        images = fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[255 * value for value in normalize["mean"]],
            std=[255 * value for value in normalize["std"]],
            mirror=fn.random.coin_flip(probability=flip),
        )
        if fn.random.coin_flip(probability=erase, dtype=types.BOOL):
            corner = fn.random.uniform(range=[0.0, 0.7], shape=2)
            size = fn.random.uniform(range=[0.15, 0.6], shape=2)
            images = fn.erase(images, anchor=corner, shape=size, normalized=True, axis_names="HW")
        return images

    # One batch at a time: the time of a call is that of its batch.
    options = {"num_threads": 1, "exec_async": False, "exec_pipelined": False, "prefetch_queue_depth": 1}
    pipeline = prepare(batch_size=job["batch"], device_id=None, **options)
    pipeline.build()
    for _ in itertools.repeat(None):
        yield pipeline.run()


def _versions() -> str:
    """What may make the library faster or slower, in words."""
    found = []
    for module in ("timm", "torch", "torchvision", "nvidia.dali", "PIL"):
        version = getattr(sys.modules.get(module), "__version__", "")
        if version:
            found.append(f"{module.replace('PIL', 'Pillow')} {version}")
    return ", ".join(found)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves the protocol of `passl_sot.utils.peer.Peer`."""
    name, listed, *words = sys.argv[1:]
    with open(listed, encoding="utf-8") as file:
        jobs = json.load(file)
    makers = (timm_batches, torchvision_batches, dali_batches)
    running = []
    try:
        for job in jobs:
            batches = makers[PEERS.index(name)](job)
            running.append(itertools.chain([next(batches)], batches))  # the first answer warms up
    except ImportError as error:
        sys.exit(
            f"{sys.executable} can't run {name}: {error}. Install it there ({_INSTALL[name]}) or name an "
            "interpreter that has it by --peer-python" + "".join(words)
        )
    except JobError as error:
        sys.exit(str(error))
    _say(_versions())
    _say("ready")
    before = time.process_time()
    for line in sys.stdin:
        next(running[int(line.strip() or 0)])
        now = time.process_time()
        _say(str(now - before))
        before = now


if __name__ == "__main__":
    main()
