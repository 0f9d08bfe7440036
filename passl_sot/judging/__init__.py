"""Judging models: averages of several, sizes of images, features, k-NN and linear probes."""
