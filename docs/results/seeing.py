"""The models of the study seen and judged: maps of the same images, how far to trust them, calibration.

    python docs/results/seeing.py [--study output/study] [--out output/seeing] [--images 100]

After docs/results/study.py, of whose runs it takes those that are done for all three heads; the same command
goes on where it was stopped. Written: seeing.json (every number), and for each data set curves_DATA.png and
maps_DATA.jpg; tables are printed.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from comparison import HEADS, StudyError, log, open_results, run_script
from scipy.stats import spearmanr

from passl_sot.cli import evaluate
from passl_sot.utils.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from passl_sot.vis.subject import Subject

BATCH = 20
SHOWN = 6  # images of a sheet
# Names in tables; figures like the authors' are made by the second.
METHODS = {"grad_sam": "Grad-SAM", "grad_cam": "Grad-CAM"}
FUSED = HEADS[2]
# A head, and the part of it that is looked at.
VIEWS = {head: (head, "all") for head in HEADS}
VIEWS |= {f"{part} of {FUSED}": (FUSED, part) for part in HEADS[:2]}
# Maps that are compared with each other: of two models, and of two parts of one.
PAIRS = (tuple(VIEWS)[:2], tuple(VIEWS)[3:])
CALIBRATION = ("top1", "loss", "ece", "adaptive_ece", "brier")


# -- runs ---------------------------------------------------------------------------------------------


def find_seeds(study: Path) -> dict[str, list[int]]:
    """Seeds by data set whose runs are done for all heads.

    Raises:
        StudyError: There are none.
    """
    path = study / "study.json"
    if not path.is_file():
        raise StudyError(f"{path} is missing: run docs/results/study.py before, or name its --out by --study")
    results = json.loads(path.read_text(encoding="utf-8"))
    runs = results["runs"]
    seeds = sorted({int(key.rpartition("/")[2]) for key in runs})
    found = {}
    for data, epochs in results["settings"]["epochs"].items():
        done = {key for key, run in runs.items() if len(run["top1"]) == epochs}
        whole = [seed for seed in seeds if all(f"{data}/{head}/{seed}" in done for head in HEADS)]
        if whole:
            found[data] = whole
    if not found:
        raise StudyError(f"{path} has no seed whose three heads are done: go on with docs/results/study.py")
    return found


def open_model(study: Path, data: str, head: str, seed: int) -> "Subject":
    """The model of a run after its last epoch."""
    from passl_sot.export.source import read_source
    from passl_sot.tasks.base import task_of
    from passl_sot.vis.subject import Subject

    model, meta = read_source(checkpoint_of(study, data, head, seed))
    return Subject(head, model, task_of(meta), meta)


def checkpoint_of(study: Path, data: str, head: str, seed: int) -> Path:
    """Its file."""
    return study / data / head / str(seed) / "study" / "last.safetensors"


def judge(checkpoint: Path, folder: Path) -> dict[str, float]:
    """Accuracy and calibration on all validation images, by `passl-sot eval`."""
    report = folder / "metrics.json"
    status = evaluate(["--quiet", "--weights", str(checkpoint), "--out", str(report)])
    if status:
        raise StudyError(f"evaluating {checkpoint} failed with status {status}")
    measured = json.loads(report.read_text(encoding="utf-8"))
    return {name: measured[name] for name in CALIBRATION}


# -- maps ---------------------------------------------------------------------------------------------


def spread_evenly(folder: Path, count: int) -> list[Path]:
    """So many of the images of a folder of classes, as many of each class as of the next."""
    paths = sorted(folder.glob("*/*"))
    return [paths[i * len(paths) // count] for i in range(min(count, len(paths)))]


def batches(subject: "Subject", paths: Sequence[Path]) -> Iterator[tuple[tuple, np.ndarray]]:
    """Inputs and labels, batch by batch."""
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        labels = np.array([subject.label_of(path) for path in part])
        yield subject.inputs([subject.read(path) for path in part]), labels


def details_of(images_nchw: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """How much images change within each cell of a grid: mean length of the gradient, ``[B, H, W]``."""
    gray = images_nchw.mean(axis=1)
    steps = [[cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx) for dx in (0, 1)] for image in gray]
    lengths = np.linalg.norm(steps, axis=1)
    return np.stack([cv2.resize(image, grid[::-1], interpolation=cv2.INTER_AREA) for image in lengths])


def rank_correlation(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's of each pair, -1 to 1, ``[B]``; 0 where a map is the same everywhere."""
    pairs = zip(maps.reshape(len(maps), -1), others.reshape(len(others), -1), strict=True)
    return np.array(
        [0 if one.std() == 0 or other.std() == 0 else spearmanr(one, other)[0] for one, other in pairs]
    )


