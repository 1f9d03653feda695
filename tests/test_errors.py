"""Bad calls: each gives a ValueError or TypeError that names the argument and says what came.

One table for the functions on arrays; those on integers are in `test_geometry`, the filters' and
`correlate`'s in their own files.
"""

import itertools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

X, K = np.ones((2, 4, 8, 9)), np.ones((6, 4, 3, 2))
LAST = np.ones((2, 8, 9, 4))
Y = np.ones((2, 6, 8, 9))
INDICES = np.zeros((2, 6, 8, 9), int)
COLUMNS = np.ones((2, 16, 56))
LINE, WINDOW = np.ones((1, 8)), np.ones((1, 1, 3))
IMAGE, PATCH = np.ones((6, 8)), np.ones((2, 3))
STACK, PATCHES = np.ones((2, 6, 8)), np.ones((3, 2, 2, 3))


class Bad(NamedTuple):
    """A call, the argument its message must start with, and what else it must show."""

    function: Any
    args: tuple[Any, ...]
    options: dict[str, Any]
    error: type[Exception]
    name: str
    shows: str = ""


def conv(error, name, shows="", x: Any = X, kernel: Any = K, bias: Any = None, **options):
    return Bad(jc.conv, (x, kernel, bias), options, error, name, shows)


def transpose(error, name, shows="", y: Any = Y, kernel: Any = K, bias: Any = None, **options):
    return Bad(jc.conv_transpose, (y, kernel, bias), options, error, name, shows)


def pool(error, name, shows="", x: Any = X, window: Any = (2, 2), f: Any = jc.max_pool, **options):
    return Bad(f, (x, window), options, error, name, shows)


def adaptive(
    error, name, shows="", x: Any = X, output_shape: Any = (2, 2), f: Any = jc.adaptive_avg_pool,
    **options,
):  # fmt: skip
    return Bad(f, (x, output_shape), options, error, name, shows)


def unpool(
    error, name, shows="", y: Any = Y, indices: Any = INDICES, output_shape: Any = (8, 9), **options
):
    return Bad(jc.max_unpool, (y, indices, output_shape), options, error, name, shows)


def unfold(error, name, shows="", x: Any = X, window: Any = (2, 2), **options):
    return Bad(jc.unfold, (x, window), options, error, name, shows)


def fold(
    error, name, shows="", columns: Any = COLUMNS, output_shape: Any = (8, 9),
    window: Any = (2, 2), **options,
):  # fmt: skip
    return Bad(jc.fold, (columns, output_shape, window), options, error, name, shows)


