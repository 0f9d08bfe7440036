"""Makes docs/models.md and docs/models.json from configs, cards of published weights and models.template.

python docs/zoo.py
"""

import json
from pathlib import Path
from typing import Any

from passl_sot.config import find_config, list_models, model_config, read_card
from passl_sot.published.cards import NOT_STATED, Card, cards, unreleased

HERE = Path(__file__).resolve().parent
NOT_TRAINED = "not trained here"  # as by the `meta:` section of a config
TASKS = {"cola": "CoLA", "rte": "RTE", "mnli": "MNLI", "qnli": "QNLI"}
HEAD = (
    "config", "parameters (M)", "GMACs", "image size", "published top-1 (%)", "measured here", "weights",
    "file size", "sha256", "licence of the code", "licence of the weights",
)  # fmt: skip
HEAD_OF_MORE = (
    "name", "config", "settings", "published top-1 (%)", "weights",
    "file size", "sha256", "licence of the code", "licence of the weights",
)  # fmt: skip
HEAD_OF_TEXTS = (
    "configs", "parameters (M)", "GMACs", *TASKS.values(), "start with", "licence of the weights",
)  # fmt: skip


def entry_of(name: str, card: Card | None, start: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a model, for programs."""
    meta = read_card(name)
    entry = {
        "name": name,
        "config": "/".join(find_config(name).parts[-3:]),
        "paper": meta["paper"],
        "params_m": meta["params_m"],
        "gmacs": meta["gmacs"],
        "img_size": model_config(name)["model"]["architecture"]["img_size"],
        "published_top1": meta["published_top1"],
        "measured_top1": meta.get("measured_top1", NOT_TRAINED),
        "code_license": start.get("code_license"),
        "weights": None,
    }
    if card:
        entry |= {"code_license": card.code_license, "weights": weights_of(card)}
    return entry | {key: start[key] for key in ("nearest", "made_by") if key in start}


def is_of_texts(name: str) -> bool:
    """Whether a config is a model of texts."""
    return find_config(name).parent.name == "text"


def text_entry_of(name: str) -> dict[str, Any]:
    """All that is known of a model of texts, for programs."""
    meta = read_card(name)
    model, _, task = name.rpartition("_")
    return {
        "name": name,
        "config": "/".join(find_config(name).parts[-3:]),
        "task": TASKS[task],
        **{key: meta[key] for key in ("paper", "params_m", "gmacs", "score", "published_score", "license")},
        "measured_score": meta.get("measured_top1", NOT_TRAINED),
        "weights": model.removesuffix("_sot"),
    }


def weights_of(card: Card) -> dict[str, Any]:
    """A published file, for programs; null is what its authors don't state."""
    facts = {key: getattr(card, key) or None for key in ("file", "url", "drive", "page", "size", "sha256")}
    return {
        **facts,
        "access": card.access,
        "license": card.weights_license,
        "top1": card.top1,
        "top5": card.top5,
    }


def more_of(card: Card) -> dict[str, Any]:
    """A published file that is no config's own."""
    return {
        "name": card.name,
        "config": card.config,
        "settings": card.settings,
        "code_license": card.code_license,
        "weights": weights_of(card),
    }


def zoo() -> dict[str, list[dict[str, Any]]]:
    """The content of models.json."""
    published = cards()
    starts = unreleased()
    names = list_models()
    images = [name for name in names if not is_of_texts(name)]
    models = [entry_of(name, published.get(name), starts.get(name, {})) for name in images]
    texts = [text_entry_of(name) for name in names if is_of_texts(name)]
    more = [more_of(card) for name, card in published.items() if name not in names]
    return {"models": models, "text_models": texts, "more_weights": more}


def file_cells(weights: dict[str, Any] | None, otherwise: str = "") -> list[str]:
    """Cells on a file: link, size and checksum."""
    if weights is None:
        return [otherwise, "–", "–"]
    link = f"[{weights['file']}]({weights['url'] or weights['drive']})"
    if weights["access"] == "by hand":
        link += ", by hand"
    elif weights["drive"]:
        link += f" ([by hand]({weights['drive']}))"
    digits = weights["sha256"] or NOT_STATED
    if weights["sha256"] and len(weights["sha256"]) < 64:
        digits = f"{digits}…"
    return [link, str(weights["size"] or NOT_STATED), digits]


def shown(value: Any) -> str:
    """A cell on something that may be unknown."""
    if value is None:
        return "–"
    return str(value)


def row_of(entry: dict[str, Any]) -> list[str]:
    """A row of the table of configs."""
    weights = entry["weights"]
    top1 = shown(entry["published_top1"])
    if weights and weights["top1"] != entry["published_top1"]:
        top1 += f" (of the weights: {weights['top1']})"
    otherwise = "none released"
    if "made_by" in entry:
        otherwise = f"made by {entry['made_by']}"
    elif weights is None:
        otherwise += f"; nearest: `{entry['nearest']}`"
    return [
        f"`{entry['name']}`",
        *(str(entry[key]) for key in ("params_m", "gmacs", "img_size")),
        top1,
        str(entry["measured_top1"]),
        *file_cells(weights, otherwise),
        shown(entry["code_license"]),
        shown(weights and weights["license"]),
    ]


def row_of_more(entry: dict[str, Any]) -> list[str]:
    """A row of the table of further files."""
    weights = entry["weights"]
    settings = "<br>".join(f"`{text.removeprefix('model.')}`" for text in entry["settings"]) or "–"
    return [
        f"`{entry['name']}`",
        f"`{entry['config']}`",
        settings,
        shown(weights["top1"]),
        *file_cells(weights),
        entry["code_license"],
        weights["license"],
    ]


def rows_of_texts(entries: list[dict[str, Any]]) -> list[list[str]]:
    """The table of models of texts: a row for the configs that differ in their task alone."""
    alike: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        alike.setdefault(entry["name"].rpartition("_")[0], {})[entry["task"]] = entry
    rows = []
    for model, of_tasks in sorted(alike.items()):
        first = of_tasks["CoLA"]
        sizes = [
            span([entry[key] for entry in of_tasks.values()], digits)
            for key, digits in (("params_m", 1), ("gmacs", 2))
        ]
        scores = [f"{of_tasks[task]['published_score']:.2f}" for task in TASKS.values()]
        rows.append([f"`{model}_…`", *sizes, *scores, f"`{first['weights']}`", first["license"]])
    return rows


def span(values: list[float], digits: int) -> str:
    """The least and the greatest, or the one that there is."""
    ends = [f"{value:.{digits}f}" for value in (min(values), max(values))]
    return "–".join(dict.fromkeys(ends))


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def pages() -> dict[Path, str]:
    """Both files' texts."""
    content = zoo()
    text = (HERE / "models.template").read_text(encoding="utf-8")
    text = text.replace("@TABLE@", table(HEAD, [row_of(entry) for entry in content["models"]]))
    text = text.replace(
        "@MORE@", table(HEAD_OF_MORE, [row_of_more(entry) for entry in content["more_weights"]])
    )
    text = text.replace("@TEXTS@", table(HEAD_OF_TEXTS, rows_of_texts(content["text_models"])))
    data = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return {HERE / "models.md": text, HERE / "models.json": data}


if __name__ == "__main__":
    for path, made in pages().items():
        path.write_text(made, encoding="utf-8")
