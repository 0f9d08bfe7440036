"""Models: backbones, heads, the classifier that joins them, and losses."""

from passl_sot.utils.require import require_paddle

require_paddle()
