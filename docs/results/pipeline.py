"""Makes the table of the input pipeline in docs/performance.md: this project beside another library.

    python docs/results/pipeline.py PHOTOS --peer-python PYTHON_WITH_TIMM

PHOTOS is a folder with JPEG photographs, in folders of it too; some minutes for 1,000 of them. Programs take
turns, a batch of the same images each: this project, the same without numba and simplejpeg, and the other
library with the config's own settings (`passl_sot/bench/peers.py`). All figures are CPU time of one core.
"""

import argparse
import importlib.metadata
import json
import shlex
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from passl_sot.launch.cpu_env import describe_cpu, tune

# Copies by name, as `tools/make_cache.py` makes them.
COPIES = {"tiles": ["--tile-only"], "320 q90": ["--short-side", "320", "--quality", "90"], "raw": ["--raw"]}
# Row, recipe, place of our images, without the compiled packages?, place of the other library's images.
ROWS = (
    ("the original files", "training", "files", False, "files"),
    ("a packed copy, `--tile-only`", "training", "tiles", False, "files"),
    ("short side 320, quality 90", "training", "320 q90", False, "files"),
    ("the same, beside timm on these smaller files", "training", "320 q90", False, "320 q90"),
    ("`--raw`", "training", "raw", False, "files"),
    ("the same, beside timm on these pixels", "training", "raw", False, "raw"),
    ("RandomResizedCrop and flip alone, files", "crop and flip", "files", False, "files"),
    ("evaluation, files", "evaluation", "files", False, "files"),
    ("without numba and simplejpeg: the original files", "training", "files", True, "files"),
    ("without them: crop and flip alone", "crop and flip", "files", True, "files"),
    ("without them: evaluation", "evaluation", "files", True, "files"),
)
# Of a child: packages after the first two arguments can't be imported there.
SERVE = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[3:])); "
    "runpy.run_path(sys.argv[1])['serve'](sys.argv[2])"
)


def serve(jobs: str) -> None:
    """Speaks the protocol of `passl_sot.utils.peer.Peer` for this project; `jobs` is a JSON file."""
    tune()  # which the first process has done: here it hushes an import
    from passl_sot.bench.data import batch_makers
    from passl_sot.data import build_dataset

    running = []
    for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
        dataset = build_dataset(job["dataset"])
        dataset.seed = 0
        make, transfer = batch_makers(dataset)
        make(job["batches"][0])  # loops are loaded, or compiled
        running.append((make, transfer, iter(job["batches"])))
    print("ready", flush=True)
    for line in sys.stdin:
        make, transfer, batches = running[int(line)]
        indices = next(batches)
        began = time.process_time()
        make(indices)
        transfer(indices)
        print(time.process_time() - began, flush=True)


def recipes(config: str) -> dict[str, dict[str, Any]]:
    """The transforms of a config by the names of `ROWS`."""
    from passl_sot.engine.schema import load_config
    from passl_sot.zoo import find_config

    loader = load_config(find_config(config)).dataloader
    training: dict[str, Any] = {
        key: loader.train.dataset.get(key) for key in ("transforms", "batch_transforms")
    }
    steps = [*training["transforms"], *(training["batch_transforms"] or [])]
    alone = ("RandomResizedCrop", "RandomHorizontalFlip", "Normalize")
    crop_and_flip = {"transforms": [step for step in steps if step["name"] in alone]}
    return {
        "training": training,
        "crop and flip": {**crop_and_flip, "batch_transforms": None},
        "evaluation": {"transforms": loader.val.dataset["transforms"], "batch_transforms": None},
    }


class Images:
    """The images in all the places of `ROWS`: for this project a dataset, for the other library its files."""

    def __init__(self, photos: Path, count: int, folder: Path):
        from passl_sot.cli.packing import make_cache
        from passl_sot.data.datasets.folders import EXTENSIONS

        found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in EXTENSIONS)
        if not found:
            sys.exit(f"no images in {photos}")
        places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
        self.files = [str(found[i].resolve()) for i in places]
        self.folder = folder
        listed = folder / "list.txt"
        listed.write_text("".join(f"{path}\t0\n" for path in self.files), encoding="utf-8")
        list_file = {"name": "ListFile", "dataroot": ".", "list_file": str(listed), "apply_exif": False}
        self.datasets = {"files": list_file}
        for name, options in COPIES.items():
            out = str(folder / name)
            if make_cache([str(listed), out, *options]):
                sys.exit(f"{name}: can't be packed")
            self.datasets[name] = {"name": "PackedImages", "dataroot": out, "apply_exif": False}

    def __len__(self) -> int:
        return len(self.files)

    def size(self, place: str) -> int:
        """Bytes of all images in a place."""
        if place == "files":
            return sum(Path(path).stat().st_size for path in self.files)
        return sum(path.stat().st_size for path in (self.folder / place).iterdir())

    def paths(self, place: str) -> list[str]:
        """The images of a place as files of their own, which are written where they lie in a packed copy."""
        if place == "files":
            return self.files
        from passl_sot.data import build_dataset

        packed = build_dataset({**self.datasets[place], "transforms": [{"name": "Normalize"}]})
        folder = self.folder / f"{place} as files"
        folder.mkdir()
        paths = []
        for i in range(len(packed)):
            path = folder / f"{i}{'.npy' if place == 'raw' else '.jpg'}"
            if place == "raw":
                np.save(path, np.asarray(packed.open(i)))
            else:
                path.write_bytes(packed.stored(i))
            paths.append(str(path))
        return paths


