"""Memory and time that a training step of a pyramid takes, by the size of the image: a table and a picture.

    python docs/results/dense_sizes.py [--sizes 128,256,...]

Each step is one image forward and backward through `PasslSotPyramid`, on one core, in a process of its own;
memory is what the process needed at most beyond what it held before. Results: docs/results/dense/sizes.json
and sizes.png.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("dense")
SIZES = "128,256,384,512,768,1024"
LARGE = {"stoken_size": [16, 8, 2, 1]}
CASES: dict[str, dict[str, Any]] = {
    "STViT-S": {"model": "stvit_small"},
    "STViT-S, recomputed": {"model": "stvit_small", "recompute": True},
    "STViT-S, windows 16, 8, 2, 1": {"model": "stvit_small", "settings": LARGE},
    "STViT-S, both": {"model": "stvit_small", "settings": LARGE, "recompute": True},
    "Swin-T": {"model": "swin_tiny"},
}
ONE_STEP = """
import json, resource, sys, time
import paddle
from passl_sot.dense.pyramid import PasslSotPyramid

case, size = json.loads(sys.argv[1]), int(sys.argv[2])
pyramid = PasslSotPyramid(**case)
pyramid.train()

def step(side):
    began = time.process_time()
    sum(x.mean() for x in pyramid(paddle.randn([1, 3, side, side]))).backward()
    pyramid.clear_gradients()
    return time.process_time() - began

step(64)  # weights, gradients and code are there
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = min(step(size) for _ in range(3))
print(json.dumps({"gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 2**20, "s": seconds}))
"""


def measure(case: dict[str, Any], size: int) -> dict[str, float]:
    """Gigabytes and processor seconds of a step."""
    command = [sys.executable, "-c", ONE_STEP, json.dumps(case), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def draw(rows: list[dict[str, Any]]) -> None:
    """Both figures of each case over the side of the image."""
    from passl_sot.utils.figure import save_curves

    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {"memory (GB)": {}, "time (s)": {}}
    for case in CASES:
        own = [row for row in rows if row["case"] == case]
        for panel, key in zip(panels, ("gb", "s"), strict=True):
            panels[panel][case] = ([row["size"] for row in own], [row[key] for row in own])
    save_curves(FOLDER / "sizes.png", "A training step of one image", "side of the image (pixels)", panels)


def main() -> None:
    """The command."""
    from passl_sot.launch.cpu_env import describe_cpu, tune

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=SIZES)
    options = parser.parse_args()
    tune()  # the processes below inherit it
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    for case, settings in CASES.items():
        for size in map(int, options.sizes.split(",")):
            row = {"case": case, "size": size, **measure(settings, size)}
            print(f"{case:30} {size:5}  {row['gb']:6.2f} GB  {row['s']:6.2f} s", flush=True)
            rows.append(row)
    (FOLDER / "sizes.json").write_text(json.dumps({"cpu": describe_cpu(), "rows": rows}, indent=1) + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
