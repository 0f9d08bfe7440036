"""Short stacks while a graph is built; whole ones before and after."""

import sys
import traceback

import pytest

from passl_sot.utils.tracing import short_stacks


def test_stacks_are_short_inside_and_whole_again_behind(monkeypatch):
    whole = len(traceback.extract_stack())
    assert whole > 5
    with short_stacks():
        assert len(traceback.extract_stack()) == 1
    with pytest.raises(ValueError, match="inside"), short_stacks():
        raise ValueError("inside")
    assert len(traceback.extract_stack()) == whole and not hasattr(sys, "tracebacklimit")
    monkeypatch.setattr(sys, "tracebacklimit", 3, raising=False)
    with short_stacks():
        assert sys.tracebacklimit == 1
    assert sys.tracebacklimit == 3
