"""Filters: their values, `apply` against `scipy.ndimage`, and what they do to signals."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TOLERANCE
from jax.test_util import check_grads
from scipy import ndimage

import jaxconv as jc
from jaxconv import filters

F64, F32 = jnp.float64, jnp.float32

#: Our padding modes and scipy's words for them.
MODES = {"reflect": "mirror", "replicate": "nearest", "circular": "wrap", "zeros": "constant"}
modes = pytest.mark.parametrize(("ours", "scipys"), MODES.items(), ids=MODES)


def noise(*shape: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng([20, *shape]).normal(size=shape).astype(dtype)


def assert_close(got: jax.Array, expected: Any, dtype: Any = F64) -> None:
    assert got.dtype == dtype
    assert got.shape == np.shape(expected)
    tolerance = TOLERANCE[np.dtype(dtype).name]
    np.testing.assert_allclose(np.asarray(got), expected, rtol=tolerance, atol=tolerance)


# Values.


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (lambda: filters.mean(3), np.full((3, 3), 1 / 9)),
        (lambda: filters.mean((4,)), [0.25] * 4),
        (lambda: filters.mean([1, 2]), [[0.5, 0.5]]),
        (lambda: filters.mean((2, 1, 5)), np.full((2, 1, 5), 0.1)),
        (lambda: filters.mean(np.array([2, 2])), np.full((2, 2), 0.25)),  # pyright: ignore
        (lambda: filters.sobel(0), [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
        (lambda: filters.sobel(1), [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        (lambda: filters.sobel(-2), [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
        (lambda: filters.sobel(-1), [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        (lambda: filters.sobel(), [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        (lambda: filters.laplacian(), [[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
        (lambda: filters.first_derivative(), [0.5, 0, -0.5]),
        (lambda: filters.second_derivative(), [1, -2, 1]),
        (lambda: filters.edge(), [[1, -1]]),
    ],
    ids=[
        "mean-3", "mean-1d", "mean-1x2", "mean-3d", "mean-array", "sobel-0", "sobel-1", "sobel--2",
        "sobel--1", "sobel", "laplacian", "first", "second", "edge",
    ],
)  # fmt: skip
def test_exact_values(kernel: Callable[[], jax.Array], expected):
    got = kernel()
    assert isinstance(got, jax.Array)
    assert got.dtype == F64
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected, np.float64))


BELLS = [(5, 1.0), (4, 0.7), ((3,), 2), ((5, 2), (1.0, 3.0)), ((3, 4, 5), [0.5, 1, 2]), (1, 9.0)]


@pytest.mark.parametrize(("size", "sigma"), BELLS, ids=str)
def test_gaussian_is_the_normalised_formula(size: Any, sigma: Any):
    """exp(-sum (i - c)^2 / (2 sigma^2)), c = (n - 1) / 2, divided by its sum."""
    shape = (size, size) if isinstance(size, int) else size
    sigmas = (sigma,) * len(shape) if isinstance(sigma, (int, float)) else sigma
    expected = np.zeros(shape)
    for index in np.ndindex(*shape):
        terms = zip(index, shape, sigmas, strict=True)
        expected[index] = np.exp(-sum((i - (n - 1) / 2) ** 2 / (2 * s**2) for i, n, s in terms))
    assert_close(filters.gaussian(size, sigma), expected / expected.sum())


@pytest.mark.parametrize(("size", "sigma"), BELLS, ids=str)
def test_gaussian_sums_to_one(size: Any, sigma: Any):
    assert abs(float(filters.gaussian(size, sigma).sum()) - 1) < 1e-14


@pytest.mark.parametrize("sigma", [1e-2, 1e-200, 1e200], ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_gaussian_of_any_width_sums_to_one(size: int, sigma: float):
    """Two entries share the weight alike; of three, a narrow bell leaves the middle one."""
    column = np.full(size, 1 / size) if size == 2 or sigma > 1 else np.array([0.0, 1.0, 0.0])
    assert_close(filters.gaussian(size, sigma), np.outer(column, column))


KERNELS: dict[str, Callable[[], jax.Array]] = {
    "mean": lambda: filters.mean(3),
    "gaussian": lambda: filters.gaussian(3, 1.0),
    "sobel": lambda: filters.sobel(0),
    "laplacian": filters.laplacian,
    "first_derivative": filters.first_derivative,
    "second_derivative": filters.second_derivative,
    "edge": filters.edge,
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_the_default_float_dtype(name: str):
    assert KERNELS[name]().dtype == F64
    with jax.enable_x64(False):
        single = KERNELS[name]()
    assert single.dtype == F32
    np.testing.assert_allclose(single, KERNELS[name](), rtol=1e-7)


# apply, against scipy.

SHAPES = {1: (9,), 2: (7, 8), 3: (5, 6, 4)}
WINDOWS = [(1,), (3,), (2,), (4,), (3, 5), (2, 4), (1, 2), (3, 3, 3), (2, 3, 4)]


@modes
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_apply_is_ndimage_correlate(window, ours, scipys):
    """Odd and even windows, whose centre is size // 2, in 1-D to 3-D."""
    image, kernel = noise(*SHAPES[len(window)]), noise(*window)
    expected = ndimage.correlate(image, kernel, mode=scipys, cval=0.0)
    assert_close(filters.apply(image, kernel, padding_mode=ours), expected)