def share_of_area(maps: np.ndarray) -> np.ndarray:
    """Over how much of an image a map is spread: 1 / (n Σp²) of its shares p of n cells, ``[B]``.

    An empty map points nowhere, as one that is the same everywhere.
    """
    shares = maps.reshape(len(maps), -1).astype(np.float64)
    shares[shares.sum(axis=1) == 0] = 1
    shares /= shares.sum(axis=1, keepdims=True)
    return 1 / (shares.shape[1] * np.square(shares).sum(axis=1))


def look(
    subject: "Subject", part: str, method: str, paths: Sequence[Path], steps: int
) -> dict[str, np.ndarray]:
    """What is measured of a model's maps of the labels: by name ``[N]`` or, of curves, ``[N, steps + 1]``."""
    from passl_sot.vis.faithfulness import faithfulness
    from passl_sot.vis.relevance import explain

    found: dict[str, list[np.ndarray]] = {}
    for inputs, labels in batches(subject, paths):
        seen = explain(subject.model, inputs, labels, method=method, part=part)
        judged = faithfulness(subject.model, inputs, seen.maps, labels, steps=steps, part=part)
        values = {
            "maps": seen.maps,
            "right": seen.logits.argmax(axis=1) == labels,
            "details": rank_correlation(seen.maps, details_of(inputs[0].numpy(), seen.maps.shape[1:])),
            "area": share_of_area(seen.maps),
            **{f"{name} curve": curve for name, curve in judged._asdict().items()},
            **judged.areas(),
            **{f"{kind}_better": better for kind, better in judged.better().items()},
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(value) for name, value in found.items()}


