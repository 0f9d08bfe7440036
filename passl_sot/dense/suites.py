"""Our name in the registries of PaddleSeg and PaddleDetection."""

import logging
import sys
from typing import TextIO

from PIL import ImageFile

from passl_sot.utils.silence import silenced
from passl_sot.utils.suites import installed_version


def detection_loggers() -> list[logging.Logger]:
    """Those of PaddleDetection."""
    names = list(logging.root.manager.loggerDict)
    return [logging.getLogger(name) for name in names if name.startswith(("ppdet", "reader"))]


def send_to(stream: TextIO, logger: logging.Logger) -> None:
    """Has what a logger shows, but what it writes to files, go to a stream."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = stream


def register_in_installed() -> None:
    """Makes `PasslSotPyramid` a name in the registries of the suites that are installed."""
    if installed_version("paddleseg"):
        from paddleseg.cvlibs import manager

        from passl_sot.dense.pyramid import PasslSotPyramid

        if PasslSotPyramid.__name__ not in manager.BACKBONES.components_dict:
            manager.BACKBONES.add_component(PasslSotPyramid)
    if installed_version("ppdet"):
        with silenced():  # it complains about packages for tracking, which nothing here needs
            from ppdet.core import workspace
        # It has Pillow, in the whole process, make up what is missing of damaged files.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        for logger in detection_loggers():
            send_to(sys.stdout, logger)  # as without us; what they were made with is closed

        from passl_sot.dense.pyramid import PasslSotPyramid

        if PasslSotPyramid.__name__ not in workspace.global_config:
            workspace.register(PasslSotPyramid)
