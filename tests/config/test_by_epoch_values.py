"""Schedules of values over epochs."""

import pytest

from passl_sot.config import value_of_epoch


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.3, {0: 0.3, 99: 0.3}),
        ({"0": 0.4, "260": 0.6}, {-1: 0.4, 0: 0.4, 259: 0.4, 260: 0.6, 299: 0.6}),
        ({3: 0.2, 0: 0.1}, {2: 0.1, 3: 0.2}),
        ({"0": 0.0, "10": 0.2, "between": "linear"}, {0: 0.0, 1: 0.02, 5: 0.1, 10: 0.2, 300: 0.2}),
        ({"between": "linear", "4": 1, "0": 1, "8": 0}, {0: 1, 3: 1, 4: 1, 6: 0.5, 8: 0, 9: 0}),
        ({"0": 0.7, "between": "linear"}, {0: 0.7, 50: 0.7}),
    ],
)
def test_values(value, expected):
    assert {epoch: value_of_epoch("x", value, epoch) for epoch in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"1": 0.1}, r"x: a schedule starts at epoch 0, got \['1'\]"),
        ({}, "x: a schedule starts at epoch 0"),
        ({"between": "linear"}, "x: a schedule starts at epoch 0"),
        ({"first": 0.1}, "x: the keys of a schedule are epochs, got {'first': 0.1}"),
        ({"0": 0.1, "5": "linear"}, "x: epoch 5 needs a number, got 'linear'"),
        ({"0": 0.1, "between": 0.5}, "x: between is linear or left out, got 0.5"),
    ],
)
def test_what_is_refused(value, words):
    with pytest.raises(ValueError, match=words):
        value_of_epoch("x", value, 0)
