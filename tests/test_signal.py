"""`correlate` and `convolve` against `scipy.signal`, integers against Python's own."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TOLERANCE, examples
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads
from scipy import signal

import jaxconv as jc

MODES = ("full", "same", "valid")
PAIRS = [
    pytest.param(jc.correlate, signal.correlate, id="correlate"),
    pytest.param(jc.convolve, signal.convolve, id="convolve"),
]
both = pytest.mark.parametrize(("ours", "scipys"), PAIRS)
all_modes = pytest.mark.parametrize("mode", MODES)


def noise(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    values = rng.normal(size=shape)
    if dtype.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return values.astype(dtype)


def assert_close(got: jax.Array, expected: Any, dtype: Any) -> None:
    assert got.dtype == dtype
    assert got.shape == np.shape(expected)
    tolerance = TOLERANCE[np.dtype(dtype).name] * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=tolerance)


def reference(function: Any, x: np.ndarray, k: np.ndarray, mode: str) -> np.ndarray:
    """scipy's direct method in double precision."""
    wide = np.complex128 if np.result_type(x, k).kind == "c" else np.float64
    return function(x.astype(wide), k.astype(wide), mode, method="direct")


# Values.

SIZES = {
    "1d": ((7,), (3,)),
    "1d-even": ((7,), (4,)),
    "1d-alike": ((5,), (5,)),
    "1d-second-larger": ((3,), (8,)),
    "1d-one": ((6,), (1,)),
    "2d": ((5, 6), (3, 2)),
    "2d-second-larger": ((2, 3), (5, 4)),
    "2d-alike-along-one": ((4, 5), (4, 2)),
    "3d": ((4, 5, 3), (2, 3, 3)),
    "3d-second-larger": ((2, 1, 3), (4, 3, 3)),
}
MIXED = {"2d": ((5, 2), (3, 4)), "3d": ((2, 5, 3), (3, 2, 3))}


@pytest.mark.thinned(9)
@both
@all_modes
@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
@pytest.mark.parametrize(("x_shape", "k_shape"), SIZES.values(), ids=SIZES)
def test_values_are_scipys(ours, scipys, mode, dtype, x_shape, k_shape):
    x, k = noise(x_shape, dtype), noise(k_shape, dtype)
    assert_close(ours(x, k, mode), reference(scipys, x, k, mode), dtype)


@both
@pytest.mark.parametrize("mode", ["full", "same"])
@pytest.mark.parametrize(("x_shape", "k_shape"), MIXED.values(), ids=MIXED)
def test_mixed_sizes(ours, scipys, mode, x_shape, k_shape):
    """Neither array is the larger one: scipy too has no `valid` for them."""
    x, k = noise(x_shape), noise(k_shape)
    assert_close(ours(x, k, mode), reference(scipys, x, k, mode), np.float64)
    for function in (ours, scipys):
        with pytest.raises(ValueError, match="valid"):
            function(x, k, "valid")


@settings(max_examples=examples(25), deadline=None, derandomize=True)
@given(
    function=st.sampled_from(["correlate", "convolve"]),
    mode=st.sampled_from(MODES),
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3),
    dtype=st.sampled_from([np.float64, np.complex128, np.float32]),
    seed=st.integers(0, 9),
)
def test_random_shapes(function, mode, sizes, dtype, seed):
    x, k = (noise(shape, dtype, seed) for shape in zip(*sizes, strict=True))
    ours, scipys = getattr(jc, function), getattr(signal, function)
    larger = [n >= m for n, m in sizes], [n <= m for n, m in sizes]
    if mode == "valid" and not any(map(all, larger)):
        with pytest.raises(ValueError, match=r"^mode 'valid'"):
            ours(x, k, mode)
    else:
        assert_close(ours(x, k, mode), reference(scipys, x, k, mode), dtype)


