"""PaddleSeg and PaddleDetection: whether they are installed, and how to install them. Neither is imported."""

import importlib.util
from importlib import metadata

from passl_sot.utils.require import MissingExtraError

# Both ask for versions of NumPy and OpenCV from before Python 3.11, hence without what they require; the
# extra has what they import.
INSTALL = "pip install 'passl_sot[dense]' && pip install --no-deps paddleseg==2.8.0 paddledet==2.6.0"
# By module: the name of the package, and that by which people know it.
SUITES = {"paddleseg": ("paddleseg", "PaddleSeg"), "ppdet": ("paddledet", "PaddleDetection")}


def installed_version(module: str) -> str | None:
    """The version of the suite whose module this is; None where it isn't installed."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return metadata.version(SUITES[module][0])
    except metadata.PackageNotFoundError:  # a checkout on the path
        return "unknown"


def check_suite(module: str) -> None:
    """A MissingExtraError that says how to install a suite, unless it is there."""
    if installed_version(module) is None:
        raise MissingExtraError(f"{SUITES[module][1]} is not installed: run\n  {INSTALL}")
