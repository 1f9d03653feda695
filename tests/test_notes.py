"""The notes' checklist, sections 1 to 6, item by item: the numbers that they print, by us.

The training logs of section 2 are in `test_edge_kernel`, sizes and costs alone in `test_geometry`,
the 1-D filters in `test_filters`.
"""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

import jaxconv as jc

X = jnp.arange(9.0).reshape(3, 3)
K = jnp.arange(4.0).reshape(2, 2)
X2 = jnp.stack([X, X + 1])
K2 = jnp.stack([K, K + 1])
SIXTEEN = jnp.arange(16.0).reshape(1, 4, 4)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def assert_equal(got, want):
    np.testing.assert_array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("corr2d", [jc.corr2d, jc.reference.corr2d, jc.correlate])
def test_1_cross_correlation(corr2d):
    assert_equal(corr2d(X, K), [[19, 25], [37, 43]])
    assert_equal(corr2d(X.astype(int), K.astype(int)), [[19, 25], [37, 43]])
    assert corr2d(jnp.ones((6, 8)), jnp.ones((2, 5))).shape == (5, 4)


def test_1_the_definition_index_by_index():
    x, k = draw(5, 6), draw(2, 3, seed=1)
    y = jc.corr2d(x, k)
    for i, j in np.ndindex(4, 4):
        want = sum(x[i + a, j + b] * k[a, b] for a, b in np.ndindex(2, 3))
        np.testing.assert_allclose(y[i, j], want, rtol=1e-13)


def test_1_true_convolution_is_correlation_with_the_kernel_turned():
    x, k = draw(6, 7), draw(3, 2, seed=1)
    turned = jnp.rot90(k, 2)
    np.testing.assert_allclose(jc.convolve(x, k, "valid"), jc.corr2d(x, turned), rtol=1e-12)
    want = scipy.signal.convolve2d(x, k, "valid")
    np.testing.assert_allclose(jc.corr2d(x, turned), want, rtol=1e-12)


def test_1_a_kernel_learned_with_one_is_the_others_rotated():
    """The normal equations of both, solved exactly: patches of x against y, and x's taps turned."""
    x, k = draw(7, 8), draw(2, 3, seed=1)
    y = jc.corr2d(x, k)
    correlated = [jc.corr2d(x, np.eye(6)[n].reshape(2, 3)).ravel() for n in range(6)]
    convolved = [jc.convolve(x, np.eye(6)[n].reshape(2, 3), "valid").ravel() for n in range(6)]
    by_correlation, by_convolution = (
        np.linalg.lstsq(np.stack(columns, 1), np.ravel(y))[0].reshape(2, 3)
        for columns in (correlated, convolved)
    )
    np.testing.assert_allclose(by_correlation, k, atol=1e-12)
    np.testing.assert_allclose(by_convolution, np.rot90(by_correlation, 2), atol=1e-12)


def test_1_translation_equivariance_and_locality():
    x, k = draw(8, 9), draw(3, 3, seed=1)
    y = np.asarray(jc.corr2d(x, k))
    moved = np.asarray(jc.corr2d(np.roll(x, (2, 1), (0, 1)), k))
    np.testing.assert_allclose(moved[2:, 1:], y[:-2, :-1], rtol=1e-12)
    touched = x.copy()
    touched[4, 4] += 1
    changed = np.argwhere(np.asarray(jc.corr2d(touched, k)) != y)
    assert changed.min(0).tolist() == [2, 2]
    assert changed.max(0).tolist() == [4, 4]


def dense_matrix(k, h, w):
    """Rows: outputs, columns: inputs, both in row-major order."""
    basis = np.eye(h * w).reshape(h * w, 1, h, w)
    return np.asarray(jc.conv(basis, k[None, None])).reshape(h * w, -1).T


def test_1_a_translation_invariant_local_dense_map_is_a_convolution():
    """The dense matrix of `conv` is doubly blocked Toeplitz, with k_h * k_w free numbers."""
    h, w, kh, kw = 5, 6, 2, 3
    k = draw(kh, kw, seed=1)
    rows, columns = h - kh + 1, w - kw + 1
    matrix = dense_matrix(k, h, w)
    weight = matrix.reshape(rows, columns, h, w)  # the fully connected layer's [i, j, k, l]
    for i, j, s, t in np.ndindex(*weight.shape):
        inside = 0 <= s - i < kh and 0 <= t - j < kw
        want = k[s - i, t - j] if inside else 0.0  # depends on the difference alone
        assert weight[i, j, s, t] == want
    x = draw(h, w)
    np.testing.assert_allclose(matrix @ x.ravel(), np.ravel(jc.corr2d(x, k)), rtol=1e-12)
    assert np.unique(matrix[matrix != 0]).size == kh * kw == 6
    assert matrix.size == rows * columns * h * w == 480


