"""Models: backbones, heads, the classifier that joins them, and losses."""
