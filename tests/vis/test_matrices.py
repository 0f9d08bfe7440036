"""Second-order matrices: those of the forward pass, and what normalizations do to their singular values."""

import numpy as np
import paddle
import pytest

from passl_sot.config import UserError
from passl_sot.modeling.backbones.base import Tokens
from passl_sot.modeling.classifier import Classifier
from passl_sot.modeling.heads import build_head
from passl_sot.modeling.heads.base import Matrices
from passl_sot.nn.normalization import ISQRTCOV, MatrixNorm, SvPN
from passl_sot.vis.matrices import Spectra, second_order

BERT = {"name": "BERT", "vocab_size": 16, "max_positions": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
HEAD = {"name": "SecondOrderHead", "num_classes": 3, "in_channels": 12, "num_heads": 2, "wr_dim": 4}
SO_VIT = {"name": "CrossCovarianceHead", "num_classes": 3, "in_channels": 12, "reduction": [5, 4]}
SO_VIT["normalization"] = {"name": "SvPN", "dropout": 0.5}


def mask(*lengths: int, longest: int = 8) -> paddle.Tensor:
    return paddle.to_tensor(np.arange(longest) < np.array(lengths)[:, None])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("node", "heads"),
    [
        (HEAD, 2),
        ({**HEAD, "normalization": {"name": "EPN"}, "fusion_type": "aggre_all"}, 2),
        ({**HEAD, "normalization": None}, 2),
        ({**HEAD, "representation": "GCP"}, 1),
        (SO_VIT, 1),
    ],
)
def test_they_are_those_that_are_pooled(node, heads, masked, stir):
    head = stir(build_head(node))
    head.eval()
    tokens = paddle.randn([2, 8, 12])
    given = (tokens, mask(8, 5)) if masked else (tokens,)
    before, after, norm = head.matrices(*given)
    assert before.shape == after.shape and before.shape[:2] == [2, heads]
    pooled = head.pool(*given).numpy()
    if node.get("representation") == "GCP":
        side = before.shape[-1]
        upper = np.triu_indices(side)
        np.testing.assert_allclose(after.numpy()[:, 0][:, upper[0], upper[1]], pooled, rtol=1e-5)
    elif node is SO_VIT:
        np.testing.assert_allclose(after.numpy()[:, 0].transpose(0, 2, 1).reshape(2, -1), pooled, rtol=1e-5)
    else:
        np.testing.assert_allclose(after.numpy().reshape(2, -1), pooled, rtol=1e-5)
    assert isinstance(norm, MatrixNorm)
    if type(norm) is not MatrixNorm:
        assert not np.allclose(before.numpy(), after.numpy())
    # Those before are covariances of the words, by a computation of its own.
    if node is HEAD:
        first = 1
        for i, length in enumerate((8, 5) if masked else (8, 8)):
            words = tokens[i, first:length].numpy()
            wr = words @ head.representation.wr.weight.numpy()
            w, r = wr.reshape(len(words), 2, 2, 4).transpose(1, 2, 0, 3)
            for h in range(2):
                centered = (w[h] - w[h].mean()).T @ (r[h] - r[h].mean())
                np.testing.assert_allclose(before[i, h].numpy(), centered / len(words), atol=1e-5)


def of(norm: MatrixNorm, matrices: np.ndarray) -> Spectra:
    spectra = Spectra()
    before = paddle.to_tensor(matrices.astype("float32"))
    after = norm.matrix(before.flatten(0, 1)).reshape(before.shape)
    spectra.add(Matrices(before, after, norm))
    return spectra


