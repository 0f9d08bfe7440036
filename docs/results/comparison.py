"""What the training studies have in common: runs that differ in the head alone, tables and curves of them.

A study is a config, settings of it for each head, and overrides for each data set. Each run is
`tools/train.py`; a stopped study goes on by the same command. Written into its folder: study.json (every
number), study.md (tables), study.png (curves), and a folder per run.
"""

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.cli import train
from passl_sot.cli.command import INTERRUPTED, USAGE_ERROR
from passl_sot.launch.cpu_env import tune
from passl_sot.utils.figure import new_figure
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = get_logger()
LARGEST_DIFFERENCE = 0.03
HEADS = ("ClassT", "WordT", "ClassT+WordT")


class StudyError(ValueError):
    """Something that the user can mend."""


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        config: The config of all runs.
        heads: Overrides that make each of `HEADS`: nothing else differs between the three.
        metric: The accuracy in percent as the runs' metrics call it.
        label: What the curves show.
        options: Further options of `tools/train.py`.
    """

    config: Path
    heads: Mapping[str, Sequence[str]]
    metric: str
    label: str
    options: Sequence[str] = ()


def run_command(
    parser: argparse.ArgumentParser, study: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Runs a study by a command line, with the options that all studies have; the exit status."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default 1 2 3")
    add("-o", "--override", nargs="+", default=[], metavar="KEY=VALUE", help="for every run, of each head")
    return run_script(parser, study, argv)


def run_script(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], int], argv: Sequence[str] | None
) -> int:
    """Works by a command line, with Paddle's fast settings; the exit status."""
    args = parser.parse_args(argv)
    log.info(tune())
    try:
        return work(args)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR


# -- runs ---------------------------------------------------------------------------------------------


def count_parameters(study: Study, overrides: Sequence[str]) -> dict[str, int]:
    """Trainable parameters with each head."""
    from passl_sot import Model

    models = {head: Model(study.config, [*overrides, *study.heads[head]]) for head in HEADS}
    return {
        head: sum(p.size for p in model.parameters() if not p.stop_gradient) for head, model in models.items()
    }


def check_equal(counts: dict[str, int]) -> None:
    """Refuses a comparison of models that are not of one size.

    Raises:
        StudyError: The largest has over 3 % more parameters than the smallest.
    """
    low = min(counts.values())
    high = max(counts.values())
    log.info("parameters: %s", ", ".join(f"{head} {count:,}" for head, count in counts.items()))
    if high - low > LARGEST_DIFFERENCE * low:
        raise StudyError(
            f"the heads make models of {low:,} to {high:,} parameters, {100 * (high / low - 1):.1f} % apart: "
            f"more than {100 * LARGEST_DIFFERENCE:.0f} % is no equal comparison"
        )


def open_results(path: Path, settings: dict) -> dict:
    """What earlier calls with the same settings found, or nothing yet.

    Raises:
        StudyError: The file is of other settings.
    """
    if not path.exists():
        return {"settings": settings, "parameters": {}, "runs": {}}
    results = json.loads(path.read_text(encoding="utf-8"))
    if results["settings"] != settings:
        raise StudyError(
            f"{path} is of other settings, {results['settings']}, than these, {settings}; name another --out"
        )
    return results