V, T = ValueError, TypeError
BAD = [
    # Arrays.
    conv(T, "x", "list", x=[[1.0, 2.0]]),
    conv(T, "x", "NoneType", x=None),
    conv(T, "x", "bool", x=X > 0),
    conv(T, "x", "float8_e4m3fn", x=X.astype(jnp.float8_e4m3fn)),
    conv(T, "x", "int4", x=jnp.ones((2, 4, 8, 9), jnp.int4)),
    conv(T, "x", "object", x=X.astype(object)),
    conv(T, "x", "<U3", x=X.astype(str)),
    conv(T, "kernel", "float", kernel=1.0),
    conv(T, "bias", "float", bias=0.5),
    conv(V, "x", "(8, 9)", x=X[0, 0]),
    conv(V, "kernel", "(4, 3)", kernel=K[0, :, :, 0]),
    conv(V, "kernel", "(1, 1, 6, 4, 3, 2)", kernel=K[None, None]),
    conv(V, "kernel", "(6, 3, 3, 2)", kernel=K[:, :3]),
    conv(V, "kernel", "(6, 4, 3, 2)", layout="NHWC"),
    conv(V, "kernel", "(6, 4, 0, 2)", kernel=K[:, :, :0]),
    conv(V, "bias", "(5,)", bias=np.ones(5)),
    conv(V, "bias", "(6, 2)", bias=np.ones((6, 2))),
    conv(V, "kernel's window", "(3, 2)", x=X[:, :, :2]),
    conv(V, "kernel's window", "(7, 3)", dilation=(3, 2), x=X[:, :, :4], padding=1),
    conv(V, "kernel's window", "(1, 9)", padding=((-4, -3), (0, 0))),
    conv(T, "x", "MaskedArray", x=np.ma.masked_array(X, X > 2)),
    # Groups.
    conv(V, "groups", "0", groups=0),
    conv(V, "groups", "-1", groups=-1),
    conv(T, "groups", "2.0", groups=2.0),
    conv(T, "groups", "True", groups=True),
    conv(V, "kernel", "with 4", groups=2),
    conv(V, "groups", "4", groups=4, kernel=K[:, :1]),
    # The other layout's channels.
    conv(V, "kernel", "with 4; channels last is layout='NHWC', with kernel (*w", x=LAST),
    conv(V, "kernel", "; channels last is layout='NHWC'", x=LAST[0], kernel=K.T),
    conv(V, "kernel", "; channels last is layout='NHWC'", x=LAST, kernel=K[:, :2], groups=2),
    conv(V, "kernel", "; channels last is layout='NWC'", x=LAST[0], kernel=K[..., 0]),
    conv(V, "kernel", "; channels first is layout='NCHW', with kernel (c_o", layout="NHWC"),
    conv(V, "kernel", "; channels first is layout='NCW'", X[..., 0], K[..., 0].T, layout="NWC"),
    # Stride and dilation.
    conv(V, "stride", "0", stride=0),
    conv(V, "stride[1]", "-2", stride=(1, -2)),
    conv(V, "stride", "(1, 2, 3)", stride=(1, 2, 3)),
    conv(T, "stride", "1.5", stride=1.5),
    conv(T, "stride[0]", "1.0", stride=(1.0, 1)),
    conv(T, "stride", "True", stride=True),
    conv(T, "stride", "'2'", stride="2"),
    conv(T, "stride", "None", stride=None),
    conv(V, "dilation", "0", dilation=0),
    conv(V, "dilation", "[1]", dilation=[1]),
    conv(T, "dilation", "{1, 2}", dilation={1, 2}),
    # Padding.
    conv(V, "padding", "'sam'", padding="Sam"),
    conv(V, "padding", "(1, 2, 3)", padding=(1, 2, 3)),
    conv(V, "padding", "((low, high),)", x=LINE, kernel=WINDOW, padding=(1, 2)),
    conv(V, "padding[0]", "(1, 2, 3)", padding=((1, 2, 3), (1, 1))),
    conv(T, "padding[1]", "3", padding=((1, 2), 3)),
    conv(T, "padding", "0.5", padding=0.5),
    conv(T, "padding", "None", padding=None),
    conv(T, "padding", "(low, high) pair(s), or one of valid, same", padding=None),
    conv(T, "padding[0][1]", "1.5", padding=((0, 1.5), (0, 0))),
    conv(V, "padding", "(8, 0)", padding=((8, 0), (0, 0)), padding_mode="reflect"),
    conv(V, "padding", "(0, 10)", padding=((0, 0), (0, 10)), padding_mode="circular"),
    conv(V, "padding", "size 0", x=X[:, :, :0], padding=2, padding_mode="replicate"),
    conv(V, "padding_mode", "'symmetric'", padding_mode="symmetric"),
    conv(T, "padding_mode", "None", padding_mode=None),
    conv(V, "stride", "at most 2147483647", stride=2**64),
    conv(V, "dilation", "at most 2147483647", kernel=K[:, :, :1, :1], dilation=2**31),
    conv(V, "padding", "at most 2147483647", padding=-(10**30)),
    conv(V, "padding", "fits into memory", x=X[..., None], kernel=K[..., None], padding=2**26),
    # Layout, precision, dtype, algorithm.
    conv(V, "layout", "'nchw'", layout="nchw"),
    conv(V, "layout", "NCHW, NHWC", layout="NCW"),
    conv(T, "layout", "2", layout=2),
    conv(V, "precision", "'best'", precision="best"),
    conv(V, "precision", "('high',)", precision=("high",)),
    conv(T, "precision", "3", precision=3),
    conv(T, "preferred_element_type", "'wide'", preferred_element_type="wide"),
    conv(T, "preferred_element_type", "'f4,('", preferred_element_type="f4,("),
    conv(T, "preferred_element_type", "float32", preferred_element_type="float32"),
    conv(T, "preferred_element_type", "int32", preferred_element_type="int32"),
    conv(T, "preferred_element_type", "complex128", preferred_element_type="complex128"),
    conv(V, "algorithm", "'fast'", algorithm="fast"),
    conv(V, "algorithm", "auto, direct", algorithm="reduce_window"),
    conv(T, "algorithm", "None", algorithm=None),
    conv(V, "padding", "67108864", padding=2**26 + 1),
    conv(V, "padding", "67108865", padding="full", dilation=(2**25, 2**26 + 1)),
    # What has no short text, no shape or no items.
    conv(V, "groups", "<int>", groups=10**5000),
    conv(V, "stride[0]", "<int>", stride=(10**5000, 1)),
    conv(V, "padding", "...", padding=tuple(range(1000))),
    conv(T, "kernel", "type", kernel=np.ndarray),
    conv(T, "stride", "module", stride=jnp),
    conv(T, "stride", "'list'", stride=list),
    conv(T, "preferred_element_type", "of shape ()", preferred_element_type=jnp.array(2)),
    conv(T, "preferred_element_type", "float64", preferred_element_type=np.float64(1.0)),
    # The transposed convolution.
    transpose(T, "y", "tuple", y=(1, 2)),
    transpose(V, "y", "(9,)", y=Y[0, 0, 0]),
    transpose(V, "kernel", "(2, 4, 8, 9)", y=X),
    transpose(V, "groups", "4", groups=4),
    transpose(V, "bias", "(6,)", bias=np.ones(6)),
    transpose(V, "bias", "(6, 4)", bias=np.ones((6, 4))),
    transpose(V, "y", "(0, 9)", y=Y[:, :, :0]),
    transpose(V, "padding", "67108865", padding=((2**26 + 1, -(2**26)), (0, 0))),
    transpose(V, "padding", "(-2, ", padding=((6, 6), (0, 0))),
    transpose(V, "output_padding", "2", output_padding=2, stride=2),
    transpose(V, "output_padding", "-1", output_padding=-1),
    transpose(V, "output_padding", "(1,)", output_padding=(1,), stride=2),
    transpose(T, "output_padding", "0.0", output_padding=0.0),
    transpose(V, "kernel", "(6, 4, 0, 2)", kernel=K[:, :, :0]),
    transpose(V, "layout", "'NWC'", layout="NWC"),
    transpose(V, "algorithm", "'fftw'", algorithm="fftw"),
    transpose(V, "stride", "at most", stride=2**31),
    transpose(V, "stride and dilation", "fits into memory", stride=2**31 - 1, dilation=2**31 - 1),
    # Pools.
    pool(T, "x", "int", x=3),
    pool(T, "x", "complex128", x=X * 1j),
    pool(T, "x", "complex64", x=X.astype("complex64"), f=jc.min_pool),
    pool(T, "x", "bool", x=X > 0, f=jc.avg_pool),
    pool(V, "x", "(8, 9)", x=X[0, 0]),
    pool(T, "window", "2", window=2),
    pool(T, "window", "None", window=None),
    pool(T, "window[0]", "2.0", window=(2.0, 2)),
    pool(V, "window[1]", "0", window=(2, 0)),
    pool(V, "window", "(1, 1, 1, 1)", window=(1, 1, 1, 1)),
    pool(V, "window", "()", window=()),
    pool(V, "window", "(9, 1)", window=(9, 1)),
    pool(V, "stride", "0", stride=0),
    pool(V, "padding", "(2, 2)", padding=2),
    pool(
        V,
        "window",
        "(1, 9)",
        x=X[:, :, :1],
        padding=((2, -2), (0, 0)),
        window=(2, 1),
        dilation=2,
        ceil_mode=True,
    ),
    pool(V, "padding", "(0, 3)", padding=((0, 3), (0, 0)), dilation=2),
    pool(T, "ceil_mode", "1", ceil_mode=1),
    pool(T, "return_indices", "'yes'", return_indices="yes"),
    pool(T, "count_include_pad", "None", f=jc.avg_pool, count_include_pad=None),
    pool(V, "divisor_override", "0", f=jc.avg_pool, divisor_override=0),
    pool(T, "divisor_override", "2.0", f=jc.avg_pool, divisor_override=2.0),
    pool(V, "divisor_override", "at most", f=jc.avg_pool, divisor_override=10**400),
    pool(
        V,
        "padding",
        "fits into memory",
        window=(2**26,) * 3,
        stride=1,
        padding=2**26 - 1,
        x=np.ones((1, 1, 1, 1)),
    ),
    pool(V, "layout", "'NCW'", layout="NCW"),
    pool(V, "padding", "at most 67108864", padding=2**27, dilation=2**28, return_indices=True),
    pool(T, "p", "'2'", f=jc.lp_pool, p="2"),
    pool(T, "p", "True", f=jc.lp_pool, p=True),
    pool(T, "p", "None", f=jc.lp_pool, p=None),
    pool(T, "p", "(1,)", f=jc.lp_pool, p=np.ones(1)),
    pool(T, "p", "2j", f=jc.lp_pool, p=2j),
    pool(V, "p", "0", f=jc.lp_pool, p=0),
    pool(V, "p", "-1.5", f=jc.lp_pool, p=-1.5),
    pool(V, "p", "nan", f=jc.lp_pool, p=float("nan")),
    pool(T, "x", "complex128", f=jc.lp_pool, x=X * 1j),
    pool(V, "padding", "(2, 2)", f=jc.lp_pool, padding=2),
    # Adaptive pools.
    adaptive(T, "x", "bool", x=X > 0),
    adaptive(T, "x", "complex64", x=X.astype("complex64"), f=jc.adaptive_max_pool),
    adaptive(V, "x", "(8, 9)", x=X[0, 0]),
    adaptive(V, "x", "(2, 4, 0, 9)", x=X[:, :, :0]),
    adaptive(T, "output_shape", "3", output_shape=3),
    adaptive(T, "output_shape[0]", "2.5", output_shape=(2.5, 2)),
    adaptive(V, "output_shape[1]", "-1", output_shape=(2, -1)),
    adaptive(V, "output_shape", "()", output_shape=()),
    adaptive(V, "output_shape", "of length 4", output_shape=(1, 1, 1, 1)),
    adaptive(V, "output_shape", "fits into memory", output_shape=(2**31 - 1,) * 2),
    adaptive(V, "layout", "'NWC'", layout="NWC"),
    adaptive(T, "return_indices", "1", f=jc.adaptive_max_pool, return_indices=1),
    # Unpooling.
    unpool(T, "y", "list", y=[[1.0]]),
    unpool(T, "indices", "float64", indices=np.ones((2, 6, 8, 9))),
    unpool(T, "indices", "bool", indices=Y > 0),
    unpool(T, "indices", "None", indices=None),
    unpool(V, "indices", "(6, 8, 9)", indices=np.zeros((6, 8, 9), int)),
    unpool(V, "indices", "got 99", indices=np.full(Y.shape, 99), output_shape=(9, 11)),
    unpool(V, "indices", "got -2", indices=np.full(Y.shape, -2)),
    unpool(T, "output_shape", "20", output_shape=20),
    unpool(V, "output_shape[1]", "-2", output_shape=(2, -2)),
    unpool(V, "output_shape", "2147483647 elements", output_shape=(2**16, 2**16)),
    unpool(V, "y", "(6,)", y=Y[0, :, 0, 0], indices=np.zeros(6, int)),
    unpool(V, "layout", "'NCDHW'", layout="NCDHW"),
    # Columns.
    unfold(T, "x", "float", x=1.0),
    unfold(T, "x", "bool", x=X > 0),
    unfold(V, "x", "(8, 9)", x=X[0, 0]),
    unfold(T, "window", "2", window=2),
    unfold(V, "window[0]", "0", window=(0, 2)),
    unfold(V, "window", "(9, 2)", window=(9, 2)),
    unfold(V, "stride[0]", "0", stride=(0, 1)),
    unfold(T, "dilation", "1.5", dilation=1.5),
    unfold(V, "padding", "'wide'", padding="wide"),
    unfold(V, "layout", "'NCW'", layout="NCW"),
    unfold(V, "padding", "at most 67108864", padding=2**30),
    unfold(V, "padding", "fits into memory", padding=2**26, window=(2**26, 2**26)),
    fold(T, "columns", "NoneType", columns=None),
    fold(V, "columns", "(56,)", columns=COLUMNS[0, 0]),
    fold(V, "columns", "L = 72", output_shape=(9, 10)),
    fold(V, "columns", "(2, 15, 56)", columns=COLUMNS[:, :15]),
    fold(V, "columns", "(*batch, L, prod(window) * c)", layout="NHWC"),
    fold(T, "output_shape", "8", output_shape=8),
    fold(V, "output_shape", "(8,)", output_shape=(8,)),
    fold(V, "output_shape[0]", "-8", output_shape=(-8, 9)),
    fold(V, "window", "(9, 2)", window=(9, 2)),
    fold(T, "window", "None", window=None),
    fold(V, "dilation", "0", dilation=0),
    fold(T, "layout", "1", layout=1),
    # The notes' functions.
    Bad(jc.corr2d, (IMAGE.tolist(), PATCH), {}, T, "X", "list"),
    Bad(jc.corr2d, (IMAGE, PATCH > 0), {}, T, "K", "bool"),
    Bad(jc.corr2d, (STACK, PATCH), {}, V, "X", "(2, 6, 8)"),
    Bad(jc.corr2d, (IMAGE, PATCH[0]), {}, V, "K", "(3,)"),
    Bad(jc.corr2d, (PATCH, IMAGE), {}, V, "K's window", "(6, 8)"),
    Bad(jc.corr2d, (IMAGE, PATCH[:, :0]), {}, V, "K's window", "(2, 0)"),
    Bad(jc.corr2d_multi_in, (IMAGE, PATCH), {}, V, "X", "(6, 8)"),
    Bad(jc.corr2d_multi_in, (STACK, PATCHES[:, 0]), {}, V, "K", "(3, 2, 3)"),
    Bad(jc.corr2d_multi_in_out, (STACK, PATCHES[:, :1]), {}, V, "K", "(3, 1, 2, 3)"),
    Bad(jc.corr2d_multi_in_out, (STACK, PATCHES[0]), {}, V, "K", "(2, 2, 3)"),
    Bad(jc.corr2d_multi_in_out_1x1, (STACK, PATCHES), {}, V, "K", "(3, 2, 2, 3)"),
    Bad(jc.corr2d_multi_in_out_1x1, (STACK, np.ones((3, 4))), {}, V, "K", "(3, 4)"),
    Bad(jc.pool2d, (STACK, (2, 2)), {}, V, "X", "(2, 6, 8)"),
    Bad(jc.pool2d, (IMAGE, (2,)), {}, V, "pool_size", "(2,)"),
    Bad(jc.pool2d, (IMAGE, (7, 2)), {}, V, "pool_size", "(7, 2)"),
    Bad(jc.pool2d, (IMAGE, 2), {}, T, "pool_size", "2"),
    Bad(jc.pool2d, (IMAGE, (2, 2), "median"), {}, V, "mode", "'median'"),
    Bad(jc.pool2d, (IMAGE * 1j, (2, 2)), {}, T, "X", "complex128"),
]