@pytest.mark.parametrize("shapes", [((6,), (3,)), ((5, 6), (3, 2)), ((3, 4), (5, 2))])
def test_1_wide_convolution_commutes(shapes):
    w, x = draw(*shapes[0]), draw(*shapes[1], seed=1)
    np.testing.assert_allclose(jc.convolve(w, x, "full"), jc.convolve(x, w, "full"), rtol=1e-11)
    pads = [(n - 1, n - 1) for n in w.shape]
    narrow = jc.convolve(np.pad(x, pads), w, "valid")  # W (*) pad(X)
    np.testing.assert_allclose(narrow, jc.convolve(x, w, "full"), rtol=1e-11)
    turned_w, turned_x = np.flip(w), np.flip(x)
    left = jc.correlate(x, turned_w, "full")  # rot180(W) full X
    right = jc.correlate(w, turned_x, "full")  # rot180(X) full W
    np.testing.assert_allclose(left, right, rtol=1e-11)


def test_1_a_decaying_signal():
    """y_t = sum_k w_k x_{t-k+1} with weights 1, 1/2, 1/4."""
    x, w = draw(9), np.array([1, 1 / 2, 1 / 4])
    y = jc.convolve(x, w)[: len(x)]
    for t in range(len(x)):
        want = sum(w[k] * x[t - k] for k in range(3) if t - k >= 0)
        np.testing.assert_allclose(y[t], want, rtol=1e-12)


EDGES = jnp.ones((6, 8)).at[:, 2:6].set(0)


def test_2_a_layer_is_cross_correlation_plus_a_bias():
    layer = jc.conv(EDGES[None], jc.filters.edge()[None, None], jnp.asarray([0.5]))
    assert_equal(layer[0], jc.corr2d(EDGES, jc.filters.edge()) + 0.5)


def test_2_edge_detection():
    y = jc.corr2d(EDGES, jc.filters.edge())
    want = np.zeros((6, 7))
    want[:, 1], want[:, 5] = 1, -1
    assert_equal(y, want)
    assert_equal(jc.corr2d(EDGES.T, jc.filters.edge()), np.zeros((8, 5)))


@pytest.mark.parametrize(
    ("kernel", "options", "size"),
    [((3, 3), {"padding": 1}, (8, 8)), ((5, 3), {"padding": (2, 1)}, (8, 8)),
     ((3, 3), {"padding": 1, "stride": 2}, (4, 4)),
     ((3, 5), {"padding": (0, 1), "stride": (3, 4)}, (2, 2))],
)  # fmt: skip
def test_3_an_8x8_input(kernel, options, size):
    y = jc.conv(draw(1, 8, 8), draw(1, 1, *kernel), **options)
    assert y.shape == (1, *size) == (1, *jc.geometry.conv_output_shape((8, 8), kernel, **options))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_3_narrow_same_and_wide(rank, k):
    x, w = draw(1, *(9,) * rank), draw(1, 1, *(k,) * rank)
    for padding, length in (("valid", 9 - k + 1), ("same", 9), ("full", 9 + k - 1)):
        assert jc.conv(x, w, padding=padding).shape == (1, *(length,) * rank)
    half, rest = (k - 1) // 2, k - 1 - (k - 1) // 2
    assert_equal(jc.conv(x, w, padding="same"), jc.conv(x, w, padding=((half, rest),) * rank))
    assert (rest - half == 1) == (k % 2 == 0)  # an even kernel pads one side more


def test_3_stride_dividing_the_size():
    for n, k, s in ((12, 3, 4), (12, 5, 3), (10, 2, 5)):
        low, high = (k - 1) // 2, k - 1 - (k - 1) // 2
        y = jc.conv(draw(1, n), draw(1, 1, k), padding=((low, high),), stride=s)
        assert y.shape == (1, n // s)


def test_3_ten_layers_of_5x5_shrink_240_to_200():
    y = jnp.ones((1, 240, 240), jnp.float32)
    for _ in range(10):
        y = jc.conv(y, jnp.full((1, 1, 5, 5), 1 / 25, jnp.float32))
    assert y.shape == (1, 200, 200)


def test_4_many_inputs():
    assert_equal(jc.corr2d_multi_in(X2, K2), [[56, 72], [104, 120]])
    assert_equal(jc.reference.corr2d_multi_in(X2, K2), [[56, 72], [104, 120]])
    assert_equal(jc.corr2d_multi_in(X2, K2), jc.corr2d(X2[0], K2[0]) + jc.corr2d(X2[1], K2[1]))


@pytest.mark.parametrize(
    "function", [jc.corr2d_multi_in_out, jc.reference.corr2d_multi_in_out, jc.conv]
)
def test_4_many_outputs(function):
    y = function(X2, jnp.stack([K2, K2 + 1, K2 + 2]))
    assert_equal(y, [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]])


