"""Files of segmenters and detectors, for PaddleSeg and PaddleDetection: where they are, what they say."""

import difflib
from pathlib import Path
from typing import Any

import yaml

from passl_sot.config.errors import ConfigError, Fault, UserError
from passl_sot.config.shipped import DENSE, config_folder, shipped_config
from passl_sot.config.yaml_text import read_text


def dense_configs() -> dict[str, Path]:
    """The shipped configs of segmenters and detectors, by name."""
    files = sorted((config_folder() / DENSE).glob("*.yaml"))
    return {path.stem: path for path in files if not path.name.startswith("_")}


def find_dense_config(name: str | Path) -> Path:
    """The file of a segmenter or detector that a path or name means; a ConfigError names the nearest."""
    path = Path(name)
    if path.is_file():
        return path
    files = dense_configs()
    if str(name) in files:
        return files[str(name)]
    if shipped := shipped_config(str(name)):
        return shipped
    near = difflib.get_close_matches(path.stem, files, n=3)
    hint = f"; `passl-sot dense list` shows the {len(files)} that are shipped"
    if near:
        hint = f"; did you mean {' or '.join(near)}?"
    raise ConfigError([Fault("", f"no file or dense config {str(name)!r}{hint}", kind="file")])


def suite_of(config: Path) -> str:
    """The suite that a file is written for, by its sections, which may come from its bases."""
    sections = _sections(config)
    if "architecture" in sections:
        return "PaddleDetection"
    if "model" in sections:
        return "PaddleSeg"
    raise UserError(
        f"{config} has neither a section `model`, for PaddleSeg, nor `architecture`, for PaddleDetection: "
        "`passl-sot dense list` names files of both"
    )


def read_meta(config: Path) -> dict[str, str]:
    """What a file and its bases say of themselves under `meta`, and the head that they build."""
    sections = _sections(config)
    meta = {"suite": suite_of(config), "head": str(sections.get("architecture", ""))}
    if isinstance(sections.get("model"), dict):
        meta["head"] = str(sections["model"].get("type"))
    return meta | {key: str(value) for key, value in (sections.get("meta") or {}).items()}


class _Loader(yaml.SafeLoader):
    """Reads PaddleDetection's tags, such as `!Trainer`, as the plain values behind them."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_Loader.add_multi_constructor("!", _plain)


def _sections(config: Path, depth: int = 0) -> dict[str, Any]:
    """The sections of a file over those of its bases, of which the first two levels are merged."""
    try:
        tree = yaml.load(read_text(str(config)), Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{config} is no YAML that can be read: {error}") from None
    if not isinstance(tree, dict) or depth > 20:
        raise UserError(f"{config} has no sections, or is its own base")
    bases: Any = tree.get("_base_", tree.get("_BASE_", []))
    if isinstance(bases, str):
        bases = [bases]
    sections: dict[str, Any] = {}
    for base in bases:
        sections |= _sections(config.parent / base, depth + 1)
    for name, value in tree.items():
        below = sections.get(name)
        if isinstance(value, dict) and isinstance(below, dict):
            value = below | value
        sections[name] = value
    return sections