def planned(seeds: Sequence[int], names: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Data set, head and seed of all runs; a stopped study has whole seeds."""
    for seed in seeds:
        for name in names:
            for head in HEADS:
                yield name, head, seed


def run_one(study: Study, folder: Path, overrides: Sequence[str], run: dict) -> int:
    """Trains one run, or goes on with it, and adds what its log says to `run`; the status of training."""
    from passl_sot.engine.run_dir import read_metrics

    began = time.process_time()
    command = ["-c", str(study.config), "--resume", "auto", *study.options]
    status = train([*command, "-o", *overrides, f"output_dir={folder}"])
    run["cpu_seconds"] = round(run["cpu_seconds"] + time.process_time() - began, 1)
    metrics = folder / study.config.stem / "metrics.jsonl"
    rows = [row for row in read_metrics(metrics) if row["kind"] == "val_raw"] if metrics.exists() else []
    run["top1"] = [round(row[study.metric], 4) for row in rows]
    run["loss"] = [round(row["loss"], 4) for row in rows]
    return status


def compare_heads(
    study: Study,
    out: Path,
    seeds: Sequence[int],
    data: Mapping[str, Sequence[str]],
    settings: dict,
    override: Sequence[str],
) -> int:
    """Everything that is not done yet; the exit status.

    Args:
        study: What is compared.
        out: Where the results go.
        seeds: A run for each, of every head and data set.
        data: Overrides by data set, those of `override` among them.
        settings: What else the results depend on.
        override: For every run.
    """
    from passl_sot.engine.schema import load_config

    settings |= {
        "epochs": {name: load_config(study.config, own).epochs for name, own in data.items()},
        "config": hashlib.sha256(load_config(study.config, override).dump().encode()).hexdigest()[:16],
    }
    results = open_results(out / "study.json", settings)
    for name, own in data.items():
        results["parameters"][name] = count_parameters(study, own)
        check_equal(results["parameters"][name])
    runs = list(planned(seeds, list(data)))
    for number, (name, head, seed) in enumerate(runs, 1):
        key = f"{name}/{head}/{seed}"
        run = results["runs"].setdefault(key, {"cpu_seconds": 0.0, "top1": [], "loss": []})
        epochs = settings["epochs"][name]
        if len(run["top1"]) == epochs:
            continue
        log.info("run %d of %d: %s", number, len(runs), key)
        status = run_one(study, out / key, [*data[name], *study.heads[head], f"seed={seed}"], run)
        write_results(study, out, results)
        if status or len(run["top1"]) < epochs:
            log.info("stopped in run %d of %d; the same command goes on", number, len(runs))
            return status or INTERRUPTED
    write_results(study, out, results)
    log.info("%d runs done: %s", len(runs), out / "study.md")
    return 0


# -- results ------------------------------------------------------------------------------------------


def curves_of(results: dict, name: str, head: str) -> list[list[float]]:
    """Top-1 (%) by epoch of the finished runs of a head, a list per seed."""
    curves = [run["top1"] for key, run in results["runs"].items() if key.startswith(f"{name}/{head}/")]
    return [curve for curve in curves if len(curve) == results["settings"]["epochs"][name]]


def summary(values: Sequence[float]) -> str:
    """Mean and standard deviation of a sample; of a single value no deviation is known."""
    mean = f"{statistics.mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.2f}"


def compare(name: str, one: str, other: str, last: dict[str, list[float]]) -> str:
    """A row of the table of differences: is what lies between two heads more than what lies between seeds?"""
    ours = last[one]
    theirs = last[other]
    points = statistics.mean(ours) - statistics.mean(theirs)
    row = f"| {name} | {one} − {other} | {points:+.2f} "
    if min(len(ours), len(theirs)) < 2:
        return f"{row}| unknown | one seed |"
    pooled = math.sqrt((statistics.variance(ours) + statistics.variance(theirs)) / 2)
    apart = min(ours) > max(theirs) or min(theirs) > max(ours)
    return f"{row}| {pooled:.2f} | {'apart' if apart else 'overlap'} |"


def tables(results: dict) -> str:
    """Markdown: accuracies after the last epoch, and how the heads differ."""
    lines = [
        "| data | head | parameters | top-1 (%), mean ± deviation | each seed | CPU seconds a run |",
        "|---|---|---|---|---|---|",
    ]
    differences = [
        "| data | difference of means | points | pooled deviation | ranges of the seeds |",
        "|---|---|---|---|---|",
    ]
    for name, counts in results["parameters"].items():
        last = {head: [c[-1] for c in curves_of(results, name, head)] for head in HEADS}
        for head in (head for head in HEADS if last[head]):
            seconds = [
                r["cpu_seconds"] for k, r in results["runs"].items() if k.startswith(f"{name}/{head}/")
            ]
            each = ", ".join(f"{value:.2f}" for value in last[head])
            lines.append(
                f"| {name} | {head} | {counts[head]:,} | {summary(last[head])} | {each} "
                f"| {statistics.mean(seconds):.0f} |"
            )
        for one, other in (("ClassT+WordT", "ClassT"), ("ClassT+WordT", "WordT"), ("WordT", "ClassT")):
            if last[one] and last[other]:
                differences.append(compare(name, one, other, last))
    return "\n".join([*lines, "", *differences, ""])


def write_results(study: Study, out: Path, results: dict) -> None:
    """Writes study.json, study.md and study.png."""
    temporary = out / "study.json.tmp"
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, out / "study.json")
    (out / "study.md").write_text(tables(results), encoding="utf-8")
    drawn = [name for name in results["parameters"] if any(curves_of(results, name, head) for head in HEADS)]
    if drawn:
        draw(results, drawn, study.label).savefig(out / "study.png")


# -- picture ------------------------------------------------------------------------------------------

# Okabe and Ito's: told apart by colour-blind readers too.
COLOURS = {"ClassT": "#0072b2", "WordT": "#d55e00", "ClassT+WordT": "#008e68"}


def draw(results: dict, names: Sequence[str], label: str) -> "Figure":
    """Accuracy over epochs, a panel per data set: mean lines in bands from the worst seed to the best."""
    figure = new_figure(7.2 * len(names), 5.2)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _draw_panel(axes, results, name)
        axes.set_ylabel(label)
    figure.tight_layout()
    return figure


def _draw_panel(axes: Any, results: dict, name: str) -> None:
    curves = {head: curves_of(results, name, head) for head in HEADS if curves_of(results, name, head)}
    epochs = range(1, results["settings"]["epochs"][name] + 1)
    for head, several in curves.items():
        by_epoch = list(zip(*several, strict=True))
        mean = [statistics.mean(values) for values in by_epoch]
        said = f"{head}: {summary([curve[-1] for curve in several])}"
        axes.plot(epochs, mean, "o-", color=COLOURS[head], label=said, linewidth=2)
        worst, best = (list(map(choose, by_epoch)) for choose in (min, max))
        axes.fill_between(epochs, worst, best, color=COLOURS[head], alpha=0.18, linewidth=0)
    # From the lowest accuracy after a third of the epochs: what differs at the end is then to be seen.
    late = [value for several in curves.values() for curve in several for value in curve[len(epochs) // 3 :]]
    highest = max(value for several in curves.values() for curve in several for value in curve)
    margin = max(highest - min(late), 1) / 20
    axes.set_ylim(min(late) - margin, highest + margin)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.4)
    # Below: inside it would lie on the curves.
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": len(HEADS), "fontsize": 9}
    axes.legend(**below, title="after the last: mean ± deviation", title_fontsize=9)
    seeds = max(len(several) for several in curves.values())
    axes.set_title(f"{name}: mean and range of {seeds} seeds" if seeds > 1 else f"{name}: one seed")