def summarize(seen: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The means that the page shows."""
    mean: dict[str, Any] = {name: float(value.mean()) for name, value in seen.items() if value.ndim == 1}
    for name in [name for name in seen if name.endswith(" curve")]:
        mean[name] = seen[name].mean(axis=0).round(4).tolist()
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in mean.items()}


def look_at_seed(args: argparse.Namespace, data: str, seed: int, paths: Sequence[Path]) -> dict[str, Any]:
    """Everything of the three models of a seed."""
    result: dict[str, Any] = {"calibration": {}, "views": {}, "agreement": {}}
    for head in HEADS:
        folder = args.out / data / head / str(seed)
        result["calibration"][head] = judge(checkpoint_of(args.study, data, head, seed), folder)
    subjects = {head: open_model(args.study, data, head, seed) for head in HEADS}
    for method in METHODS:
        seen = {
            view: look(subjects[head], part, method, paths, args.steps)
            for view, (head, part) in VIEWS.items()
        }
        result["views"][method] = {view: summarize(values) for view, values in seen.items()}
        pairs = {}
        for one, other in PAIRS:
            alike = rank_correlation(seen[one]["maps"], seen[other]["maps"])
            pairs[f"{one}, {other}"] = round(float(alike.mean()), 4)
        result["agreement"][method] = pairs
    return result


# -- tables -------------------------------------------------------------------------------------------


def over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of several, standard deviation."""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Markdown, by what each table is of."""
    scores = {"top1": 2, "ece": 2, "adaptive_ece": 2, "brier": 3, "loss": 3}
    calibration = ["data | head | top-1 (%) | ECE (%) | adaptive ECE (%) | Brier | loss"]
    faithfulness = ["data | method | view | insertion | random | better in | deletion | random | better in"]
    places = ["data | method | view | share of area (%) | correlation with details"]
    agreement = ["data | method | maps of | rank correlation"]
    for data in results["data"]:
        seeds = of_seeds(results, data)
        for head in HEADS:
            cells = [
                over_seeds([s["calibration"][head][name] for s in seeds], n) for name, n in scores.items()
            ]
            calibration.append(" | ".join([data, head, *cells]))
        for method, name in METHODS.items():
            for view in VIEWS:
                own = [seed["views"][method][view] for seed in seeds]
                cells = []
                for curve in ("insertion", "deletion"):
                    cells += [over_seeds([one[key] for one in own]) for key in (curve, f"random_{curve}")]
                    cells.append(f"{100 * statistics.mean(one[f'{curve}_better'] for one in own):.0f} %")
                faithfulness.append(" | ".join([data, name, view, *cells]))
                cells = [over_seeds([100 * one["area"] for one in own], 0)]
                cells.append(over_seeds([one["details"] for one in own]))
                places.append(" | ".join([data, name, view, *cells]))
            for pair in seeds[0]["agreement"][method]:
                value = over_seeds([seed["agreement"][method][pair] for seed in seeds])
                agreement.append(" | ".join([data, name, pair, value]))
    found = {"calibration": calibration, "faithfulness": faithfulness, "places": places}
    return {name: as_table(rows) for name, rows in (found | {"agreement": agreement}).items()}


def as_table(rows: Sequence[str]) -> str:
    """Rows of cells as a table, the first one as its heads."""
    lines = [f"| {row} |" for row in rows]
    lines.insert(1, "|---" * (rows[0].count("|") + 1) + "|")
    return "\n".join(lines)


# -- pictures -----------------------------------------------------------------------------------------


def draw_curves(seeds: Sequence[Mapping[str, Any]]) -> "Figure":
    """Insertion and deletion of the three heads by the first method, means over images and seeds."""
    from passl_sot.vis.curves import mean_charts
    from passl_sot.vis.faithfulness import Faithfulness

    method = next(iter(METHODS))
    views = {}
    for head in HEADS:
        own = [seed["views"][method][head] for seed in seeds]
        curves = {
            name: np.mean([one[f"{name} curve"] for one in own], axis=0) for name in Faithfulness._fields
        }
        views[head] = Faithfulness(**curves)
    return mean_charts(views)


def draw_sheet(study: Path, data: str, seed: int, paths: Sequence[Path]) -> "Figure":
    """The maps of a few images, a row each: the three models, and the parts of the fused head."""
    from passl_sot.vis import overlay
    from passl_sot.vis.pixels import fitted
    from passl_sot.vis.relevance import explain

    subjects = {head: open_model(study, data, head, seed) for head in HEADS}
    rows: dict[str, list[overlay.Panel]] = {}
    for path in paths:
        first = subjects[HEADS[0]]
        sample = first.read(path)
        label = np.array([first.label_of(path)])
        picture = first.picture(sample)
        title = f"{path.parent.name}, {path.stem}"
        rows[title] = [overlay.Panel(fitted(picture), overlay.Caption("image"))]
        for view, (head, part) in VIEWS.items():
            inputs = subjects[head].inputs([sample])
            seen = explain(subjects[head].model, inputs, label, part=part)
            best = int(seen.probabilities[0].argmax())
            verdict = f"{first.class_names[best]}: {100 * seen.probabilities[0, best]:.0f} %"
            caption = overlay.Caption(view, verdict, best == label[0])
            rows[title].append(overlay.Panel(overlay.shaded(picture, seen.maps[0]), caption))
    return overlay.sheet(f"{data}: what speaks for the label, by Grad-SAM", rows)


# -- the command --------------------------------------------------------------------------------------


def see(args: argparse.Namespace) -> int:
    """Everything that is not done yet; the exit status."""
    args.out.mkdir(parents=True, exist_ok=True)
    results = open_results(args.out / "seeing.json", {"images": args.images, "steps": args.steps})
    results["data"] = find_seeds(args.study)
    for data, seeds in results["data"].items():
        folder = args.study / "data" / data / "val"
        paths = spread_evenly(folder, args.images)
        for seed in seeds:
            key = f"{data}/{seed}"
            if key not in results["runs"]:
                log.info("%s: %d images", key, len(paths))
                results["runs"][key] = look_at_seed(args, data, seed, paths)
                keep(args.out / "seeing.json", results)
        sheet = draw_sheet(args.study, data, seeds[0], spread_evenly(folder, SHOWN))
        sheet.savefig(args.out / f"maps_{data}.jpg")
        draw_curves(of_seeds(results, data)).savefig(args.out / f"curves_{data}.png")
    keep(args.out / "seeing.json", results)
    for name, lines in tables(results).items():
        log.info("%s\n%s", name, lines)
    return 0


def keep(path: Path, results: Mapping[str, Any]) -> None:
    """Writes what was found so far, whole or not at all."""
    data = f"{json.dumps(results, indent=1)}\n".encode()
    replace_atomically(path, lambda file: file.write(data))


def of_seeds(results: Mapping[str, Any], data: str) -> list[dict[str, Any]]:
    """What was found of each seed of a data set."""
    return [results["runs"][f"{data}/{seed}"] for seed in results["data"][data]]


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(
        description="Maps, their faithfulness and calibration of the study's models."
    )
    add = parser.add_argument
    add(
        "--study",
        type=Path,
        default=Path("output/study"),
        metavar="DIR",
        help="--out of docs/results/study.py",
    )
    add("--out", type=Path, default=Path("output/seeing"), metavar="DIR", help="default output/seeing")
    add("--images", type=int, default=100, metavar="N", help="images of each data set (default 100)")
    add("--steps", type=int, default=10, metavar="N", help="of insertion and deletion (default 10)")
    return run_script(parser, see, argv)


if __name__ == "__main__":
    sys.exit(main())
