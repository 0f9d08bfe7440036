"""Segmenters and detectors on the data of dense_data.py, from scratch and for equal time; see dense.md.

    python docs/results/dense_study.py [--seconds 180] [--seeds 1,2,3] [--only NAME ...]

Run it beside data/dense. Every training is a process of its own on one core. How many steps a model gets is
measured first: as many as fit into the processor seconds. A stopped study goes on by the same command; all
numbers are in docs/results/dense/study.json, with pictures of predictions beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("dense")
STVIT = {"embed_dim": [32, 64, 160, 256], "depths": [2, 2, 4, 2], "num_heads": [1, 2, 5, 8]}
SWIN = {"embed_dim": 48, "depths": [2, 2, 4, 2], "num_heads": [3, 6, 12, 24]}


def _segmenter(model: str, settings: dict[str, Any]) -> list[str]:
    """Overrides that make a small backbone the segmenter's."""
    return [f"model.backbone.model={model}", f"+model.backbone.settings={json.dumps(settings)}"]


def _detector(model: str, settings: dict[str, Any]) -> list[str]:
    return [f"PasslSotPyramid.model={model}", f"+PasslSotPyramid.settings={json.dumps(settings)}"]


# By data and model: the config below `dense`, overrides, and the setting that says how long to train.
RUNS: dict[str, tuple[str, list[str], str]] = {
    "brain/STViT": ("brain", _segmenter("stvit_small", STVIT), "iters"),
    "brain/Swin": ("brain", _segmenter("swin_tiny", SWIN), "iters"),
    "brain/SINet": ("brain_sinet", [], "iters"),
    "brain/ENet": ("brain_enet", [], "iters"),
    "cells/STViT": ("cells", _detector("stvit_small", STVIT), "epoch"),
    "cells/Swin": ("cells", _detector("swin_tiny", SWIN), "epoch"),
    "cells/ResNet": ("cells_resnet", [], "epoch"),
    "bears/STViT": ("bears", _detector("stvit_small", STVIT), "epoch"),
    "bears/Swin": ("bears", _detector("swin_tiny", SWIN), "epoch"),
}
_TIMED = {"brain": (5, 15), "cells": (1, 2), "bears": (2, 22)}  # an epoch of bears is one step
ONE_RUN = """
import json, sys, time
from pathlib import Path
from passl_sot.dense.run import open_run
from passl_sot.modeling.stats import count_parameters

config, overrides, output, seed = json.loads(sys.argv[1])
run = open_run(Path(config), overrides)
parameters = count_parameters(run.build())
began = time.process_time()
metrics = run.train(Path(output), None, seed)
print(json.dumps({"parameters": parameters, "seconds": time.process_time() - began, **metrics}))
"""


def train(name: str, length: int, seed: int, output: Path) -> dict[str, Any]:
    """Trains so many iterations or epochs; gives metrics, parameters and processor seconds."""
    config, overrides, key = RUNS[name]
    arguments = [str(FOLDER / f"{config}.yaml"), [*overrides, f"{key}={length}"], str(output), seed]
    command = [sys.executable, "-c", ONE_RUN, json.dumps(arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def length_for(name: str, seconds: float, folder: Path) -> int:
    """The iterations or epochs that fit into processor seconds, by two short trainings."""
    short, long = _TIMED[name.partition("/")[0]]
    taken = [train(name, length, 0, folder / "timing")["seconds"] for length in (short, long)]
    each = (taken[1] - taken[0]) / (long - short)
    return max(2, round(seconds / each))


def summary(table: dict[str, Any]) -> list[str]:
    """Rows of the page: parameters, steps, then each metric's mean and seeds in percent."""
    lines = []
    for name, run in table["runs"].items():
        seeds = [run["seeds"][seed] for seed in sorted(run["seeds"])]
        metrics = [key for key in ("miou", "mask_ap", "mask_ap50", "box_ap") if key in seeds[0]]
        cells = []
        for metric in metrics:
            values = [100 * seed[metric] for seed in seeds]
            cells.append(f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})")
        size = f"{seeds[0]['parameters'] / 1e6:.2f} M"
        lines.append(f"| {name.partition('/')[2]} | {size} | {run['length']} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """The command."""
    from passl_sot.launch.cpu_env import describe_cpu, tune

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--only", nargs="+", default=list(RUNS))
    parser.add_argument("--output", type=Path, default=Path("output/dense"))
    parser.add_argument("--table", type=Path, default=FOLDER / "study.json")
    options = parser.parse_args()
    tune()  # the processes below inherit it
    os.environ["OMP_NUM_THREADS"] = "1"
    table: dict[str, Any] = {"cpu": describe_cpu(), "seconds": options.seconds, "runs": {}}
    if options.table.exists():
        table = json.loads(options.table.read_text(encoding="utf-8"))
    for name in options.only:
        known = table["runs"].setdefault(name, {"seeds": {}})
        if "length" not in known:
            known["length"] = length_for(name, options.seconds, options.output / name)
        for seed in options.seeds.split(","):
            if seed not in known["seeds"]:
                folder = options.output / name / seed
                known["seeds"][seed] = train(name, known["length"], int(seed), folder)
                print(name, known["length"], seed, known["seeds"][seed], flush=True)
            options.table.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print("\n".join(summary(table)))


if __name__ == "__main__":
    main()
