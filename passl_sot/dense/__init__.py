"""Dense prediction: our backbones as pyramids in PaddleSeg and PaddleDetection, which are driven, not forked.

Importing this package registers `PasslSotPyramid` in those of the two that are installed.
"""

from passl_sot.dense.suites import register_in_installed

register_in_installed()
