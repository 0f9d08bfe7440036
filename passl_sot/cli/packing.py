"""`tools/make_cache.py`: a packed copy of a dataset, from which training reads faster."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING

from passl_sot.cli.command import command, fail, guarded, make_parser, prepare
from passl_sot.cli.options import Parser
from passl_sot.config import zh
from passl_sot.launch.cpu_env import usable_cores
from passl_sot.utils.logger import get_logger

if TYPE_CHECKING:
    from passl_sot.data.datasets.labelled import LabelledImages


def _parser() -> Parser:
    does = "Pack a dataset into a few large files; an interrupted run goes on when it is started again."
    parser = make_parser("make-cache", does, config=False, computes=False)
    add = parser.add_argument
    add(
        "data", metavar="DATA", help="folder (train/ and val/, or classes), list file, tar files, packed copy"
    )
    add("out", metavar="OUT", help="folder to make; train/ and val/ in it where DATA has both")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="store pixels: large, but nothing is left to decode")
    how.add_argument("--tile-only", action="store_true", help="store files as they are, JPEG in tiles")
    add("--short-side", type=int, metavar="N", help="pixels, default 320 (288 with --raw); never enlarges")
    add("--quality", type=int, metavar="Q", help="of JPEG, 1 to 100, default 90")
    add("--processes", type=int, metavar="N", help="default: one for each core")
    add("--dataroot", default=".", metavar="DIR", help="folder that the paths of a list file start from")
    add("--class-names", metavar="FILE", help="names of the classes of a list file or of tar files")
    several = "the list gives several labels per image, as ListFile's multi_label says"
    add("--multi-label", nargs="?", const=True, default=False, choices=("multi_hot",), help=several)
    add("--verify", action="store_true", help="only compare all of OUT with its checksums and with DATA")
    return parser


def _check(parser: Parser, args: argparse.Namespace) -> None:
    if args.tile_only and (args.short_side is not None or args.quality is not None):
        parser.error("--tile-only leaves pixels as they are: leave out --short-side and --quality")
    if args.raw and args.quality is not None:
        parser.error("--raw stores pixels: leave out --quality")
    if args.short_side is not None and args.short_side < 1:
        parser.error("--short-side must be at least 1")
    if args.quality is not None and not 1 <= args.quality <= 100:
        parser.error("--quality must be from 1 to 100")
    if args.processes is not None and args.processes < 1:
        parser.error("--processes must be at least 1")


@command
def make_cache(argv: list[str] | None = None) -> int:
    """`tools/make_cache.py`: packs a dataset, or what an interrupted run left of it; or verifies one."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(words)
    _check(parser, args)
    prepare(args)
    return guarded(lambda: _verify(args) if args.verify else _pack(args, words), paddle=False)


def _pack(args: argparse.Namespace, words: list[str]) -> int | None:
    from passl_sot.data.packed.record import Recipe
    from passl_sot.data.packed.writer import make_job, pack
    from passl_sot.imageio.kernels import jit

    if args.tile_only and not jit.available():
        return fail("--tile-only needs numba, which isn't installed: pip install 'passl_sot[fast]'")
    if args.tile_only:
        recipe = Recipe(kind="files", short_side=None)
    elif args.raw:
        recipe = Recipe(kind="pixels", short_side=args.short_side or 288)
    else:
        recipe = Recipe(kind="files", short_side=args.short_side or 320, quality=args.quality or 90)
    # All are looked at before the first is packed.
    jobs = [make_job(source, folder, recipe) for folder, source in _sources(args).items()]
    for job in jobs:
        pack(
            job,
            processes=args.processes or usable_cores(),
            command=shlex.join(["python", "tools/make_cache.py", *words]),
            say=get_logger().info,
            progress=True,
        )
    return None


def _sources(args: argparse.Namespace) -> dict[str, LabelledImages]:
    """The splits of DATA, by the folders that hold or will hold their copies."""
    from passl_sot.data.packed.sources import open_source, splits_of

    options = {"dataroot": args.dataroot, "class_names": args.class_names, "multi_label": args.multi_label}
    out = os.path.expanduser(args.out)
    splits = splits_of(args.data, out)
    return {os.path.join(out, name) if name else out: open_source(data, **options) for name, data in splits}


def _verify(args: argparse.Namespace) -> None:
    from passl_sot.data.packed.format import is_packed
    from passl_sot.data.packed.writer import compare, verify

    say = get_logger().info
    out = os.path.expanduser(args.out)
    inside = [os.path.join(out, name) for name in ("train", "val")]
    # Who has packed may have removed what was packed; a pattern of tar files must fit some.
    there = os.path.exists(os.path.expanduser(args.data)) or args.data.endswith(".tar")
    sources = _sources(args) if there else {}
    for folder in [path for path in inside if is_packed(path)] or [out]:
        count = verify(folder, progress=True)
        say("%s: all %s images have their checksums" + zh("checksums_right"), folder, f"{count:,}")
        if folder in sources:
            say("%s", compare(sources[folder], folder, progress=True))
        else:
            say("%s: only its checksums were compared, as %s isn't there", folder, args.data)
