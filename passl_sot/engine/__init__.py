"""Training, evaluation, prediction, checkpoints and processes. Nothing here knows a model family by name."""
