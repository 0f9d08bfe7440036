"""Runs beside each other: their curves, figures, and the settings in which they differ."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.config import ConfigError, UserError, get_config, texts, zh
from passl_sot.engine.pictures import epochs_at, series
from passl_sot.engine.run_dir import PLACE, read_metrics
from passl_sot.metrics.classification import write_table
from passl_sot.utils.figure import drawable, new_figure
from passl_sot.utils.logger import get_logger
from passl_sot.vis.page import Page, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = get_logger()
_STYLES: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 0.8, "alpha": 0.55},
    "val_raw": {"linewidth": 1.5, "marker": "o"},
    "val_ema": {"linewidth": 1.5, "marker": "^", "linestyle": "--"},
}
_FEW = 10  # runs that the usual colors tell apart
_MARKED = 40  # points of a curve that are marked
_ACROSS = 3  # names in a row of the legend
_FACTS = ("version", "paddle", "numpy", "python", "commit", "processes", "overrides")
# Figures of the second table.
_OF_TIME = [
    "run",
    "status",
    "epochs done",
    "updates",
    "minutes",
    "rate",
    "rate of",
    "memory (GB)",
    "hardware",
]


@dataclass
class Run:
    """What the folder of a run holds.

    Attributes:
        path: The folder.
        name: What tells it from the others.
        rows: Of metrics.jsonl, up to the first that is broken.
        settings: Of config.yaml: values as texts by dotted path.
        facts: Of run.json.
        faults: What can't be read, in words.
        training: Whether a process is training in it.
    """

    path: Path
    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    training: bool = False

    @property
    def score(self) -> str:
        """The name of the score that chooses the best weights; "" before the first evaluation."""
        names: list[str] = []
        for row in self.rows:
            if row["kind"] != "train":
                names = [name for name in row if name not in PLACE]
                break
        # A task that has a choice says which; the others give it first.
        chosen = self.settings.get("task.score", "")
        return chosen if chosen in names else "".join(names[:1])

    @property
    def kinds(self) -> list[str]:
        """Kinds of its rows: "train", "val_raw", "val_ema"."""
        return list(dict.fromkeys(row["kind"] for row in self.rows))

    def last(self, kind: str, name: str) -> float | None:
        """The last value of that name; None without one."""
        values = [row[name] for row in self.rows if row["kind"] == kind and name in row]
        return values[-1] if values else None


def save_comparison(folders: Sequence[Path], page: Path) -> None:
    """Writes a page, and beside it curves.png, runs.json and runs.csv.

    Args:
        folders: Of runs, which may still train.
        page: Where the page goes.

    Raises:
        UserError: A folder is none of a run, or is named twice; lists all such faults.
    """
    runs = read_runs(folders)
    for run in runs:
        for fault in run.faults:
            log.warning("%s", fault)
    figures = [figures_of(run) for run in runs]
    settings = differing(runs)
    curves = draw_curves(runs)
    _make_page(runs, figures, settings, curves).save(page)
    page.with_name("curves.png").write_bytes(png(curves))
    found = {
        "runs": [{"path": str(run.path), **row} for run, row in zip(runs, figures, strict=True)],
        "settings": {key: dict(zip(row_names(runs), row, strict=True)) for key, row in settings.items()},
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    page.with_name("runs.json").write_text(text, encoding="utf-8")
    heads = list(dict.fromkeys(name for row in figures for name in row))
    rows = (
        [*(row.get(name) for name in heads), *(values[place] for values in settings.values())]
        for place, row in enumerate(figures)
    )
    write_table(page.with_name("runs.csv"), [*heads, *settings], rows)


# -- reading --------------------------------------------------------------------------------------


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs of some folders; a UserError as of `save_comparison`."""
    faults = []
    for folder in folders:
        if not (folder / "metrics.jsonl").is_file():
            faults.append(f"{folder} holds no metrics.jsonl: name the folder of a run, as output/sot_small")
    resolved = [folder.resolve() for folder in folders]
    faults += [f"{path} is named twice" for path in dict.fromkeys(resolved) if resolved.count(path) > 1]
    if faults:
        raise UserError("\n".join(faults) + zh("no_run"))
    locked = _locked_files()
    return [_read_run(folder, name, locked) for folder, name in zip(folders, _names(resolved), strict=True)]


def row_names(runs: Sequence[Run]) -> list[str]:
    """The names of some runs."""
    return [run.name for run in runs]