def title(bad):
    return f"{bad.function.__name__}-{bad.name}-{bad.shows}"


@pytest.mark.parametrize("bad", BAD, ids=title)
def test_the_message_names_the_argument_and_shows_what_came(bad):
    with pytest.raises(bad.error) as caught:
        bad.function(*bad.args, **bad.options)
    assert type(caught.value) is bad.error
    message = str(caught.value)
    assert message.startswith(bad.name + " "), message
    assert bad.shows in message, message


def test_no_other_layout_is_named_where_none_fits():
    for x, layout in ((X, "NCHW"), (LAST, "NHWC")):
        with pytest.raises(ValueError, match=r"with \d$"):
            jc.conv(x, np.ones((3, 3, 3, 3)), layout=layout)


def is_traceable(value):
    return type(value) is np.ndarray and value.dtype == float


@pytest.mark.parametrize("bad", BAD, ids=title)
def test_the_same_under_jit(bad):
    """Arrays traced, options static: the same error, before anything is traced into lax."""
    arrays = tuple(itertools.takewhile(is_traceable, bad.args))
    rest = bad.args[len(arrays) :]
    with pytest.raises(bad.error, match="^" + re.escape(bad.name)):
        jax.jit(lambda *traced: bad.function(*traced, *rest, **bad.options))(*arrays)