@pytest.mark.parametrize("axis", [0, 1])
@modes
def test_correlate1d_along_an_axis(axis, ours, scipys):
    image, weights = noise(6, 7), noise(4)
    kernel = weights.reshape((4, 1) if axis == 0 else (1, 4))
    expected = ndimage.correlate1d(image, weights, axis, mode=scipys)
    assert_close(filters.apply(image, kernel, padding_mode=ours), expected)


@modes
@pytest.mark.parametrize("size", [3, 2, (2, 3), (4, 1)], ids=str)
def test_mean_is_uniform_filter(size, ours, scipys):
    image = noise(6, 7)
    expected = ndimage.uniform_filter(image, size, mode=scipys)
    assert_close(filters.apply(image, filters.mean(size), padding_mode=ours), expected)


@modes
@pytest.mark.parametrize(("radius", "sigma"), [(1, 1.0), (2, 0.8), (3, 2.5)])
def test_gaussian_is_gaussian_filter(radius, sigma, ours, scipys):
    image = noise(7, 8)
    expected = ndimage.gaussian_filter(image, sigma, mode=scipys, truncate=radius / sigma)
    kernel = filters.gaussian(2 * radius + 1, sigma)
    assert_close(filters.apply(image, kernel, padding_mode=ours), expected)


def test_gaussian_of_each_rank_is_gaussian_filter():
    for shape in SHAPES.values():
        sigma = (1.5, 0.7, 1.0)[: len(shape)]
        expected = ndimage.gaussian_filter(noise(*shape), sigma, mode="mirror", radius=2)
        kernel = filters.gaussian((5,) * len(shape), sigma)
        assert_close(filters.apply(noise(*shape), kernel), expected)


@modes
@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_sobel_is_scipys(axis, ours, scipys):
    image = noise(6, 7)
    got = filters.apply(image, filters.sobel(axis), padding_mode=ours)
    assert_close(got, ndimage.sobel(image, axis, mode=scipys))


@modes
def test_laplacian_is_scipys(ours, scipys):
    image = noise(6, 7)
    got = filters.apply(image, filters.laplacian(), padding_mode=ours)
    assert_close(got, ndimage.laplace(image, mode=scipys))


def test_reflect_is_the_default_mode():
    image, kernel = noise(6, 7), noise(3, 3)
    assert_close(filters.apply(image, kernel), ndimage.correlate(image, kernel, mode="mirror"))


# apply, with channels and batches.


