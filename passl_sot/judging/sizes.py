"""The resolution curve: how a model does on images of other sizes than those of its training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passl_sot.engine.distributed import World
from passl_sot.engine.entry import weights_by_kind, write_json
from passl_sot.engine.evaluate import Evaluation
from passl_sot.engine.schema import Experiment
from passl_sot.export.card import ExportError
from passl_sot.export.source import change_size
from passl_sot.judging.speed import Stopwatch
from passl_sot.metrics.classification import write_table
from passl_sot.tasks.base import header_for, model_section_of
from passl_sot.utils.figure import save_curves
from passl_sot.utils.logger import RESULT, get_logger
from passl_sot.utils.table import markdown
from passl_sot.weights import state
from passl_sot.weights.checkpoint import Checkpoint

log = get_logger()


def resolution_curve(
    experiment: Experiment,
    weights: str | Checkpoint,
    sizes: Sequence[int],
    out: Path | None,
    world: World,
    *,
    tta: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Evaluates the weights that chose a run's best at several sizes, by the model's own `resize`.

    Resizing and cropping keep their proportion to the model's size. Sizes that it can't take are named.

    Args:
        experiment: It brings the data.
        weights: A file, or what stands in one.
        sizes: Sides of square images, in pixels.
        out: A `.json` to write; `sizes.csv` and `sizes.png` come beside it.
        tta: Views of `tasks.views`.

    Returns:
        A row for each size: `size`; the scores and `images_per_s`, of one process, without reading, all views
        counted as one image; or `error`, why there are none.

    Raises:
        CheckpointError: The weights don't fit the model, or their classes aren't those of the data.
        ExportError: The model takes no images.
    """
    by_kind, card = weights_by_kind(weights)
    section = model_section_of(card) if card else experiment.model
    header = card or header_for(experiment)
    name = str(getattr(weights, "path", weights))
    rows: list[dict[str, Any]] = []
    for size in sizes:
        # Built anew for each: tables are interpolated from the trained ones, not from interpolated ones.
        model = section.build()
        state.load_model(model, by_kind[header.get("best_by", "raw")], name)
        try:
            sized = change_size(model, header, size)
        except ExportError:  # it takes no images at all
            raise
        except ValueError as error:
            rows.append({"size": size, "error": str(error)})
            continue
        evaluation = Evaluation(experiment, model, sized, world, tta=tta)
        with Stopwatch(evaluation.asked) as watch:
            scores = evaluation.run(f"size {size}").result()
        rows.append({"size": size, **scores, "images_per_s": watch.rate(world)})
    if world.is_main:
        log.log(RESULT, "%s at other sizes:\n%s", name, "\n".join(_table(rows)))
        if out:
            files = _write(out, rows, Path(name).name)
            log.info("written: %s", ", ".join(map(str, files)))
    return rows


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of all rows; the reason why one lacks them last."""
    names = dict.fromkeys(key for row in rows for key in row)
    return sorted(names, key=lambda name: name == "error")


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    heads = _columns(rows)
    return markdown(heads, [[row.get(head, "") for head in heads] for row in rows])


def _write(out: Path, rows: list[dict[str, Any]], title: str) -> list[Path]:
    files = [out, *(out.parent / f"sizes.{ending}" for ending in ("csv", "png"))]
    write_json(out, {"sizes": rows})
    heads = _columns(rows)
    write_table(files[1], heads, ([row.get(head, "") for head in heads] for row in rows))
    taken = sorted((row for row in rows if "error" not in row), key=lambda row: row["size"])
    shown = {"top1": "top-1 (%)", "map": "mean average precision (%)", "ece": "ECE (%)"}
    shown["images_per_s"] = "images/s"
    sides = [row["size"] for row in taken]
    panels = {
        label: {title: (sides, [row[key] for row in taken])}
        for key, label in shown.items()
        if taken and key in taken[0]
    }
    save_curves(files[2], title, "side of the images (pixels)", panels)
    return files
