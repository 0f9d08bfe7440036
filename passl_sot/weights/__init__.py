"""Files of weights: reading what others wrote without running any of it. NumPy only."""

from passl_sot.weights.errors import CheckpointError

__all__ = ["CheckpointError"]
