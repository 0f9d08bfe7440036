"""`passl-sot visualize`: pictures of what trained models look at."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passl_sot.cli.command import command, guarded, make_parser, prepare, try_outputs
from passl_sot.config import UserError
from passl_sot.config.errors import listing
from passl_sot.utils.logger import RESULT, get_logger

if TYPE_CHECKING:
    from passl_sot.vis.page import Page
    from passl_sot.vis.subject import Subject

PAGE = "index.html"
SUFFIXES = (".safetensors", ".pdparams")
# Draws items into a folder and a page; gives a line for each that can't be read.
Show = Callable[["Sequence[Subject]", Sequence[Any], argparse.Namespace, Path, "Page"], list[str]]


@command
def visualize(argv: list[str] | None = None) -> int:
    """`passl-sot visualize`: draws what trained models look at, and measures how far that can be trusted."""
    args = _parse(argv)
    prepare(args)
    return guarded(lambda: _visualize(args))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = make_parser("visualize", "Draw what trained models look at, in images or texts.", required=False)
    add = parser.add_argument
    weights = (
        "a checkpoint, a published name (deit_small), or with -c bare weights; several stand side by side"
    )
    add("--weights", required=True, nargs="+", action="extend", metavar="W", help=weights)
    paths = "image, folder (named by a class, it is the label), pattern, or .txt list of images; .txt, .csv, "
    paths += ".tsv or .jsonl of texts, or - for lines of standard input"
    add("paths", nargs="*", metavar="PATH", help=paths)
    add("--text", nargs="+", action="append", default=[], metavar="TEXT", help="a text, or two of a pair")
    add("--columns", metavar="A[,B]", help="columns of the texts in a table; default: their usual names")
    add("--out", required=True, metavar="DIR", help=f"gets {PAGE}, a PNG of each item, and tables")
    shown = "maps of what speaks for a class (default); tokens: how an image becomes them, and super tokens; "
    shown += "matrices: the second-order ones of the head, before and after normalization"
    add("--show", choices=tuple(SHOWN), default="maps", help=shown)
    named = "the class that maps are of, by name or number; default: the label, else what is predicted"
    add("--class", dest="named", metavar="NAME", help=named)
    add("--top-k", type=int, default=0, metavar="K", help="maps of the K most probable classes instead")
    add("--method", metavar="NAME", help="such as grad_cam, rollout; default: the model's most faithful")
    add("--parts", action="store_true", help="a fused head by its parts: ClassT, WordT, ClassT+WordT")
    steps = "of insertion and deletion, by which maps are judged (default 10; 0: don't)"
    add("--steps", type=int, default=10, metavar="N", help=steps)
    add("--limit", type=int, default=100, metavar="N", help="of more items N, spread evenly (default 100)")
    add("--batch-size", type=int, default=8, metavar="N", help="items per forward pass (default 8)")
    add("--use", choices=("raw", "ema"), help="which weights; default: what chose the best")
    args = parser.parse_args(argv)
    _tell_apart(args)
    if bool(args.paths) == bool(args.text):
        parser.error("name what to look at: PATH or --text")
    if any(len(texts) > 2 for texts in args.text):
        parser.error("--text takes a text, or two of a pair; write --text once for each")
    if args.named is not None and args.top_k:
        parser.error("--class and --top-k: not allowed together")
    given = [name for key, name in _OF_MAPS.items() if getattr(args, key) != parser.get_default(key)]
    if args.show != "maps" and given:
        parser.error(f"{given[0]} goes with --show maps")
    if args.override and not args.config:
        parser.error("-o changes a config: name one with -c")
    if min(args.limit, args.batch_size) < 1 or min(args.top_k, args.steps) < 0:
        parser.error("--limit and --batch-size must be at least 1, --top-k and --steps at least 0")
    return args


def _tell_apart(args: argparse.Namespace) -> None:
    """Finds the first PATH among what follows `--weights`, where argparse has put it."""
    from passl_sot.published.store import is_published_name

    for place, given in enumerate(args.weights[1:], 1):
        path = Path(given)
        whole = path.suffix in SUFFIXES or any(Path(f"{given}{suffix}").is_file() for suffix in SUFFIXES)
        if not whole and (path.exists() or not is_published_name(given)):
            args.paths = [*args.weights[place:], *args.paths]
            args.weights = args.weights[:place]
            return


def _visualize(args: argparse.Namespace) -> int:
    from passl_sot.cli.results import items_of
    from passl_sot.vis.page import Page
    from passl_sot.vis.subject import check_alike

    out = Path(args.out)
    try_outputs([out / PAGE])
    subjects = _open(args)
    check_alike(subjects)
    items = items_of(args, subjects[0].task)
    facts = [f"{subject.name}: {path}" for subject, path in zip(subjects, args.weights, strict=True)]
    if len(items) > args.limit:
        line = f"{args.limit} of {len(items)} {subjects[0].task.words.items}, spread evenly; see --limit"
        get_logger().info(line)
        facts.append(line)
        items = [items[i * len(items) // args.limit] for i in range(args.limit)]
    named = ", ".join(subject.name for subject in subjects)
    page = Page(f"{_TITLES[args.show]}: {named}"[:200], "\n".join(facts))
    with pictures_in(out) as folder:
        errors = SHOWN[args.show](subjects, items, args, folder, page)
        if len(errors) == len(items):
            raise UserError("\n".join(errors))
        page.save(folder / PAGE)
    for error in errors:
        get_logger().warning("unreadable: %s", error)
    get_logger().log(RESULT, "%d of %d drawn: see %s", len(items) - len(errors), len(items), out / PAGE)
    return 0


@contextmanager
def pictures_in(out: Path) -> Iterator[Path]:
    """A new folder whose files are moved into `out` when the block ends well; see `folder_filled`.

    A line of the log tells what `out` holds besides: pictures of another day are easily taken for these.
    """
    from passl_sot.utils.files import folder_filled

    with folder_filled(out) as folder:
        yield folder
        drawn = {path.name for path in folder.iterdir()}
    older = sorted(path.name for path in out.iterdir() if path.name not in drawn)
    if older:
        get_logger().warning("%s also holds what was not drawn now: %s", out, listing(older, 5))


def _open(args: argparse.Namespace) -> "list[Subject]":
    """The models that `--weights` names."""
    from passl_sot.engine.schema import load_config
    from passl_sot.export.source import read_source
    from passl_sot.published.store import local_weights
    from passl_sot.tasks.base import task_of
    from passl_sot.vis.subject import Subject, VisualizeError
    from passl_sot.zoo import find_config, load_weights

    experiment = None
    if args.config:
        experiment = load_config(find_config(args.config), args.override)
    subjects = []
    for name, given in zip(_names(args.weights), args.weights, strict=True):
        if Path(given).is_dir():
            raise VisualizeError(f"{given} is a folder: gradients need a checkpoint, which `train` writes")
        path = local_weights(given)
        model, meta = read_source(path, experiment, prefer=args.use)
        if experiment is not None:
            load_weights(model, path)
        subjects.append(Subject(name, model, task_of(meta), meta))
    return subjects


def _names(weights: Sequence[str]) -> list[str]:
    """Short names that tell weights apart: of the files with the folders that they are in, their runs."""
    paths = [Path(given) for given in weights]
    for depth in range(2, max(len(path.parts) for path in paths) + 2):
        names = ["/".join([*path.parent.parts, path.stem][-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({number})" for number, path in enumerate(weights, 1)]


def _show_maps(
    subjects: "Sequence[Subject]", items: Sequence[Any], args: argparse.Namespace, folder: Path, page: "Page"
) -> list[str]:
    """Maps of what speaks for a class; see `Show`."""
    from passl_sot.vis.drawer import draw_maps
    from passl_sot.vis.maps import views_of

    views = views_of(subjects, parts=args.parts, method=args.method)
    asked = None
    if args.named is not None:
        asked = subjects[0].find_class(args.named)
    options = {"batch_size": args.batch_size, "asked": asked, "top_k": args.top_k, "steps": args.steps}
    return draw_maps(views, items, folder, page, **options)


def _show_inside(
    subjects: "Sequence[Subject]", items: Sequence[Any], args: argparse.Namespace, folder: Path, page: "Page"
) -> list[str]:
    """How images become tokens, or second-order matrices; see `Show`."""
    from passl_sot.vis.inside import draw_matrices, draw_tokens

    draw = {"tokens": draw_tokens, "matrices": draw_matrices}[args.show]
    return draw(subjects, items, folder, page, batch_size=args.batch_size)


SHOWN: dict[str, Show] = {"maps": _show_maps, "tokens": _show_inside, "matrices": _show_inside}
_TITLES = {
    "maps": "What a model looks at",
    "tokens": "How an image becomes tokens",
    "matrices": "Second-order matrices",
}
# Options that say something of maps alone, by their names among the arguments.
_OF_MAPS = {"named": "--class", "top_k": "--top-k", "method": "--method", "parts": "--parts"}
_OF_MAPS["steps"] = "--steps"
