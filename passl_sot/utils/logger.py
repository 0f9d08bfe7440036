"""One logger for the whole package: plain lines on standard output, above any progress bar."""

import logging
import sys


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
        handler = _AboveTheBar()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    return logger