def _read_run(folder: Path, name: str, locked: set[int]) -> Run:
    run = Run(folder, name)
    metrics = folder / "metrics.jsonl"
    # Of a run that trains the last line may be half written.
    lines = metrics.read_bytes().rpartition(b"\n")[0].splitlines()
    for row in read_metrics(metrics):
        numbers = [value for key, value in row.items() if key != "kind"]
        if not isinstance(row.get("epoch"), int) or not all(
            isinstance(n, int | float | None) for n in numbers
        ):
            break
        run.rows.append(row)
    if len(run.rows) < len(lines):
        run.faults.append(
            f"{metrics}:{len(run.rows) + 1}: is no row of metrics; it and what follows are left out"
        )
    elif not run.rows:
        run.faults.append(f"{metrics}: holds no rows yet")
    config = folder / "config.yaml"
    try:
        run.settings = texts(get_config(config))
    except ConfigError as error:
        run.faults.append(f"{config}: its settings are left out: {error}")
    record = folder / "run.json"
    try:
        found = json.loads(record.read_bytes())
        run.facts = found if isinstance(found, dict) else {}
    except (OSError, ValueError) as error:
        run.faults.append(f"{record}: versions and hardware are left out: {error}")
    lock = folder / ".lock"
    run.training = lock.exists() and lock.stat().st_ino in locked
    return run


def _locked_files() -> set[int]:
    """Inodes of files that are locked on this machine; asking by a lock could keep a run from starting."""
    path = Path("/proc/locks")
    if not path.exists():
        return set()
    lines = [line.split() for line in path.read_text().splitlines()]
    return {int(words[5].rpartition(":")[2]) for words in lines if len(words) > 5 and words[1] == "FLOCK"}


def _names(paths: Sequence[Path]) -> list[str]:
    """What is left of paths without the folders that begin and end all of them."""
    parts = [list(path.parts) for path in paths]
    if len(parts) == 1:
        return [paths[0].name]
    for end in (0, -1):
        while min(map(len, parts)) > 1 and len({words[end] for words in parts}) == 1:
            for words in parts:
                del words[end]
    return ["/".join(words) for words in parts]


# -- figures --------------------------------------------------------------------------------------


def figures_of(run: Run) -> dict[str, Any]:
    """The figures of a run by name; None for those that it has none of yet."""
    score = run.score
    found: dict[str, Any] = {"run": run.name, "status": _status(run), "epochs done": _epochs(run)}
    found["updates"] = max((row["step"] for row in run.rows), default=0)
    found["score"] = score or None
    for kind in ("raw", "ema"):
        rows = [row for row in run.rows if row["kind"] == f"val_{kind}" and row.get(score) is not None]
        best = max(rows, key=lambda row: row[score], default=None)
        found[f"last {kind}"] = rows[-1][score] if rows else None
        found[f"best {kind}"] = best and best[score]
        found[f"best {kind} at epoch"] = best and best["epoch"]
        found[f"loss {kind}"] = run.last(f"val_{kind}", "loss")
    found["training loss"] = run.last("train", "loss")
    times = [row["time"] for row in run.rows if row.get("time")]
    found["minutes"] = (max(times) - min(times)) / 60 if times else None
    trained = [row for row in run.rows if row["kind"] == "train"]
    rates = [name for row in trained[:1] for name in row if name.endswith("_per_s")]
    for name in rates[:1]:
        found["rate"] = statistics.median([row[name] for row in trained if row.get(name)] or [math.nan])
        found["rate of"] = name.removesuffix("_per_s")
    found["memory (GB)"] = max((row.get("memory_gb") or 0 for row in trained), default=None)
    found["hardware"] = _hardware(run)
    return found


def _epochs(run: Run) -> str:
    done = max((row["epoch"] for row in run.rows if row["kind"] != "train"), default=0)
    return f"{done} of {run.settings.get('epochs', '?')}"


def _status(run: Run) -> str:
    if run.training:
        return "training"
    done, _, total = _epochs(run).partition(" of ")
    if total == "?":
        return "unknown"
    return "complete" if done == total else "stopped"