@pytest.mark.parametrize("value", [1.0, True, "1"])
@pytest.mark.parametrize("name", ["stride", "dilation", "groups", "padding"])
def test_what_equals_an_int_is_not_taken_for_one_after_it(name, value):
    """1 == 1.0 == True, and all hash alike: a cached call must not let them through."""
    x, kernel = np.ones((1, 7)), np.ones((1, 1, 2))
    good: dict[str, Any] = {name: 1}
    jc.conv(x, kernel, **good)
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        jc.conv(x, kernel, **{name: value})


def test_options_must_be_known_before_tracing():
    with pytest.raises(TypeError, match=r"^stride must be a Python int known before"):
        jax.jit(lambda s: jc.conv(X, K, stride=s))(2)
    with pytest.raises(TypeError, match=r"^divisor_override must be a Python int"):
        jax.jit(lambda d: jc.avg_pool(X, (2, 2), divisor_override=d))(2)


def test_known_arrays_are_options_inside_of_jit_and_traced_ones_are_not():
    stride = jnp.asarray([2, 1])
    got = jax.jit(lambda x: jc.conv(x, K, stride=stride))(X)
    assert got.shape == jc.conv(X, K, stride=(2, 1)).shape
    with pytest.raises(TypeError, match=r"^stride must be .*, known before tracing; got"):
        jax.jit(lambda s: jc.conv(X, K, stride=s))(stride)


