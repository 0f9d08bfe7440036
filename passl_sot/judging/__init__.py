"""Judging models: on the sets that others are judged on, averages, sizes of images, features and probes."""
