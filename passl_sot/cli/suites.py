"""`eval --suite`: several checkpoints on several sets, as one table."""

import argparse
import functools
from pathlib import Path
from typing import Any

from passl_sot.cli.command import try_outputs
from passl_sot.utils.logger import RESULT, get_logger

_SUFFIXES = (".json", ".csv", ".md", ".html")


def judge(args: argparse.Namespace) -> None:
    """Runs the suite that the arguments of `eval` describe.

    Raises:
        UserError: A set or a checkpoint is none, or doesn't fit the others.
    """
    from passl_sot.cli.data_folder import Source
    from passl_sot.engine.distributed import start
    from passl_sot.judging.sets import find_set, parse_sets
    from passl_sot.judging.suite import Entrant, run_suite
    from passl_sot.judging.table import as_markdown
    from passl_sot.published.store import local_weights

    stem = Path(args.out).with_suffix("") if args.out else None
    if stem:
        try_outputs([stem.with_suffix(suffix) for suffix in _SUFFIXES])
    # All sets first: they are the likelier to be wrong, and looked at without a model.
    groups = [find_set(name, folder, partial=args.partial) for name, folder in parse_sets(args.suite)]
    entrants = []
    for name in args.weights:
        path = local_weights(name)
        experiment = Source.of(args.config, str(path)).load(args.override)
        entrants.append(functools.partial(Entrant.read, name, path, experiment))
    world = start(experiment.device)
    rows = run_suite(entrants, groups, world, lambda rows: _write(stem, rows), tta=args.tta)
    if world.is_main:
        get_logger().log(RESULT, "\n%s", as_markdown(rows))


def _write(stem: Path | None, rows: list[dict[str, Any]]) -> None:
    """Writes the table as far as it goes: a suite may be interrupted."""
    if stem is None:
        return
    from passl_sot.judging.table import as_table, write_tables
    from passl_sot.vis.page import Page

    write_tables(stem, rows)
    page = Page("Checkpoints and sets")
    # A table for each set: checkpoints stand below each other, and columns that it lacks are left out.
    for name, folder in dict.fromkeys((row["set"], row["folder"]) for row in rows):
        page.section(name, folder)
        page.table(
            *as_table([{**row, "set": ""} for row in rows if (row["set"], row["folder"]) == (name, folder)])
        )
    page.save(stem.with_suffix(".html"))
