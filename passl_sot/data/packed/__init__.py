"""Packing datasets: many image files into few, with an index."""