def test_numpy_ints_and_lists_are_ints():
    want = jc.conv(X, K, stride=(2, 1), padding=((1, 0), (2, 1)), dilation=2)
    one, two, zero = np.int32(1), np.int64(2), np.array(0)
    got = jc.conv(X, K, stride=[two, one], padding=np.array([[1, 0], [2, 1]]), dilation=two)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(jc.conv(X, K, padding=zero), jc.conv(X, K))
    np.testing.assert_array_equal(jc.max_pool(X, [two, 1]), jc.max_pool(X, (2, 1)))


def test_results_of_more_than_32_bits_of_elements_are_not_refused():
    """Only shapes are computed here: nothing of this size is held."""
    x = jax.ShapeDtypeStruct((1, 2**16, 2**16), jnp.float32)
    kernel = jax.ShapeDtypeStruct((2, 1, 3, 3), jnp.float32)
    y = jax.eval_shape(lambda x, k: jc.conv(x, k, padding=1), x, kernel)
    assert y.shape == (2, 2**16, 2**16)
    assert jax.eval_shape(lambda y, k: jc.conv_transpose(y, k), y, kernel).size > 2**32
    pooled = jax.eval_shape(lambda x: jc.max_pool(x, (2, 2), stride=1), x)
    assert pooled.shape == (1, 2**16 - 1, 2**16 - 1)
    # But int32 positions do not reach that far, nor do the gradients that need them.
    for function in (
        lambda x: jc.max_pool(x, (2, 2), return_indices=True),
        jax.grad(lambda x: jc.max_pool(x, (2, 2)).sum()),
    ):
        with pytest.raises(
            ValueError, match=r"^x must have at most 2147483647 elements in a plane"
        ):
            jax.eval_shape(function, x)


def test_strict_promotion_is_jaxs_own_error():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jc.conv(X.astype("float32"), K)


def test_the_table_is_large_and_covers_every_function():
    assert len(BAD) >= 180
    names = {bad.function.__name__ for bad in BAD}
    assert names == {
        "conv", "conv_transpose", "max_pool", "min_pool", "avg_pool", "pool2d", "corr2d",
        "corr2d_multi_in", "corr2d_multi_in_out", "corr2d_multi_in_out_1x1", "lp_pool",
        "adaptive_avg_pool", "adaptive_max_pool", "max_unpool", "unfold", "fold",
    }  # fmt: skip
