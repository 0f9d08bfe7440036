"""The meaning of a run: each task computes steps, measures outputs and reads them."""
