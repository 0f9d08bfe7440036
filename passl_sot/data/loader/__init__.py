"""Which images are read when, by which process, and how batches reach the model."""
