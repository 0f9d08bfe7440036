"""Makes the table of engines in docs/performance.md: images/s of DeiT and PiT beside their authors' figures.

    python docs/results/engines.py

Each model is timed on one core by `passl-sot benchmark --engine`, engines and precisions in turns; a
quarter of an hour on a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from passl_sot.launch.cpu_env import describe_cpu
from passl_sot.utils.cache import versions_of
from passl_sot.utils.table import markdown

# Images/s of a V100 with batches of 128, from the table in the README of PiT's authors.
PUBLISHED = {
    "deit_tiny": 2564,
    "pit_ti": 3030,
    "pit_xs": 2128,
    "deit_small": 980,
    "pit_s": 1266,
    "deit_base": 303,
    "pit_b": 348,
}
COLUMNS = (
    ("eager", "f32"),
    ("inference", "f32"),
    ("onnxruntime", "f32"),
    ("openvino", "f32"),
    ("inference", "bf16"),
    ("openvino", "bf16"),
)


def measure(name: str, batch: int, repeats: int) -> dict[str, Any]:
    """The figures of one model."""
    engines = ",".join(dict.fromkeys(engine for engine, _ in COLUMNS))
    precisions = ",".join(dict.fromkeys(precision for _, precision in COLUMNS))
    words = ["-c", name, "--engine", engines, "--precision", precisions, "--json"]
    words += ["--batch", str(batch), "--repeats", str(repeats)]
    command = [sys.executable, "-m", "passl_sot", "benchmark", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: the benchmark ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def table(results: dict[str, dict[str, Any]], batch: int) -> list[str]:
    """The rows as Markdown."""
    heads = [f"{engine} {precision}" for engine, precision in COLUMNS]
    lines = []
    for name, result in results.items():
        found = {(row["engine"], row["precision"]): row for row in result["rows"]}
        cells = [f"`{name}`", f"{result['gflops']:.1f}"]
        for column in COLUMNS:
            row = found.get(column)
            text = "-"
            if row:
                text = f"{row['images_per_s'][str(batch)]:.1f}"
            cells.append(text)
        cells.append(str(PUBLISHED.get(name, "-")))
        lines.append(cells)
    return markdown(["model", "GFLOPs", *heads, "V100, published"], lines)


def facts(results: dict[str, dict[str, Any]], batch: int, repeats: int) -> str:
    """Processor, versions, and what was measured."""
    versions = versions_of(("paddlepaddle", "onnxruntime", "openvino"))
    peaks: dict[str, float] = {}
    for result in results.values():
        for precision, speed in result["peak_gflops_per_s"].items():
            peaks[precision] = max(speed, peaks.get(precision, 0))
    speeds = ", ".join(f"{speed:.0f} GFLOP/s in {precision}" for precision, speed in peaks.items())
    return (
        f"{describe_cpu()}, one core; {', '.join(versions)}; images/s of processor "
        f"time, batches of {batch}, medians of {repeats}. A matrix product: {speeds or 'not measured'}."
    )


def main(argv: list[str] | None = None) -> None:
    """Measures, and prints the paragraph and the table for the page."""
    parser = argparse.ArgumentParser(description="Measure DeiT and PiT on all engines.")
    parser.add_argument("models", nargs="*", default=list(PUBLISHED), help="names or config files")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch (default 8)")
    parser.add_argument("--repeats", type=int, default=7, help="batches that count (default 7)")
    args = parser.parse_args(argv)
    # The processes that are started inherit it.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = {}
    for name in args.models:
        results[Path(name).stem] = measure(name, args.batch, args.repeats)
    print(facts(results, args.batch, args.repeats), "", *table(results, args.batch), sep="\n")


if __name__ == "__main__":
    main()
