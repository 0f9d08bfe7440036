"""`inference.yml`: how PaddleX prepares images and names classes, and below `passl_sot` our own card.

PaddleX (3.7) reads `Global`, `PreProcess` and `PostProcess`; what it can't do as it should be done is left
out, for an error there is better than wrong predictions. Our card holds the header of the checkpoint, facts
on the export, and a checksum of each file beside it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from passl_sot.config import UserError, zh
from passl_sot.data.transforms.image import CenterCrop, Normalize, Resize
from passl_sot.engines.base import STEM, EngineError, Precision
from passl_sot.tasks.base import check_card, task_of
from passl_sot.utils.files import sha256_of

FILE = f"{STEM}.yml"
LABELS = "labels.txt"
TOKENIZER = "tokenizer.json"
OURS = "passl_sot"
FORMAT = 1
_MOST_BYTES = 50_000_000
_MOST_VALUES = 1_000_000  # a hundred times those of a thousand classes
_DEEPEST = 100
_PIL = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS4"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """SafeDumper whose texts are read as they were: of some separators of lines it makes spaces."""

    def represent_text(self, data: str) -> yaml.Node:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


class ExportError(UserError, ValueError):
    """A model can't be exported, or a folder is no whole export."""


def plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A header as a checkpoint would give it back, without what it says of the training data's files."""
    return json.loads(json.dumps({key: value for key, value in meta.items() if key != "data"}))


def write_card(folder: Path, meta: Mapping[str, Any], facts: Mapping[str, Any], paddlex_name: str) -> str:
    """Writes `inference.yml`, `labels.txt` and a text model's `tokenizer.json` beside the graphs of a model.

    Args:
        folder: Holds all other files of the export.
        meta: The header of the model's checkpoint.
        facts: Further entries of our card.
        paddlex_name: The model's name for PaddleX.

    Returns:
        Why PaddleX can't use the model; "" where it can.
    """
    task: Any = task_of(meta)
    sections: dict[str, Any] = {"Global": {"model_name": paddlex_name}}
    reason = "it classifies images only"
    names = getattr(task, "class_names", None)
    if names is not None:
        lines = [f"{number} {' '.join(name.split())}\n" for number, name in enumerate(names)]
        (folder / LABELS).write_text("".join(lines), encoding="utf-8")
    if names is not None and not task.takes_texts:
        steps, reason = _steps_for_paddlex(task)
        post: dict[str, Any] = {"Topk": {"topk": min(5, len(names)), "label_list": names}}
        if task.several:
            post = {"MultiLabelThreshOutput": {"threshold": 0.5, "label_list": names}}
        if not reason:
            sections |= {"PreProcess": {"transform_ops": steps}, "PostProcess": post}
    header = plain(meta)
    if task.takes_texts:
        # Where other programs look for it, and a card can still be read by people.
        text = header["preprocessing"].pop("tokenizer")
        (folder / TOKENIZER).write_text(text, encoding="utf-8")
    card = {"format": FORMAT, **facts, "files": checksums(folder), "header": header}
    first = ""
    if reason:
        first = f"# No PreProcess, so that PaddleX refuses this model: {reason}.\n"
    # Names appear twice: YAML's marks for repeated lists, which PaddleX needn't know, are avoided by copies.
    text = yaml.dump(
        plain({**sections, OURS: card}), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000
    )
    (folder / FILE).write_text(first + text, encoding="utf-8")
    return reason


def _steps_for_paddlex(task: Any) -> tuple[list[dict[str, Any]], str]:
    """The transforms as PaddleX names them, or the reason why it can't apply them."""
    if task.channels != 3:
        return [], f"it reads RGB images, and this one has {task.channels} channel(s)"
    transforms = list(task.transforms.transforms)
    kinds = [type(transform) for transform in transforms]
    crops = kinds == [Resize, CenterCrop, Normalize]
    if not crops and kinds != [Resize, Normalize]:
        names = ", ".join(kind.__name__ for kind in kinds)
        return [], f"it resizes, crops the center and normalizes, and these images are prepared by {names}"
    resize = transforms[0]
    how: dict[str, Any] = {"backend": "pil", "interpolation": _PIL[resize.interpolation]}
    if resize.output_hw is None:
        how = {"resize_short": resize.short_side, **how}
    else:
        how = {"size": list(resize.output_hw[::-1]), **how}
    steps: list[dict[str, Any]] = [{"ResizeImage": how}]
    if crops and transforms[1].output_hw != resize.output_hw:
        if task.several:
            return [], "it crops no images of models for several labels: give Resize [height, width]"
        steps.append({"CropImage": {"size": list(transforms[1].output_hw[::-1])}})
    normalize = transforms[-1]
    figures = {"mean": list(normalize.mean), "std": list(normalize.std), "scale": 1 / 255}
    steps += [{"NormalizeImage": figures}, {"ToCHWImage": None}]
    return steps, ""


