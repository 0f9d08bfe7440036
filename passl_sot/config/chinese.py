"""Chinese in messages: an error or a line of the log is English, with a short Chinese line behind it."""

import functools
from collections.abc import Iterable
from pathlib import Path

import yaml


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """All that is said in Chinese, from `chinese.yaml`: phrases of `kinds` of faults, and `lines`, by key."""
    # When the first is said, as commands are to start quickly.
    return yaml.safe_load(Path(__file__).with_name("chinese.yaml").read_text(encoding="utf-8"))


def zh(key: str, *, before: str = " / ", **values: object) -> str:
    """The end of an English message: a line of the table with its {placeholders} filled."""
    return before + table()["lines"][key].format(**values)


def summary(kinds: Iterable[str], names: Iterable[str]) -> str:
    """The Chinese line below faults of these kinds, with names that may have been meant; "" for none."""
    phrases = table()["kinds"]
    text = "、".join(phrases[kind] for kind in dict.fromkeys(kinds) if kind in phrases)
    if not text:
        return ""
    meant = [f"'{name}'" for name in dict.fromkeys(names)][:3]
    if meant:
        text += f"；是否想写 {'、'.join(meant)}？"
    return f"（{text}）"