def test_default_modes():
    """`valid` for correlate, as the notes have it; `full` for convolve."""
    x, k = noise((6,)), noise((3,))
    np.testing.assert_array_equal(jc.correlate(x, k), jc.correlate(x, k, "valid"))
    np.testing.assert_array_equal(jc.convolve(x, k), jc.convolve(x, k, "full"))
    assert jc.correlate(x, k).shape == (4,)
    assert jc.convolve(x, k).shape == (8,)


def test_correlate_of_the_notes():
    """Section 1: 0..8 with [[0, 1], [2, 3]]; its last entry is 43, not 4."""
    got = jc.correlate(np.arange(9).reshape(3, 3), np.arange(4).reshape(2, 2))
    assert got.tolist() == [[19, 25], [37, 43]]


def test_correlate_conjugates_and_convolve_does_not():
    x, k = np.array([1 + 2j, 3j]), np.array([2 - 1j])
    assert jc.correlate(x, k).tolist() == [(1 + 2j) * (2 + 1j), 3j * (2 + 1j)]
    assert jc.convolve(x, k).tolist() == [(1 + 2j) * (2 - 1j), 3j * (2 - 1j)]


def exactly(x: np.ndarray, k: np.ndarray, correlation: bool) -> np.ndarray:
    """The full result in Python ints, reduced to the dtype as it overflows."""
    k = np.flip(k) if correlation else k
    shape = [n + m - 1 for n, m in zip(x.shape, k.shape, strict=True)]
    total = np.zeros(shape, object)
    for i, j in itertools.product(np.ndindex(*x.shape), np.ndindex(*k.shape)):
        at = tuple(a + b for a, b in zip(i, j, strict=True))
        total[at] += int(x[i]) * int(k[j])
    bits, low = 8 * x.dtype.itemsize, int(np.iinfo(x.dtype).min)
    return ((total - low) % 2**bits + low).astype(x.dtype)


@pytest.mark.parametrize("correlation", [True, False], ids=["correlate", "convolve"])
@pytest.mark.parametrize("shapes", [((9,), (4,)), ((3, 4), (2, 3))], ids=["1d", "2d"])
@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
)
def test_integers_are_exact_and_wrap(dtype, shapes, correlation):
    x, k = (noise(shape, dtype) for shape in shapes)
    got = (jc.correlate if correlation else jc.convolve)(x, k, "full")
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, exactly(x, k, correlation))


def test_int8_overflows_as_numpys():
    x = np.array([100, 100, 100], np.int8)
    got = jc.convolve(x, np.array([1, 1, 1], np.int8))
    assert got.tolist() == [100, 200 - 256, 300 - 256, 200 - 256, 100]
    assert got.dtype == np.int8


def test_large_integers_keep_every_digit():
    """Beyond the 53 bits of a double."""
    x, k = np.array([2**61 + 1, 3, -(2**60) - 7]), np.array([1, -1])
    expected = [2**61 + 1, 2 - 2**61, -(2**60) - 10, 2**60 + 7]
    assert jc.convolve(x, k).tolist() == expected


@both
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
def test_dtype_stays(ours, scipys, dtype):
    dtype = jnp.dtype(dtype)
    x, k = (jnp.asarray(noise(shape), dtype) for shape in ((6, 5), (3, 2)))
    expected = reference(scipys, np.asarray(x), np.asarray(k), "full")
    got = ours(x, k, "full")
    assert got.dtype == dtype
    error = np.abs(np.asarray(got).astype(expected.dtype) - expected).max()
    assert error <= TOLERANCE[dtype.name] * np.abs(expected).max()


@both
@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("int8", "int32", "int32"), ("int32", "float32", "float32"), ("uint8", "int8", "int16"),
        ("float32", "complex64", "complex64"), ("float64", "complex64", "complex128"),
        ("bfloat16", "float16", "float32"),
    ],
)  # fmt: skip
def test_different_dtypes_are_promoted(ours, scipys, left, right, result):
    x, k = (np.arange(-2, 4).astype(jnp.dtype(left)), np.array([2, 1, 3]).astype(jnp.dtype(right)))
    if left == "uint8":
        x = np.arange(6).astype(left)
    with jax.numpy_dtype_promotion("standard"):
        got = ours(x, k, "full")
    assert got.dtype == result
    np.testing.assert_array_equal(got, scipys(x.astype(complex), k.astype(complex)))


