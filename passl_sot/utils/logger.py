"""One logger for the whole package: plain lines on standard output, above any progress bar; and the bars."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

RESULT = 25  # level of what a command was asked for, which is said with -q too


class _AboveTheBar(logging.StreamHandler):
    """Writes a line to today's `sys.stdout`; where a tqdm bar is drawn, it is moved down first."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            tqdm = sys.modules.get("tqdm")
            if tqdm is not None:
                tqdm.tqdm.write(text, file=sys.stdout)
            else:
                sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except Exception:  # logging's own rule: a log line never ends the program
            self.handleError(record)


def get_logger() -> logging.Logger:
    """The package's logger, with its handler attached once."""
    logger = logging.getLogger("passl_sot")
    if not logger.handlers:
        logging.addLevelName(RESULT, "INFO")
        handler = _AboveTheBar()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger


def hush_paddle() -> None:
    """Takes away Paddle's notices and warnings, which need no action; call before importing it."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    warnings.filterwarnings("ignore", module=r"paddle(\.|$)")
    # Its level is set when Paddle is imported; a filter stays.
    logging.getLogger("paddle.distributed.fleet.utils.log_util").addFilter(_is_warning)
    # Paddle and visualdl show what others say of themselves, such as matplotlib of its list of fonts.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


@contextmanager
def progress_bar(iterable: Iterable | None = None, *, shown: bool = True, **options: Any) -> "Iterator[tqdm]":
    """A tqdm bar that is gone at the end of its `with` block, however that ends: nothing is glued to it.

    It is drawn on a terminal alone, where `shown`, and not where the logger is quieter than INFO.
    """
    from tqdm import tqdm  # a command that draws none starts without it

    drawn = shown and sys.stderr.isatty() and get_logger().isEnabledFor(logging.INFO)
    with tqdm(iterable, disable=not drawn, leave=False, dynamic_ncols=True, **options) as bar:
        yield bar
