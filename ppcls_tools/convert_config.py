"""Turns PaddleClas's config files into this project's, and back.

    python -m ppcls_tools.convert_config PaddleClas.yaml ours.yaml
    python -m ppcls_tools.convert_config --to-paddleclas sot_or_swin.yaml PaddleClas.yaml [-o key=value ...]

What the other project can't say is refused: dotted key, file and line, reason; nothing is written then.
What differs a little is printed, and stands at the top of the result. `-o` changes the source first.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from passl_sot.cli.command import guarded
from passl_sot.config import get_config
from passl_sot.config.yaml_text import dump_yaml
from passl_sot.utils.files import replace_atomically
from passl_sot.utils.logger import hush_paddle


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool; returns its exit status (0, or 2 where something can't be said)."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("src", help="file to read; with --to-paddleclas a model's name will do")
    parser.add_argument("dst", help="file to write")
    parser.add_argument("--to-paddleclas", action="store_true", help="from this project to PaddleClas")
    parser.add_argument("-o", "--override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    args = parser.parse_args(argv)
    if Path(args.dst).exists() and Path(args.src).exists() and Path(args.dst).samefile(args.src):
        parser.error(f"{args.dst} is the source itself: give the result another name")
    hush_paddle()
    return guarded(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    if args.to_paddleclas:
        tree, notes = _to_paddleclas(args.src, args.override)
    else:
        tree, notes = _to_ours(args.src, args.override)
    head = [f"# From {args.src}" + "; what differs there:" * bool(notes), *(f"#   {note}" for note in notes)]
    text = "\n".join([*head, dump_yaml(tree)])
    replace_atomically(Path(args.dst), lambda file: file.write(text.encode()))
    for note in notes:
        print(f"differs: {note}")
    print(f"wrote {args.dst}")


def _to_paddleclas(src: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    from passl_sot.engine.schema import load_config
    from passl_sot.zoo import find_config
    from ppcls_tools.to_paddleclas import to_paddleclas

    return to_paddleclas(load_config(find_config(src), overrides))


def _to_ours(src: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    from passl_sot.engine.schema import load_config
    from ppcls_tools.from_paddleclas import to_ours

    tree, notes = to_ours(get_config(src, overrides))
    load_config(src, stored=tree)  # nothing is written that a run would refuse
    return tree, notes


if __name__ == "__main__":
    sys.exit(main())