def test_4_a_1x1_convolution_is_a_matmul():
    x, k = draw(3, 3, 3), draw(2, 3, 1, 1, seed=1)
    y = jc.corr2d_multi_in_out_1x1(x, k)
    want = (k[:, :, 0, 0] @ x.reshape(3, 9)).reshape(2, 3, 3)
    np.testing.assert_allclose(y, want, rtol=1e-12)
    np.testing.assert_allclose(y, jc.corr2d_multi_in_out(x, k), rtol=0, atol=1e-6)
    np.testing.assert_allclose(y, jc.reference.corr2d_multi_in_out_1x1(x, k), rtol=1e-12)
    assert_equal(y, jc.corr2d_multi_in_out_1x1(x, k[:, :, 0, 0]))


def test_4_a_bias_for_each_pair_of_channels():
    x, k, b = draw(2, 5, 5), draw(3, 2, 2, 2, seed=1), draw(3, 2, seed=2)
    y = jc.conv(x, k, b)
    for p in range(3):
        want = sum(jc.corr2d(x[d], k[p, d]) + b[p, d] for d in range(2))
        np.testing.assert_allclose(y[p], want, rtol=1e-12)
    assert k.size + b.size == 3 * 2 * (2 * 2 + 1)


def test_5_stride_one():
    assert_equal(jc.pool2d(X, (2, 2)), [[4, 5], [7, 8]])
    assert_equal(jc.pool2d(X, (2, 2), "avg"), [[2, 3], [5, 6]])
    for mode in ("max", "avg"):
        assert_equal(jc.pool2d(X, (2, 2), mode), jc.reference.pool2d(X, (2, 2), mode))


def test_5_windows_that_are_not_square():
    """Height before width: one note has them exchanged."""
    x = draw(4, 6)
    assert jc.pool2d(x, (3, 2)).shape == (2, 5)
    assert_equal(jc.pool2d(x, (3, 2)), jc.reference.pool2d(x, (3, 2)))
    assert jc.pool2d(x, (3, 2))[1, 4] == x[1:4, 4:6].max()
    np.testing.assert_allclose(jc.pool2d(x, (3, 2), "avg")[1, 4], x[1:4, 4:6].mean())


@pytest.mark.parametrize(
    ("window", "options", "want"),
    [((3, 3), {}, [[10]]), ((3, 3), {"padding": 1, "stride": 2}, [[5, 7], [13, 15]]),
     ((2, 3), {"stride": (2, 3), "padding": (0, 1)}, [[5, 7], [13, 15]])],
)  # fmt: skip
def test_5_of_sixteen(window, options, want):
    assert_equal(jc.max_pool(SIXTEEN, window, **options)[0], want)
    assert_equal(jc.reference.max_pool(SIXTEEN, window, **options)[0], want)


def test_5_channels_pool_alone():
    x = jnp.concatenate([SIXTEEN, SIXTEEN + 1])
    y = jc.max_pool(x, (3, 3), padding=1, stride=2)
    assert_equal(y, [[[5, 7], [13, 15]], [[6, 8], [14, 16]]])


def test_5_a_pooled_edge_survives_a_move_by_one_pixel():
    """Columns 2..5 dark; moved by one to the right, the 2x2 maximum still reports the edge."""
    found = []
    for image in (EDGES, jnp.roll(EDGES, 1, axis=1)):
        edges = jc.corr2d(image, jc.filters.edge())
        found.append(np.asarray(jc.max_pool(edges[None], (2, 2), stride=1)[0]))
    assert not (np.asarray(EDGES) == np.roll(EDGES, 1, 1)).all()
    before, after = found
    assert (before[:, 1] == 1).all()
    assert (after[:, 1] == 1).all()


def test_6_two_layers_see_more():
    """A 2x2 over a 2x2 sees 3x3: which inputs move the output, and what the arithmetic says."""
    k = jnp.ones((1, 1, 2, 2))
    y = jc.conv(jc.conv(jnp.eye(25).reshape(25, 1, 5, 5), k), k)[:, 0, 0, 0]
    seen = np.argwhere(np.asarray(y).reshape(5, 5) != 0)
    assert (seen.min(0).tolist(), seen.max(0).tolist()) == ([0, 0], [2, 2])
    assert jc.geometry.receptive_field([((2, 2), 1, 0, 1)] * 2).size == (3, 3)


def test_6_depth_widens_it_stride_multiplies_it_and_it_can_exceed_the_input():
    layer = ((3,), 2, 1, 1)
    fields = [jc.geometry.receptive_field([layer] * depth) for depth in (1, 2, 3, 4)]
    assert [field.size[0] for field in fields] == [3, 7, 15, 31]
    assert [field.jump[0] for field in fields] == [2, 4, 8, 16]
    k, y = jnp.ones((1, 1, 3)), jnp.eye(8).reshape(8, 1, 8)
    for _ in range(3):
        y = jc.conv(y, k, stride=2, padding=1)
    assert y.shape == (8, 1, 1)
    assert (y != 0).all()  # every input of 8 is seen by the one output, whose field is 15