def checksums(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """SHA-256 of files in a folder, by default of all but the card."""
    if names is None:
        names = sorted(path.name for path in folder.iterdir() if path.name != FILE)
    return {name: sha256_of(folder / name) for name in names}


def read_facts(folder: Path) -> dict[str, Any]:
    """Our card of an exported folder, whose files aren't looked at.

    Raises:
        ExportError: There is none, or it is damaged or of a newer version.
    """
    path = folder / FILE
    if not path.is_file():
        raise ExportError(
            f"{folder} is no exported model: it has no {FILE}. Name a folder that `passl-sot export` wrote, "
            "or a checkpoint's file"
        )
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES / 1e6:g} MB")
        content = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    # Of a value that isn't of its tag PyYAML raises errors of many types.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is damaged: it is no YAML text ({error})") from error
    if not isinstance(content, dict) or OURS not in content:
        raise ExportError(
            f"{path} was written by another program: it has no entry {OURS}, which `passl-sot export` writes"
        )
    card = content[OURS]
    version = card.get("format") if isinstance(card, dict) else None
    if type(version) is not int or version < 1:
        raise ExportError(f"{path} is damaged: its entry {OURS} has no format number")
    if version > FORMAT:
        raise ExportError(
            f"{path} is of format {version}, written by a newer version of passl_sot; this one reads up to "
            f"format {FORMAT}: update passl_sot" + zh("written_by_newer")
        )
    for key in ("files", "header"):
        if not isinstance(card.get(key), dict):
            raise ExportError(f"{path} is damaged: its entry {OURS} has no {key}")
    _check_values(path, card)
    return card


def _check_values(path: Path, card: dict[str, Any]) -> None:
    """Refuses what the JSON text of a header can't hold, and aliases that make a short text enormous."""
    left: list[tuple[Any, int]] = [(card, 0)]
    count = 0
    while left:
        value, depth = left.pop()
        parts: list[Any] = []
        if isinstance(value, dict):
            parts = [*value, *value.values()]
        elif isinstance(value, list):
            parts = value
        elif type(value) not in (str, int, float, bool, type(None)):
            raise ExportError(f"{path} is damaged: its entry {OURS} holds a {type(value).__name__}")
        count += len(parts)
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise ExportError(f"{path} is damaged: its entry {OURS} holds too much (do aliases multiply?)")
        left += [(part, depth + 1) for part in parts]


def read_card(folder: Path) -> dict[str, Any]:
    """The header of the checkpoint from which a folder was exported; its files are as they were written.

    A format that was deleted since is no fault: other engines can still be opened.

    Raises:
        ExportError: As of `read_facts`; or a file was changed since, or a text model's tokenizer is missing.
        CheckpointError: The header lacks something.
    """
    card = read_facts(folder)
    if not all(isinstance(name, str) for name in card["files"]):
        raise ExportError(f"{folder / FILE} is damaged: its entry {OURS} names files by numbers")
    there = [name for name in card["files"] if name == Path(name).name and (folder / name).is_file()]
    for name, found in checksums(folder, there).items():
        if found != card["files"][name]:
            raise ExportError(
                f"{folder / name} is not the file that was exported: changed or damaged since; export anew"
            )
    header = card["header"]
    if TOKENIZER in card["files"]:
        if TOKENIZER not in there:
            raise ExportError(f"{folder} has no {TOKENIZER}, without which it reads no texts: export anew")
        if isinstance(header.get("preprocessing"), dict):
            header["preprocessing"]["tokenizer"] = (folder / TOKENIZER).read_text(encoding="utf-8")
    check_card(folder / FILE, header)
    return header


def precision_of(folder: Path, asked: Precision | None = None) -> Precision:
    """The folder's own, or what is asked for: a float32 graph may be computed in bfloat16 too.

    Raises:
        EngineError: It was exported in other numbers.
    """
    has: Precision = read_facts(folder).get("precision", "f32")
    precision = asked or has
    if has != precision and (has, precision) != ("f32", "bf16"):
        raise EngineError(
            f"{folder} was exported in {has}, not in {precision}: leave the precision out, or export it anew"
        )
    return precision