def _hardware(run: Run) -> str:
    found = run.facts.get("hardware")
    if not isinstance(found, dict):
        return "not recorded"
    name = found.get("gpu") or f"{found.get('processor')}, {found.get('cores')} cores"
    return f"{run.facts.get('processes')} x {name}"


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings, versions and overrides that aren't the same in all runs: a text for each; "–" for none."""
    columns = []
    for run in runs:
        facts = {f"run.{key}": _said(run.facts[key]) for key in _FACTS if key in run.facts}
        # Neither where it is written nor what is published of the model is a setting of the training.
        own = {key: text for key, text in run.settings.items() if not key.startswith(("output_dir", "meta."))}
        columns.append({**own, **facts})
    found = {}
    for key in dict.fromkeys(key for column in columns for key in column):
        row = [column.get(key, "–") for column in columns]
        if len(set(row)) > 1:
            found[key] = row
    return found


def _said(fact: Any) -> str:
    return " ".join(map(str, fact)) if isinstance(fact, list) else str(fact)


# -- writing --------------------------------------------------------------------------------------


def draw_curves(runs: Sequence[Run]) -> "Figure":
    """Loss, scores and learning rate of all runs, over epochs at the left and over updates at the right."""
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    scores = dict.fromkeys(run.score for run in runs if run.score and run.score != "loss")
    panels = ["loss", *scores, "lr"]
    words, fonts = drawable(row_names(runs))
    legend = 0.25 * (1 + math.ceil(len(runs) / _ACROSS)) + 0.2
    height = 2.7 * len(panels) + legend
    figure = new_figure(13, height)
    grid = figure.subplots(len(panels), 2, sharex="col", squeeze=False)
    colors: list[Any] = [f"C{place}" for place in range(len(runs))]
    if len(runs) > _FEW:
        colors = [colormaps["turbo"](place / (len(runs) - 1)) for place in range(len(runs))]
    for (left, right), panel in zip(grid, panels, strict=True):
        for run, color in zip(runs, colors, strict=True):
            _draw_panel(left, right, run, panel, color)
        left.set_ylabel("learning rate" if panel == "lr" else panel)
        for axes in (left, right):
            axes.grid(alpha=0.3)
    for axes, name in zip(grid[-1], ("epoch", "update"), strict=True):
        axes.set_xlabel(name)
    handles = [Line2D([], [], color=color, linewidth=2) for color in colors]
    styles = [Line2D([], [], color="gray", markersize=4, **style) for style in _STYLES.values()]
    top = 1 - 0.05 / height
    figure.legend(
        styles,
        ["training", "validation, raw", "validation, EMA"],
        loc="upper right",
        ncols=3,
        bbox_to_anchor=(0.99, top),
        frameon=False,
        fontsize=9,
    )
    names = figure.legend(
        handles,
        words,
        loc="upper left",
        ncols=_ACROSS,
        prop={"family": fonts, "size": 9},
        bbox_to_anchor=(0.01, 1 - 0.3 / height),
        frameon=False,
    )
    for text in names.get_texts():
        text.set_parse_math(False)
    figure.tight_layout(rect=(0, 0, 1, 1 - legend / height))
    return figure


def _draw_panel(left: Any, right: Any, run: Run, name: str, color: Any) -> None:
    for kind in run.kinds:
        steps, values = series(run.rows, kind, name)
        style: dict[str, Any] = {"color": color, "markersize": 4, **_STYLES.get(kind, {})}
        if len(steps) > _MARKED:
            style.pop("marker", None)
        right.plot(steps, values, **style)
        left.plot(epochs_at(run.rows, steps), values, **style)


def _make_page(
    runs: Sequence[Run], figures: Sequence[dict], settings: dict[str, list[str]], curves: "Figure"
) -> Page:
    title = "A run"
    if len(runs) > 1:
        title = f"{len(runs)} runs"
    page = Page(title, "\n".join(f"{run.name}: {run.path}" for run in runs))
    faults = [fault for run in runs for fault in run.faults]
    if faults:
        page.section("Not read", "\n".join(faults))
    page.section("Curves")
    page.figure(curves, alt="loss, score and learning rate of each run over epochs and updates")
    heads = list(dict.fromkeys(name for row in figures for name in row))
    scored = ["run", *(name for name in heads if name not in _OF_TIME)]
    page.section("Figures", "After the last evaluation, and at the best one of each kind of weights.")
    page.table(scored, [[row.get(name) for name in scored] for row in figures])
    page.section(
        "Time and hardware",
        "Minutes from the first row of the log to the last, pauses included; the rate is items per second "
        "in training, the median over the log.",
    )
    page.table(_OF_TIME, [[row.get(name) for name in _OF_TIME] for row in figures])
    page.section("Settings that differ", "" if settings else "None.")
    if settings:
        page.table(["setting", *row_names(runs)], [[key, *row] for key, row in settings.items()])
    return page