def test_jax_and_numpy_arrays_alike():
    x, k = noise((6,)), noise((3,))
    expected = jc.correlate(x, k, "same")
    np.testing.assert_array_equal(jc.correlate(jnp.asarray(x), k, "same"), expected)
    assert isinstance(expected, jax.Array)


# What the notes say of them.

SHAPES = [((9,), (4,)), ((6, 5), (2, 3)), ((4, 3, 5), (2, 3, 2))]
ranks = pytest.mark.parametrize(("x_shape", "k_shape"), SHAPES, ids=["1d", "2d", "3d"])


@all_modes
@ranks
def test_convolution_flips_the_kernel(x_shape, k_shape, mode):
    """conv(X, W) = corr(X, rot180 W)."""
    X, W = noise(x_shape), noise(k_shape)
    expected = jc.correlate(X, np.flip(W), mode)
    assert_close(jc.convolve(X, W, mode), np.asarray(expected), np.float64)


@pytest.mark.parametrize("dtype", [np.float64, np.complex128], ids=["real", "complex"])
@ranks
def test_wide_convolution_commutes(x_shape, k_shape, dtype):
    X, W = noise(x_shape, dtype), noise(k_shape, dtype)
    assert_close(jc.convolve(X, W), np.asarray(jc.convolve(W, X)), dtype)


@ranks
def test_wide_convolution_is_narrow_over_either_padded(x_shape, k_shape):
    """W (*) pad(X) = X (*) pad(W): each padded by the other's size less one."""
    X, W = noise(x_shape), noise(k_shape)

    def pad(array: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.pad(array, [(n - 1, n - 1) for n in other.shape])

    left = jc.convolve(pad(X, W), W, "valid")
    assert_close(left, np.asarray(jc.convolve(pad(W, X), X, "valid")), np.float64)
    assert_close(left, np.asarray(jc.convolve(X, W)), np.float64)


@ranks
def test_wide_correlation_commutes_with_rotations(x_shape, k_shape):
    """rot180(W) full X = rot180(X) full W."""
    X, W = noise(x_shape), noise(k_shape)
    left, right = (
        jc.correlate(np.flip(W), X, "full"),
        jc.correlate(np.flip(X), W, "full"),
    )
    assert_close(left, np.asarray(right), np.float64)
    # And without the rotations the result itself is rotated.
    turned = np.flip(np.asarray(jc.correlate(W, X, "full")))
    assert_close(jc.correlate(X, W, "full"), turned, np.float64)


@all_modes
def test_the_sliding_window_of_the_definition(mode):
    """y[i] = sum_a x[i + a] k[a], and `same` is the middle of `full`, from (m - 1) // 2 on."""
    x, k = noise((7,)), noise((4,))
    padded = np.pad(x, 3)
    full = np.array([padded[i : i + 4] @ k for i in range(10)])
    expected = {"full": full, "same": full[1:8], "valid": full[3:7]}[mode]
    assert_close(jc.correlate(x, k, mode), expected, np.float64)


# Transforms.


REAL, COMPLEX, LARGER, SMALLER = np.float64, np.complex128, ((4,), (3,)), ((2,), (4,))


@pytest.mark.thinned(5)
@pytest.mark.parametrize("function", [jc.correlate, jc.convolve])
@pytest.mark.parametrize(
    ("mode", "dtype", "shapes"),
    [
        pytest.param("full", REAL, LARGER, id="full-real"),
        pytest.param("same", REAL, LARGER, id="same-real"),
        pytest.param("valid", REAL, LARGER, id="valid-real"),
        pytest.param("same", COMPLEX, LARGER, id="same-complex"),
        pytest.param("valid", COMPLEX, SMALLER, id="valid-complex-second-larger"),
    ],
)
def test_gradients(function, mode, dtype, shapes):
    arrays = tuple(jnp.asarray(noise(shape, dtype)) for shape in shapes)
    check_grads(lambda x, k: function(x, k, mode), arrays, order=2, modes=("fwd", "rev"))


def test_gradient_of_the_notes():
    """Section 7: for H = corr(X, W) and delta, dW = corr(X, delta), dX = conv(delta, W) full."""
    X, W, delta = noise((5, 6)), noise((2, 3)), noise((4, 4))
    _, pull = jax.vjp(jc.correlate, X, W)
    dX, dW = pull(jnp.asarray(delta))
    assert_close(dW, signal.correlate(X, delta, "valid", method="direct"), np.float64)
    assert_close(dX, signal.convolve(delta, W, "full", method="direct"), np.float64)


@both
@all_modes
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 1), (1, 2)], ids=str)
def test_vmap(ours, scipys, mode, axes):
    """Over either argument or both, any axis; the results stack in front."""
    arrays = [noise((4, 5)), noise((3, 2))]
    stacks = [
        array if axis is None else np.stack([array, 2 * array[::-1], array - 1], axis)
        for array, axis in zip(arrays, axes, strict=True)
    ]
    got = jax.vmap(lambda x, k: ours(x, k, mode), axes)(*map(jnp.asarray, stacks))
    rows = [
        [stack if axis is None else np.take(stack, i, axis) for i in range(3)]
        for stack, axis in zip(stacks, axes, strict=True)
    ]
    expected = np.stack([reference(scipys, x, k, mode) for x, k in zip(*rows, strict=True)])
    assert_close(got, expected, np.float64)