def plane_by_plane(planes: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each plane filtered by scipy on its own."""
    stack = planes.reshape(-1, *planes.shape[-kernel.ndim :])
    filtered = [ndimage.correlate(plane, kernel, mode="mirror") for plane in stack]
    return np.asarray(filtered).reshape(planes.shape)


FIRST, LAST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}, {1: "NWC", 2: "NHWC", 3: "NDHWC"}


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("window", [(3,), (3, 2), (2, 3, 3)], ids=str)
def test_every_channel_on_its_own(window, leading):
    """Leading axes are batch axes and channels; without any, there is no channel axis."""
    rank, kernel = len(window), noise(*window)
    image = noise(*leading, *SHAPES[rank])
    expected = plane_by_plane(image, kernel)
    assert_close(filters.apply(image, kernel), expected)
    assert_close(filters.apply(image, kernel, layout=FIRST[rank]), expected)
    if leading:
        image, expected = (np.moveaxis(value, -rank - 1, -1) for value in (image, expected))
    assert_close(filters.apply(image, kernel, layout=LAST[rank]), expected)


@pytest.mark.parametrize("leading", [(0,), (2, 0), (0, 3)], ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_no_channels_or_no_images(leading, layout):
    shape = (*leading, 5, 6) if layout == "NCHW" else (*leading[:-1], 5, 6, leading[-1])
    got = filters.apply(jnp.zeros(shape, F32), jnp.ones((3, 3), F32), layout=layout)
    assert got.shape == shape
    assert got.dtype == F32


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex128, np.int32], ids=str)
def test_dtype_stays(dtype):
    image = (8 * noise(6, 7)).astype(dtype)
    kernel = np.array([[1, 2, 1], [0, 4, 0], [-1, 0, 3]]).astype(dtype)
    wide = np.complex128 if dtype == np.complex128 else np.float64
    expected = ndimage.correlate(image.astype(wide), kernel.astype(wide), mode="mirror")
    got = filters.apply(image, kernel)
    assert got.dtype == dtype
    tolerance = TOLERANCE.get(np.dtype(dtype).name, 0)  # integers are exact
    error = np.abs(np.asarray(got).astype(wide) - expected).max()
    assert error <= tolerance * np.abs(expected).max()


def test_different_dtypes_are_promoted():
    image = np.arange(30, dtype=np.int32).reshape(5, 6)
    with jax.numpy_dtype_promotion("standard"):
        got = filters.apply(image, filters.mean(3).astype(F32))
    assert_close(got, ndimage.uniform_filter(image.astype(np.float64), 3, mode="mirror"), F32)


# What they do to signals (notes, section 1).

ALTERNATING = (-1.0) ** np.arange(12)  # the highest frequency there is
CHECKERBOARD = np.multiply.outer(ALTERNATING, ALTERNATING)
LOW_PASS = {
    "mean-1d": lambda: filters.mean((3,)),
    "mean-even": lambda: filters.mean((2, 4)),
    "mean-2d": lambda: filters.mean(5),
    "gaussian-1d": lambda: filters.gaussian((9,), 1.0),
    "gaussian-2d": lambda: filters.gaussian(7, 1.2),
}
HIGH_PASS = {
    "first_derivative": filters.first_derivative,
    "second_derivative": filters.second_derivative,
    "laplacian": filters.laplacian,
    "sobel-0": lambda: filters.sobel(0),
    "sobel-1": lambda: filters.sobel(1),
    "edge": filters.edge,
}


def periodic(signal: Any, kernel: jax.Array) -> jax.Array:
    return filters.apply(np.asarray(signal), kernel, padding_mode="circular")


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", LOW_PASS)
def test_low_pass_keeps_a_constant(name, mode):
    kernel = LOW_PASS[name]()
    flat = np.full((12,) * kernel.ndim, 7.5)
    assert_close(filters.apply(flat, kernel, padding_mode=mode), flat)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", HIGH_PASS)
def test_derivatives_of_a_constant_vanish(name, mode):
    kernel = HIGH_PASS[name]()
    flat = np.full((12,) * kernel.ndim, 7.5)
    assert_close(filters.apply(flat, kernel, padding_mode=mode), 0 * flat)


@pytest.mark.parametrize(
    ("name", "factor"), [("mean-1d", -1 / 3), ("mean-even", 0.0), ("mean-2d", 1 / 25)]
)
def test_mean_damps_the_highest_frequency(name, factor):
    """k odd entries leave 1/k of an alternating signal along each axis, even ones nothing."""
    kernel = LOW_PASS[name]()
    signal = ALTERNATING if kernel.ndim == 1 else CHECKERBOARD
    assert_close(periodic(signal, kernel), factor * signal)


@pytest.mark.parametrize(("name", "sigma"), [("gaussian-1d", 1.0), ("gaussian-2d", 1.2)])
def test_gaussian_damps_the_highest_frequency(name, sigma):
    """Its spectrum is a Gaussian too: at frequency pi about 2 exp(-(pi sigma)^2 / 2) an axis."""
    kernel = LOW_PASS[name]()
    signal = ALTERNATING if kernel.ndim == 1 else CHECKERBOARD
    left = np.abs(periodic(signal, kernel)).max()
    assert left < (2.1 * np.exp(-((np.pi * sigma) ** 2) / 2)) ** kernel.ndim < 0.02


@pytest.mark.parametrize(
    ("name", "factor"), [("second_derivative", -4), ("laplacian", -8), ("edge", -2)]
)
def test_high_pass_lets_the_highest_frequency_through(name, factor):
    kernel = HIGH_PASS[name]()
    signal = ALTERNATING if kernel.ndim == 1 else CHECKERBOARD
    assert_close(periodic(signal, kernel), factor * signal)


T = np.arange(10.0)
ROWS, COLUMNS = np.meshgrid(T, T, indexing="ij")


def test_second_derivative_of_a_parabola_is_constant():
    got = jc.correlate(3 * T**2 - 5 * T + 2, filters.second_derivative())
    assert_close(got, np.full(8, 6.0))
    assert_close(filters.apply(3 * T**2 - 5 * T + 2, filters.second_derivative())[1:-1], got)


def test_first_derivative_is_the_notes():
    """Convolved it is the central difference, cross-correlated its negative."""
    signal, kernel = noise(10), filters.first_derivative()
    inner = np.gradient(signal)[1:-1]
    assert_close(jc.convolve(signal, kernel, "valid"), inner)
    assert_close(filters.apply(signal, kernel)[1:-1], -inner)
    assert_close(jc.convolve(4 * T, kernel, "valid"), np.full(8, 4.0))


@pytest.mark.parametrize("axis", [0, 1])
def test_sobel_of_ramps(axis):
    """8 along the slope, nothing across."""
    along, across = (ROWS, COLUMNS) if axis == 0 else (COLUMNS, ROWS)
    inner = (slice(1, -1),) * 2
    assert_close(filters.apply(along, filters.sobel(axis))[inner], np.full((8, 8), 8.0))
    assert_close(filters.apply(across, filters.sobel(axis))[inner], np.zeros((8, 8)))


def test_laplacian_of_a_paraboloid():
    surface = 3 * ROWS**2 - 2 * COLUMNS**2 + ROWS * COLUMNS
    got = filters.apply(surface, filters.laplacian())[1:-1, 1:-1]
    assert_close(got, np.full((8, 8), 2.0))


def test_edge_sees_vertical_edges_only():
    """Notes, section 2: +1 from white to black (column 1), -1 back (column 5)."""
    image = np.ones((6, 8))
    image[:, 2:6] = 0
    expected = np.zeros((6, 7))
    expected[:, 1], expected[:, 5] = 1, -1
    assert_close(jc.corr2d(image, filters.edge()), expected)
    assert_close(jc.corr2d(image.T, filters.edge()), np.zeros((8, 5)))


def test_weights_of_a_decaying_signal():
    """y_t = sum_k w_k x_{t-k+1}: an impulse leaves 1, 1/2, 1/4 of itself behind."""
    weights = np.array([1, 1 / 2, 1 / 4])
    impulse = np.eye(7)[2]
    assert_close(jc.convolve(impulse, weights), [0, 0, 1, 0.5, 0.25, 0, 0, 0, 0])
    signal, w = noise(7), dict(enumerate(weights, start=1))
    x = dict(enumerate(signal, start=1))
    expected = [sum(w[k] * x.get(t - k + 1, 0.0) for k in w) for t in range(1, 10)]
    assert_close(jc.convolve(signal, weights), expected)


# Transforms.


@pytest.mark.parametrize("mode", MODES)
def test_jit_and_vmap_change_nothing(mode):
    images, kernel = jnp.asarray(noise(3, 2, 5, 6)), jnp.asarray(noise(2, 3))

    def filtered(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return filters.apply(image, kernel, padding_mode=mode)

    expected = filters.apply(images, kernel, padding_mode=mode)
    assert_close(jax.jit(filtered)(images, kernel), expected)
    assert_close(jax.vmap(filtered, (0, None))(images, kernel), expected)
    assert_close(jax.vmap(filtered, (None, 0))(images[0], kernel[None])[0], expected[0])


@pytest.mark.parametrize(
    ("mode", "layout"), [*((mode, "NCHW") for mode in MODES), ("reflect", "NHWC")]
)
def test_gradients(mode, layout):
    image, kernel = jnp.asarray(noise(2, 4, 3)), jnp.asarray(noise(2, 2))

    def filtered(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return filters.apply(image, kernel, padding_mode=mode, layout=layout)

    check_grads(filtered, (image, kernel), order=2, modes=("fwd", "rev"))


def test_gradient_towards_the_image_by_hand():
    """With zeros outside, each pixel's gradient is the sum of the kernel entries that read it."""
    image, kernel = jnp.ones((4, 5), F64), jnp.asarray(noise(3, 3))
    gradient = jax.grad(lambda x: filters.apply(x, kernel, padding_mode="zeros").sum())(image)
    expected = ndimage.convolve(np.ones((4, 5)), np.asarray(kernel), mode="constant")
    assert_close(gradient, expected)


# Bad calls.

BAD_SIZES: list[tuple[Any, type[Exception]]] = [
    (0, ValueError), (-3, ValueError), ((3, 0), ValueError), ((), ValueError),
    ((1, 1, 1, 1), ValueError), (3.0, TypeError), ((3, 3.0), TypeError), (True, TypeError),
    ((3, True), TypeError), (None, TypeError), ("3", TypeError), ({3}, TypeError),
    (2**31 - 1, ValueError), ((2**31 - 1,) * 2, ValueError), (list, TypeError),
]  # fmt: skip


@pytest.mark.parametrize(("size", "error"), BAD_SIZES, ids=str)
@pytest.mark.parametrize(
    "kernel", [filters.mean, lambda size: filters.gaussian(size, 1.0)], ids=["mean", "gaussian"]
)
def test_bad_sizes(kernel, size, error):
    with pytest.raises(error, match=r"^size\b"):
        kernel(size)


@pytest.mark.parametrize(
    ("sigma", "error"),
    [
        (0, ValueError), (0.0, ValueError), (-1.0, ValueError), (float("nan"), ValueError),
        (float("inf"), ValueError), ((1.0, 0.0), ValueError), ((1.0,), ValueError),
        ((1.0, 1.0, 1.0), ValueError), (None, TypeError), ("1", TypeError), (1j, TypeError),
        ((1.0, None), TypeError), ({1.0, 2.0}, TypeError), (("1", "2"), TypeError),
        (True, TypeError), (np.array(True), TypeError), (10**400, ValueError),
        ((1.0, 10**400), ValueError),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_bad_sigmas(sigma: Any, error):
    with pytest.raises(error, match=r"^sigma\b"):
        filters.gaussian(3, sigma)


@pytest.mark.parametrize(
    ("axis", "error"),
    [(2, ValueError), (-3, ValueError), (1.0, TypeError), (True, TypeError), ("1", TypeError)],
    ids=str,
)
def test_bad_axes(axis: Any, error):
    with pytest.raises(error, match=r"^axis\b"):
        filters.sobel(axis)


PLANE, SQUARE = np.ones((4, 4)), np.ones((3, 3))


@pytest.mark.parametrize(
    ("name", "image", "kernel", "options", "error"),
    [
        ("image", [[1.0]], SQUARE, {}, TypeError),
        ("image", 1.0, SQUARE, {}, TypeError),
        ("image", PLANE > 0, SQUARE, {}, TypeError),
        ("image", np.ones(4), SQUARE, {}, ValueError),
        ("image", np.ones((0, 4)), np.ones((1, 1)), {}, ValueError),
        ("kernel", PLANE, [[1.0]], {}, TypeError),
        ("kernel", PLANE, SQUARE > 0, {}, TypeError),
        ("kernel", PLANE, np.ones(()), {}, ValueError),
        ("kernel", PLANE, np.ones((3, 0)), {}, ValueError),
        ("kernel", np.ones((1,) * 4), np.ones((1,) * 4), {}, ValueError),
        ("padding_mode", PLANE, SQUARE, {"padding_mode": "mirror"}, ValueError),
        ("padding_mode", PLANE, SQUARE, {"padding_mode": None}, TypeError),
        ("layout", PLANE, SQUARE, {"layout": "NWC"}, ValueError),
        ("layout", PLANE, SQUARE, {"layout": "nhwc"}, ValueError),
        ("layout", PLANE, SQUARE, {"layout": 1}, TypeError),
    ],
    ids=str,
)
def test_bad_calls_of_apply(name, image: Any, kernel: Any, options: Any, error):
    with pytest.raises(error, match=rf"^{name}\b"):
        filters.apply(image, kernel, **options)


@pytest.mark.parametrize(
    ("mode", "size", "fits"),
    [
        ("reflect", 2, False), ("reflect", 3, True), ("circular", 1, False), ("circular", 2, True),
        ("replicate", 1, True), ("zeros", 1, True),
    ],
)  # fmt: skip
def test_images_smaller_than_the_padding(mode, size, fits):
    """A window of 5 pads 2: reflect needs n > 2, circular n >= 2, and the message says so."""
    image, kernel = noise(size), noise(5)
    if fits:
        expected = ndimage.correlate(image, kernel, mode=MODES[mode])
        assert_close(filters.apply(image, kernel, padding_mode=mode), expected)
    else:
        with pytest.raises(ValueError, match=rf"\b{mode}\b") as caught:
            filters.apply(image, kernel, padding_mode=mode)
        assert f"size {size}" in str(caught.value)
