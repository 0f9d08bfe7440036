"""Options: those that all commands share, those that stand for settings, and what is said of unknown ones."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from passl_sot.cli.other_projects import option_here, override_here
from passl_sot.config import ConfigError, did_you_mean, known_keys, nearest, same_letters, zh
from passl_sot.utils.logger import hush_paddle
from passl_sot.utils.require import MissingPaddleError, require_paddle

USAGE_ERROR = 2
# Those of `engines.base`, whose import `--help` does without.
PRECISIONS = ("f32", "bf16", "int8")
# Plain options, with the setting that each stands for.
SETTINGS = {
    "--epochs": ("epochs", "N"),
    "--batch-size": ("dataloader.train.sampler.batch_size", "N"),
    "--lr": ("lr_scheduler.learning_rate", "RATE"),
    "--seed": ("seed", "N"),
    "--output": ("output_dir", "DIR"),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what is called otherwise in other projects."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with one message."""
        self.exit(USAGE_ERROR, f"error: {message}\nsee: {self.prog} --help\n")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The arguments; a SystemExit if there are unknown ones."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            option = word.partition("=")[0]
            here = option_here(option)
            own = self._option_string_actions
            if here and option not in own and here.split()[0] in own:
                self.error(f"there is no option {option}; here it is {here}" + zh("other_name"))
        found, unknown = self.parse_known_intermixed_args(words, namespace)
        if unknown:
            self.error(self._complaint(unknown, found))
        overrides = {text: override_here(text) for text in getattr(found, "override", ())}
        named = [f"{text} is PaddleClas's; here it is {here}" for text, here in overrides.items() if here]
        if named:
            self.error("\n  ".join(named) + zh("other_name"))
        return found

    def _complaint(self, unknown: list[str], found: argparse.Namespace) -> str:
        """What to say of the first unknown option: the setting that it names, or the nearest name."""
        option, equals, value = unknown[0].partition("=")
        if not option.startswith("-"):
            return f"unexpected argument {unknown[0]!r}" + "; settings go after -o" * bool(equals)
        if not equals and len(unknown) > 1 and not unknown[1].startswith("-"):
            value = unknown[1]
        name = option.lstrip("-")
        choices = [text for text in self._option_string_actions if text.startswith("--")]
        near = nearest(option, choices, cutoff=1.0)
        if near:
            return f"there is no option {option}{did_you_mean(near)}"
        keys = _settings_of(found)
        meant = [f"-o {key}={value or '...'}" for key in _ending_in(name, keys)]
        if meant:
            return f"{option} is a setting: write {' or '.join(meant)}" + zh("option_is_setting")
        near = nearest(option, choices)
        last = nearest(name, [key.rpartition(".")[2] for key in keys])
        if last and not near:
            near = f"-o {_ending_in(last, keys)[0]}={value or '...'}"
        return f"there is no option {option}{did_you_mean(near)}"


class _Setting(argparse.Action):
    """Appends KEY=VALUE to the overrides, in the order of the command line; the key is its `const`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        # A folder may be called 2026 or null; other values are read as those of -o.
        value = json.dumps(values, ensure_ascii=False) if self.const == "output_dir" else values
        namespace.override = [*namespace.override, f"{self.const}={value}"]


def add_settings(parser: argparse.ArgumentParser, settings: dict[str, tuple[str, str]] = SETTINGS) -> None:
    """Adds plain options that stand for settings."""
    for option, (key, metavar) in settings.items():
        parser.add_argument(
            option,
            action=_Setting,
            const=key,
            metavar=metavar,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=f"-o {key}={metavar}",
        )


def numbers(text: str) -> list[int]:
    """The value of an option, as `1,8,64`."""
    try:
        return [int(word) for word in words(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"no number, or several as 1,8: {text!r}") from None


def words(text: str) -> list[str]:
    """The value of an option, as `f32,bf16`."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("nothing is named")
    return found


def _settings_of(found: argparse.Namespace) -> list[str]:
    """The settings that the command's config may have; none where it can't be read."""
    if not getattr(found, "config", None):
        return []
    hush_paddle()
    try:
        require_paddle()
        from passl_sot.engine.schema import Experiment
        from passl_sot.zoo import find_config

        return known_keys(Experiment, find_config(found.config), found.override)
    except (ConfigError, MissingPaddleError):
        return []


def _ending_in(name: str, keys: Sequence[str]) -> list[str]:
    """The keys that end in `name`, of the outermost sections that have it."""
    parts = name.count(".") + 1
    found = [key for key in keys if same_letters(name, ".".join(key.split(".")[-parts:]))]
    depth = min((key.count(".") for key in found), default=0)
    return [key for key in found if key.count(".") == depth]
