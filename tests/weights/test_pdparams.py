"""Paddle's files."""

import pickle

import numpy as np
import paddle
import pytest

from passl_sot.weights import CheckpointError
from passl_sot.weights.checkpoint import read_weights


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_writes(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Linear(3, 2), paddle.nn.BatchNorm1D(2))
    path = tmp_path / "a.pdparams"
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    got = read_weights(path)[0]
    assert got.keys() == layer.state_dict().keys()
    for name, value in layer.state_dict().items():
        assert got[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(got[name], value.numpy(), strict=True)


def test_sliced_parameters_are_joined(tmp_path):
    """How Paddle's protocols 2 and 3 write a parameter of over 1 GB; here a small one in that form."""
    whole = np.arange(6.0).reshape(2, 3)
    content = {"w@@.0": whole.reshape(-1)[:4], "w@@.1": whole.reshape(-1)[4:]}
    info = {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}}
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({**content, "UnpackBigParamInfor@@": info}))
    np.testing.assert_array_equal(read_weights(path)[0]["w"], whole)
    path.write_bytes(pickle.dumps({**content, "UnpackBigParamInfor@@": {"w": 3}}))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_weights(path)[0]