@all_modes
def test_jit(mode):
    x, k = jnp.asarray(noise((5, 4))), jnp.asarray(noise((2, 3)))
    got = jax.jit(jc.convolve, static_argnums=2)(x, k, mode)
    assert_close(got, reference(signal.convolve, np.asarray(x), np.asarray(k), mode), np.float64)


# Bad calls.


@pytest.mark.parametrize("function", [jc.correlate, jc.convolve])
@pytest.mark.parametrize(
    ("name", "x", "k", "mode", "error"),
    [
        ("x", [1.0, 2.0], np.ones(2), "full", TypeError),
        ("x", 1.0, np.ones(2), "full", TypeError),
        ("x", np.ones(2, bool), np.ones(2), "full", TypeError),
        ("x", np.array(["a"]), np.ones(2), "full", TypeError),
        ("x", np.ones(0), np.ones(2), "full", ValueError),
        ("x", np.ones((2, 0)), np.ones((2, 2)), "same", ValueError),
        ("x and k", np.ones(2), np.ones((2, 2)), "full", ValueError),
        ("x and k", np.ones(()), np.ones(()), "full", ValueError),
        ("x and k", np.ones((1,) * 4), np.ones((1,) * 4), "full", ValueError),
        ("k", np.ones(2), (1.0, 2.0), "full", TypeError),
        ("k", np.ones(2), None, "full", TypeError),
        ("k", np.ones(2), np.ones(2, bool), "full", TypeError),
        ("k", np.ones(2), np.ones(0), "valid", ValueError),
        ("mode", np.ones(2), np.ones(2), "wide", ValueError),
        ("mode", np.ones(2), np.ones(2), "Full", ValueError),
        ("mode", np.ones(2), np.ones(2), None, TypeError),
        ("mode", np.ones(2), np.ones(2), 1, TypeError),
        ("mode", np.ones((2, 3)), np.ones((3, 2)), "valid", ValueError),
    ],
    ids=str,
)
def test_bad_calls_name_the_argument(function, name, x: Any, k: Any, mode: Any, error):
    with pytest.raises(error, match=rf"^{name}\b") as caught:
        function(x, k, mode)
    assert caught.type is error


def test_messages_show_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        jc.correlate(np.ones((2, 3)), np.ones((3, 2)), "valid")
    with pytest.raises(ValueError, match=r"\(4,\).*\(3, 2\)"):
        jc.convolve(np.ones(4), np.ones((3, 2)))