def with_values(values: list[float], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    u, v = (np.linalg.qr(generator.standard_normal((len(values),) * 2))[0] for _ in range(2))
    return u @ np.diag(values) @ v


def test_published_svpn_scales_the_whole_matrix():
    values = [16.0, 4.0, 1.0, 0.25]
    matrices = np.stack([with_values([c * v for v in values], i) for i, c in enumerate((1, 4, 16))])[:, None]
    spectra = of(SvPN(input_dim=4, num_iters=50, init_weight="one"), matrices)
    before, after = spectra.singular_values
    np.testing.assert_allclose(before[0, 0], values, rtol=1e-5)
    # By √s₁ and nothing else, though the paper speaks of the leading singular values.
    np.testing.assert_allclose(after, before / np.sqrt(before[..., :1]), rtol=1e-3)
    said = spectra.summary()
    assert "SvPN, power 0.5, 1 singular value, 50 iterations: a matrix is scaled as a whole" in said
    assert "s₁ is 64 before and 8 after" in said
    assert "75 % before and 75 % after" in said
    spread = np.exp(np.log([1, 4, 16]).std())
    assert f"a factor of {spread:.3g} before and {spread**0.5:.3g} after" in said


def test_more_singular_values_and_square_roots_flatten():
    values = [16.0, 4.0, 1.0, 0.25]
    matrix = with_values(values, 0)[None, None]
    spectra = of(SvPN(input_dim=4, num_sv=2, num_iters=50, init_weight="one"), matrix)
    np.testing.assert_allclose(spectra.singular_values[1][0, 0], [4, 2, 0.5, 0.125], rtol=1e-3)
    assert "becomes flatter" in spectra.verdict() and "From one item" not in spectra.summary()
    square = matrix @ matrix.transpose(0, 1, 3, 2)
    spectra = of(ISQRTCOV(input_dim=4, num_iters=20), square)
    np.testing.assert_allclose(spectra.singular_values[1][0, 0], values, rtol=1e-2)
    assert "ISQRTCOV, 20 Newton-Schulz steps: the spectrum becomes flatter" in spectra.verdict()
    steeper = of(MatrixNorm(input_dim=4), matrix)
    steeper.add(Matrices(paddle.eye(4)[None, None], paddle.to_tensor(matrix, "float32"), steeper.norm))
    assert steeper.verdict().startswith("no normalization: the spectrum becomes steeper")


def chart(figure, number: int) -> dict[str, np.ndarray]:
    axes = figure.axes[4 + number]
    return {line.get_label(): line.get_ydata() for line in axes.lines if line.get_linewidth() == 2}


@pytest.mark.parametrize("heads", [1, 3, 11])
def test_the_figure_shows_them(heads):
    generator = np.random.default_rng(0)
    spectra = of(SvPN(input_dim=5, init_weight="one"), generator.standard_normal((4, heads, 5, 5)))
    spectra.add(Matrices(*(paddle.zeros([1, heads, 5, 5]),) * 2, spectra.norm))  # a text without words
    figure = spectra.figure("a_1 $x$")
    before = spectra.means[0]
    axes = figure.axes[0]
    count = min(heads, 8)
    assert len(axes.get_xticks()) == count
    joined = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert joined.shape == (5, 6 * count - 1)
    np.testing.assert_allclose(joined[:, :5], before[0])
    np.testing.assert_allclose(joined[:, -5:], before[count - 1])
    if heads == 11:
        assert "5×5 (the first 8 of 11 heads)" in axes.get_title()
    whole, shape = chart(figure, 0), chart(figure, 1)
    logs = np.log(spectra.singular_values[0][:4])
    np.testing.assert_allclose(whole["before"], np.exp(logs.mean(axis=(0, 1))), rtol=1e-5)
    np.testing.assert_allclose(shape["before"], np.exp((logs - logs[..., :1]).mean(axis=(0, 1))), rtol=1e-5)
    assert shape["after"][0] == shape["before"][0] == 1.0
    assert figure.axes[4].get_yscale() == "log"
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    boxes += [label.get_window_extent() for axes in figure.axes[:2] for label in axes.get_xticklabels()]
    boxes.append(figure.texts[0].get_window_extent())
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_matrices_of_zeros_are_said_to_be():
    spectra = of(SvPN(input_dim=3), np.zeros((1, 2, 3, 3)))
    assert "the matrices are zero" in spectra.summary()
    assert np.ma.count(chart(spectra.figure("empty"), 0)["before"]) == 0


def test_padding_of_a_text_changes_nothing(stir):
    model = stir(Classifier(BERT, HEAD))
    ids = paddle.to_tensor([[2, 5, 7, 3, 0, 0, 0, 0]])
    padded = second_order(model, (ids, mask(4).astype("int64")))
    bare = second_order(model, (ids[:, :4], mask(4, longest=4).astype("int64")))
    assert isinstance(model.forward_features(ids, mask(4).astype("int64")), Tokens)
    for ours, theirs in zip(padded[:2], bare[:2], strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"name": "LinearHead", "num_classes": 3, "in_channels": 12}, "LinearHead with representation none"),
        ({**HEAD, "representation": "GAP"}, "SecondOrderHead with representation GAP"),
        ({**HEAD, "representation": "none"}, "SecondOrderHead with representation none"),
    ],
)
def test_heads_without_a_matrix_say_so(node, words):
    model = Classifier(BERT, node)
    with pytest.raises(UserError, match=f"{words}, has no second-order matrix"):
        second_order(model, (paddle.ones([1, 4], "int64"), paddle.ones([1, 4], "int64")))
