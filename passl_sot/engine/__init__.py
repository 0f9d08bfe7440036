"""Training, evaluation, prediction, checkpoints and processes. Nothing here knows a model family by name."""

from passl_sot.utils.require import require_paddle

require_paddle()
