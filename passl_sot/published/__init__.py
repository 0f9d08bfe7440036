"""Weights that models' authors have published: cards, fetching, conversion and the folder that keeps them."""