def measure(images: Images, args: argparse.Namespace) -> tuple[dict[tuple, list[float]], list[str]]:
    """Seconds of each batch by (program, recipe, place), and words on the programs."""
    from passl_sot.bench.data import open_peer, peer_job
    from passl_sot.utils.peer import Peer

    order = np.random.default_rng(0).permutation(len(images)).tolist()
    whole = len(order) // args.batch * args.batch
    batches = [order[at : at + args.batch] for at in range(0, whole, args.batch)]
    batches = [batches[0], *batches]  # the first warms up
    by_name = recipes(args.config)
    ours: dict[str, list[tuple]] = {"ours": [], "plain": []}
    theirs: list[tuple] = []
    for _, recipe, place, plain, peer_place in ROWS:
        ours["plain" if plain else "ours"].append((recipe, place))
        theirs.append((recipe, peer_place))
    theirs = list(dict.fromkeys(theirs)) if args.compare != "none" else []
    seconds: dict[tuple, list[float]] = {}
    words: list[str] = []
    with ExitStack() as stack:
        runs = []
        for program, keys in ours.items():
            keys = list(dict.fromkeys(keys))
            datasets = [{**images.datasets[place], **by_name[recipe]} for recipe, place in keys]
            file = images.folder / f"{program}.json"
            file.write_text(json.dumps([{"dataset": dataset, "batches": batches} for dataset in datasets]))
            without = ["numba", "simplejpeg"] if program == "plain" else []
            command = [sys.executable, "-c", SERVE, __file__, str(file), *without]
            peer = stack.enter_context(Peer(shlex.join(command)))
            runs += [((program, *key), peer, number) for number, key in enumerate(keys)]
        if theirs:
            paths = {place: images.paths(place) for place in {place for _, place in theirs}}
            side = next(
                s["size"] for s in by_name["training"]["transforms"] if s["name"] == "RandomResizedCrop"
            )
            jobs = []
            for recipe, place in theirs:
                files = [paths[place][i] for batch in batches for i in batch]
                jobs.append(peer_job((side, side), by_name[recipe], files, args.batch))
            peer = stack.enter_context(open_peer(args.compare, args.peer_python, jobs))
            words = peer.words[-1:]
            runs += [(("peer", *key), peer, number) for number, key in enumerate(theirs)]
        for number in range(len(batches)):
            for key, peer, task in runs:
                found = peer.run(str(task))
                if number:
                    seconds.setdefault(key, []).append(found / args.batch)
    return seconds, words


def table(seconds: dict[tuple, list[float]], images: Images, compare: str) -> list[str]:
    """The rows as Markdown: microseconds of an image, and how many times as fast as the other library."""
    median = {key: 1e6 * statistics.median(values) for key, values in seconds.items()}
    lines = [f"| from | bytes | µs | {compare}, µs | × |", "|---|---|---|---|---|"]
    files = images.size("files")
    for name, recipe, place, plain, peer_place in ROWS:
        own = median["plain" if plain else "ours", recipe, place]
        other = median.get(("peer", recipe, peer_place))
        cells = [name.replace("timm", compare), f"{images.size(place) / files:.2f}", f"{own:,.0f}"]
        cells += [f"{other:,.0f}", f"{other / own:.1f}"] if other else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def facts(images: Images, args: argparse.Namespace, words: list[str]) -> str:
    """Processor, versions and builds, and what was measured."""
    from PIL import features

    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba", "simplejpeg", "numpy")]
    turbo = features.version("libjpeg_turbo") or "another libjpeg"
    versions.append(f"Pillow {importlib.metadata.version('pillow')} (libjpeg-turbo {turbo})")
    count = len(images) // args.batch
    text = f"{describe_cpu()}; Python {sys.version.split()[0]}, {', '.join(versions)}"
    if words:
        text += f"; beside it {words[0]}"
    return f"{text}; {args.config}, {len(images):,} photographs, medians of {count} batches of {args.batch}."


def main(argv: list[str] | None = None) -> None:
    """Measures, and prints the paragraph and the table for the page."""
    parser = argparse.ArgumentParser(description="Measure the input pipeline beside another library.")
    parser.add_argument("photos", type=Path, help="folder with photographs")
    parser.add_argument("-c", "--config", default="sot_small", help="whose recipe (default sot_small)")
    parser.add_argument("--compare", default="timm", choices=("timm", "torchvision", "none"))
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="default: this one")
    parser.add_argument("--images", type=int, default=1000, help="at most so many (default 1000)")
    parser.add_argument("--batch", type=int, default=32, help="images of a batch, even (default 32)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        images = Images(args.photos, args.images, Path(folder))
        if len(images) < 2 * args.batch:
            parser.error(f"{len(images)} images are less than two batches of {args.batch}: see --batch")
        seconds, words = measure(images, args)
        print(facts(images, args, words), "", *table(seconds, images, args.compare), sep="\n")


if __name__ == "__main__":
    tune()
    main()
