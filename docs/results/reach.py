"""Makes the table of docs/performance.md that sets six exported models beside their official code.

    python docs/results/reach.py --peer-python PYTHON [--builder FILE] [--exports DIR]

PYTHON is an interpreter that has torch, timm and onnx. FILE defines `build(name)`, which gives the official
module for t2t_vit_14, sot_small and stvit_small, from wherever its code is; without it their rows are left
out. Files are made once and kept in DIR. One core, batches of 8, in turns; half an hour the first time.
"""

import argparse
import os
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from passl_sot.engine.schema import load_config
from passl_sot.engines import EngineError, open_engine
from passl_sot.engines.base import FILES, Precision
from passl_sot.export import export_model
from passl_sot.export.quantize import lower
from passl_sot.launch.cpu_env import describe_cpu
from passl_sot.tasks.base import header_for
from passl_sot.tasks.classification import ClassificationTask
from passl_sot.utils.cache import versions_of
from passl_sot.utils.peer import Peer
from passl_sot.zoo import find_config

BATCH = 8
TIMM = {
    "deit_small": "deit_small_patch16_224",
    "pit_s": "pit_s_224",
    "swin_tiny": "swin_tiny_patch4_window7_224",
}
MODELS = ("deit_small", "t2t_vit_14", "pit_s", "sot_small", "stvit_small", "swin_tiny")
ROWS: tuple[tuple[str, str, Precision], ...] = (
    ("official", "openvino", "f32"),
    ("official", "openvino", "bf16"),
    ("official", "onnxruntime", "f32"),
    ("ours", "inference", "f32"),
    ("ours", "onnxruntime", "f32"),
    ("ours", "openvino", "f32"),
    ("ours", "inference", "bf16"),
    ("ours", "openvino", "bf16"),
    ("ours", "openvino", "int8"),
)
# What the other interpreter runs: a peer, which writes the official graph first if it isn't there.
OFFICIAL = """
import os, runpy, sys, time, torch
known, builder, name, path = sys.argv[1:]
torch.set_num_threads(1)
if known:
    import timm
    model = timm.create_model(known)
else:
    model = runpy.run_path(builder)["build"](name)
model.eval()
images = torch.randn(8, 3, 224, 224)
with torch.no_grad():
    if not os.path.exists(path):
        written = torch.onnx.export(model, (images,), path + ".new", opset_version=17, dynamo=False)
        os.rename(path + ".new", path)
    model(images)
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        model(images)
        print(time.process_time() - began, flush=True)
"""


class Noise:
    """A dataset of eight images `[C, H, W]`, for calibration where only speed counts."""

    labels = np.zeros(BATCH, np.int64)

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return BATCH

    def sample(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        """One image."""
        return {"image": np.random.default_rng(key[1]).standard_normal(self.shape, np.float32)}


def export(name: str, folder: Path) -> None:
    """Writes what isn't there: our graphs, below `ours`, and those of 8 bits, below `int8`."""
    ours = folder / "ours"
    experiment = load_config(find_config(name))
    model = experiment.model.build()
    model.eval()
    if not ours.is_dir():
        export_model(model, header_for(experiment), ours)
    quantized = folder / "int8"
    if not quantized.is_dir():
        new = folder / "int8.new"
        new.mkdir(exist_ok=True)
        for file in FILES["openvino"]:
            shutil.copy(ours / file, new)
        noise = Noise([model.backbone.in_chans, *model.backbone.img_size])
        lower(new, "int8", ClassificationTask(), noise)
        new.rename(quantized)


def convert(folder: Path) -> None:
    """The official graph for OpenVINO."""
    import openvino

    if not (folder / "inference.xml").is_file():
        model = openvino.Core().read_model(folder / "inference.onnx")
        openvino.save_model(model, folder / "inference.xml", compress_to_fp16=False)


def spent(run: partial) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(name: str, folder: Path, args: argparse.Namespace) -> dict[tuple[str, ...], float]:
    """How many times as fast as the official code each row is."""
    official = folder / "official"
    official.mkdir(parents=True, exist_ok=True)
    words = [TIMM.get(name, ""), args.builder, name, str(official / "inference.onnx")]
    command = shlex.join([args.peer_python, "-W", "ignore", "-c", OFFICIAL, *words])
    images = np.random.default_rng(0).standard_normal((BATCH, 3, 224, 224), np.float32)
    export(name, folder)
    runs = {}
    with Peer(command) as peer:
        convert(official)
        for row in ROWS:
            code, engine, precision = row
            place = folder / code
            if precision == "int8":
                place = folder / precision
            try:
                opened = open_engine(engine, place, precision=precision, threads=1, batch=BATCH)
                runs[row] = partial(opened, images)
            except EngineError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            runs[row]()
        seconds: dict[tuple[str, ...], list[float]] = {row: [] for row in runs}
        eager = []
        for _ in range(args.repeats):
            eager.append(peer.run())
            for row, run in runs.items():
                seconds[row].append(spent(run))
    return {row: statistics.median(eager) / statistics.median(values) for row, values in seconds.items()}


def main(argv: list[str] | None = None) -> None:
    """Measures, and prints the paragraph and the table for the page."""
    parser = argparse.ArgumentParser(description="Set exported models beside their official code.")
    parser.add_argument("models", nargs="*", default=MODELS, help=f"among {', '.join(MODELS)}")
    parser.add_argument("--peer-python", required=True, help="interpreter with torch, timm and onnx")
    parser.add_argument("--builder", default="", help="Python file with build(name)")
    parser.add_argument("--exports", type=Path, default=Path("output/reach"), help="where files are kept")
    parser.add_argument("--repeats", type=int, default=7, help="batches that count (default 7)")
    args = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    loads = [os.getloadavg()[0]]
    found = {}
    for name in args.models:
        if name in TIMM or args.builder:
            print(name, file=sys.stderr)
            found[name] = measure(name, args.exports / name, args)
            loads.append(os.getloadavg()[0])
    versions = ", ".join(versions_of(("paddlepaddle", "onnxruntime", "openvino")))
    print(
        f"{describe_cpu()}, one core of {os.cpu_count()}, load "
        f"{min(loads):.0f} to {max(loads):.0f}; {versions}; batches of {BATCH}, medians of {args.repeats}.\n"
    )
    print(f"| code | engine | numbers | {' | '.join(f'`{name}`' for name in found)} |")
    print("|---" * (3 + len(found)) + "|")
    for row in ROWS:
        cells = [f"{figures[row]:.2f}" if row in figures else "-" for figures in found.values()]
        print(f"| {' | '.join([*row, *cells])} |")


if __name__ == "__main__":
    main()
