"""Sizes, receptive fields and costs, against windows that are walked through one by one.

The oracles here enumerate positions in plain Python: `walk` steps a window along one axis, `seen`
follows index sets back through layers, `count_multiplications` makes every product.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.geometry import (
    conv_cost,
    conv_output_shape,
    conv_transpose_output_shape,
    pool_output_shape,
    receptive_field,
)

many = settings(max_examples=300, deadline=None, derandomize=True)


# One axis, walked.


def walk(n: int, k: int, s: int, low: int, high: int, d: int) -> int:
    """Windows of `k` taps, `d` apart, that fit into `n` elements padded by (low, high)."""
    inside = set(range(-low, n + high))
    starts = range(-low, n + high, s)
    return sum(all(start + a * d in inside for a in range(k)) for start in starts)


def walk_ceil(n: int, k: int, s: int, low: int, high: int, d: int) -> int:
    """As `walk`, and one window more if elements are left over; none starts after x's last."""
    count = 0
    for start in range(-low, n, s):
        reached_before = start - s + (k - 1) * d  # the last tap of the window before
        count += reached_before < n + high - 1
    return count


def named_pairs(n: int, k: int, s: int, d: int) -> dict[str, tuple[int, int]]:
    """What each padding name stands for; `same`: the least that gives ceil(n / s) windows."""
    reach, total = (k - 1) * d, 0
    while walk(n, k, s, 0, total, d) < math.ceil(n / s):
        total += 1
    return {
        "valid": (0, 0),
        "full": (reach, reach),
        "causal": (reach, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }


NAMES = ("valid", "full", "causal", "same", "same_lower")
small = {
    "n": st.integers(1, 14),
    "k": st.integers(1, 5),
    "s": st.integers(1, 5),
    "d": st.integers(1, 3),
}
axis = st.tuples(
    st.integers(0, 14),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(-3, 5),
    st.integers(-3, 5),
    st.integers(1, 3),
)


def plain(value: Any) -> bool:
    """Only tuples, all the way down to exact Python ints."""
    if isinstance(value, tuple):
        return len(value) > 0 and all(map(plain, value))
    return type(value) is int


# conv_output_shape.


@pytest.mark.parametrize(
    ("spatial", "window", "options", "expected"),
    [
        pytest.param((8, 8), (3, 3), {"padding": 1}, (8, 8), id="s3-8x8-k3-p1"),
        pytest.param((8, 8), (5, 3), {"padding": (2, 1)}, (8, 8), id="s3-8x8-k5x3-p2x1"),
        pytest.param((8, 8), (3, 3), {"padding": 1, "stride": 2}, (4, 4), id="s3-8x8-k3-p1-s2"),
        pytest.param(
            (8, 8), (3, 5), {"padding": (0, 1), "stride": (3, 4)}, (2, 2), id="s3-8x8-k3x5-s3x4"
        ),
        pytest.param((7,), (3,), {"padding": 0}, (5,), id="s3-narrow-1d"),
        pytest.param((7,), (3,), {"padding": 1}, (7,), id="s3-same-width-1d"),
        pytest.param((7,), (3,), {"padding": 2}, (9,), id="s3-wide-1d"),
        pytest.param((7, 9), (3, 5), {"padding": 0}, (5, 5), id="s3-narrow-2d"),
        pytest.param((7, 9), (3, 5), {"padding": (1, 2)}, (7, 9), id="s3-same-width-2d"),
        pytest.param((7, 9), (3, 5), {"padding": (2, 4)}, (9, 13), id="s3-wide-2d"),
        pytest.param((8, 8), (4, 2), {"padding": "same"}, (8, 8), id="s3-even-same"),
        pytest.param((8, 8), (4, 4), {"padding": 1}, (7, 7), id="s3-even-both-sides-alike"),
        pytest.param((12,), (3,), {"padding": ((1, 1),), "stride": 4}, (3,), id="s3-p-is-k-1-n/s"),
        pytest.param((3, 3), (2, 2), {}, (2, 2), id="s1-3x3-k2"),
        pytest.param((9, 9, 9), (2, 3, 4), {"dilation": (1, 2, 2)}, (8, 5, 3), id="3d-dilated"),
        pytest.param((5,), (3,), {"padding": -1}, (1,), id="negative-crops"),
    ],
)
def test_output_shape_of_the_notes(spatial, window, options, expected):
    assert conv_output_shape(spatial, window, **options) == expected


@many
@given(st.lists(axis, min_size=1, max_size=3))
def test_output_shape_counts_the_windows(axes):
    counts = tuple(walk(*one) for one in axes)
    n, k, s, low, high, d = zip(*axes, strict=True)
    options = {"stride": s, "padding": tuple(zip(low, high, strict=True)), "dilation": d}
    if 0 in counts:
        with pytest.raises(ValueError, match=r"^window \("):
            conv_output_shape(n, k, **options)
    else:
        assert conv_output_shape(n, k, **options) == counts


@many
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 40), st.integers(1, 12))
def test_both_formulas_of_the_notes(n, k, p, s):
    """floor((n - k + p + s) / s) == floor((n + p - k) / s) + 1, with p the total padding."""
    if n + p < k:
        return
    got = conv_output_shape((n,), (k,), stride=s, padding=((p // 2, p - p // 2),))
    assert got == (math.floor((n - k + p + s) / s),) == (math.floor((n + p - k) / s) + 1,)
    assert got == (walk(n, k, s, 0, p, 1),)


@many
@given(st.integers(1, 9), st.integers(1, 8), st.integers(1, 6))
def test_padding_of_k_minus_1_divides_by_the_stride(k, s, m):
    assert conv_output_shape((m * s,), (k,), stride=s, padding=((k - 1, 0),)) == (m,)


@pytest.mark.parametrize("name", NAMES)
@many
@given(st.data())
def test_named_padding_counts_the_windows(name, data):
    n, k, s, d = (data.draw(strategy) for strategy in small.values())
    count = walk(n, k, s, *named_pairs(n, k, s, d)[name], d)
    if not count:
        with pytest.raises(ValueError, match=r"^window \("):
            conv_output_shape((n,), (k,), stride=s, padding=name, dilation=d)
    else:
        assert conv_output_shape((n,), (k,), stride=s, padding=name, dilation=d) == (count,)


@many
@given(**small)
def test_same_is_the_ceiling_of_n_over_s(n, k, s, d):
    for name in ("same", "same_lower"):
        got = conv_output_shape((n,), (k,), stride=s, padding=name, dilation=d)
        assert got == (math.ceil(n / s),)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title, str.swapcase])
def test_names_in_any_letter_case(name: str, case: Callable[[str], str]):
    written = case(name)
    expected = {"valid": 6, "full": 14, "causal": 10, "same": 10, "same_lower": 10}[name]
    assert conv_output_shape((10,), (3,), padding=written, dilation=2) == (expected,)
    transposed = {"valid": 14, "full": 6, "causal": 10, "same": 10, "same_lower": 10}[name]
    assert conv_transpose_output_shape((10,), (3,), padding=written, dilation=2) == (transposed,)
    assert pool_output_shape((10,), (3,), stride=1, padding=written, dilation=2) == (expected,)
    start = {"valid": 0, "full": -4, "causal": -4, "same": -2, "same_lower": -2}[name]
    assert receptive_field([((3,), 1, written, 2)]).start == (start,)
    cost = conv_cost((1, 10), (1, 1, 3), padding=written, dilation=2)
    assert cost.multiply_adds == 3 * expected


@pytest.mark.parametrize(
    ("sizes", "layers", "expected"),
    [
        pytest.param((240, 240), 10, (200, 200), id="s3-240-ten-5x5-layers"),
        pytest.param((224, 224), 55, (4, 4), id="s3-224-needs-55-layers"),
        pytest.param((224, 224), 54, (8, 8), id="s3-224-54-layers-are-too-few"),
    ],
)
def test_stacks_of_5x5_layers(sizes, layers, expected):
    for _ in range(layers):
        sizes = conv_output_shape(sizes, (5, 5))
    assert sizes == expected


def test_after_55_layers_no_5x5_fits():
    with pytest.raises(ValueError, match=r"window \(5, 5\).*\(4, 4\)"):
        conv_output_shape((4, 4), (5, 5))


# conv_transpose_output_shape.


def laid_down(m: int, k: int, s: int, d: int) -> int:
    """How far `m` copies of a window reach, laid down `s` apart."""
    return max(i * s + a * d for i in range(m) for a in range(k)) + 1


@pytest.mark.parametrize(
    ("sizes", "window", "options", "expected"),
    [
        ((4, 4), (3, 3), {"stride": 2, "padding": 1, "output_padding": 1}, (8, 8)),
        ((14, 14), (4, 4), {"stride": 2, "padding": 1}, (28, 28)),
        ((2, 3), (3, 2), {"stride": (3, 1), "output_padding": (2, 0)}, (8, 4)),
        ((4,), (2,), {"stride": 5, "padding": "same"}, (20,)),
        ((4,), (2,), {"stride": 5, "padding": "valid"}, (17,)),
        ((3,), (3,), {"padding": "full"}, (1,)),
        ((3,), (3,), {"padding": "causal"}, (3,)),
        ((1,), (3,), {"padding": ((1, 2),)}, (0,)),
        ((2, 2, 2), (2, 2, 2), {"dilation": 3, "output_padding": 2}, (7, 7, 7)),
    ],
    ids=str,
)
def test_transpose_shape_by_hand(sizes, window, options, expected):
    assert conv_transpose_output_shape(sizes, window, **options) == expected


@many
@given(st.lists(axis, min_size=1, max_size=3), st.data())
def test_transpose_shape_lays_windows_down(axes, data):
    m, k, s, low, high, d = zip(*[(max(one[0], 1), *one[1:]) for one in axes], strict=True)
    extra = tuple(data.draw(st.integers(0, max(pair) - 1)) for pair in zip(s, d, strict=True))
    expected = tuple(
        laid_down(*one) - cut_low - cut_high + more
        for *one, cut_low, cut_high, more in zip(m, k, s, d, low, high, extra, strict=True)
    )
    options = {"stride": s, "dilation": d, "output_padding": extra}
    options["padding"] = tuple(zip(low, high, strict=True))
    if min(expected) < 0:
        with pytest.raises(ValueError, match=r"^padding "):
            conv_transpose_output_shape(m, k, **options)
    else:
        assert conv_transpose_output_shape(m, k, **options) == expected


@many
@given(m=st.integers(1, 9), low=st.integers(-3, 4), high=st.integers(-3, 4), **small)
def test_transpose_inverts_the_output_shape(m, low, high, n, k, s, d):
    """The sizes that `conv` takes to m are those that `output_padding` 0 to s-1 gives."""
    options = {"stride": s, "padding": ((low, high),), "dilation": d}

    def forward(size: int) -> int:
        try:
            return conv_output_shape((size,), (k,), **options)[0]
        except ValueError:
            return 0

    if laid_down(m, k, s, d) - low - high < 0:
        return
    results = {
        conv_transpose_output_shape((m,), (k,), output_padding=extra, **options)[0]
        for extra in range(s)
    }
    assert results == {size for size in range(80) if forward(size) == m}


@many
@given(name=st.sampled_from(NAMES), **small)
def test_named_transpose_inverts_the_output_shape(name, n, k, s, d):
    options = {"stride": s, "padding": name, "dilation": d}
    reach = (k - 1) * d
    if name.startswith("same"):
        expected = n * s
    else:
        crop = {"valid": 0, "full": 2 * reach, "causal": reach}[name]
        expected = laid_down(n, k, s, d) - crop
    if expected < 0:
        with pytest.raises(ValueError, match=r"^padding "):
            conv_transpose_output_shape((n,), (k,), **options)
        return
    assert conv_transpose_output_shape((n,), (k,), **options) == (expected,)
    if expected:
        assert conv_output_shape((expected,), (k,), **options) == (n,)


# pool_output_shape.


@pytest.mark.parametrize(
    ("sizes", "window", "options", "expected"),
    [
        pytest.param((3, 3), (2, 2), {"stride": 1}, (2, 2), id="s5-stride-1"),
        pytest.param((4, 4), (3, 3), {}, (1, 1), id="s5-stride-is-the-window"),
        pytest.param((4, 4), (3, 3), {"padding": 1, "stride": 2}, (2, 2), id="s5-k3-p1-s2"),
        pytest.param(
            (4, 4), (2, 3), {"stride": (2, 3), "padding": (0, 1)}, (2, 2), id="s5-k2x3-p0x1"
        ),
        pytest.param((5,), (2,), {"ceil_mode": True}, (3,), id="ceil-one-more"),
        pytest.param((4,), (2,), {"ceil_mode": True}, (2,), id="ceil-nothing-left"),
        pytest.param((3,), (1,), {"stride": 4, "ceil_mode": True}, (1,), id="ceil-starts-beyond"),
        pytest.param(
            (2,), (2,), {"padding": 1, "ceil_mode": True}, (2,), id="ceil-starts-in-padding"
        ),
    ],
)
def test_pool_shape_by_hand(sizes, window, options, expected):
    assert pool_output_shape(sizes, window, **options) == expected


@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
@many
@given(data=st.data())
def test_pool_shape_counts_the_windows(ceil_mode, data):
    axes = data.draw(st.lists(axis, min_size=1, max_size=3))
    axes = [
        (n, k, s, low, max(high, 0) if ceil_mode else high, d) for n, k, s, low, high, d in axes
    ]
    n, k, s, low, high, d = zip(*axes, strict=True)
    counts = tuple((walk_ceil if ceil_mode else walk)(*one) for one in axes)
    too_much = any(max(low, high) > (k - 1) * d for n, k, s, low, high, d in axes)
    options = {"stride": s, "padding": tuple(zip(low, high, strict=True)), "dilation": d}
    if too_much or 0 in counts:
        with pytest.raises(ValueError, match="^padding " if too_much else "^window "):
            pool_output_shape(n, k, ceil_mode=ceil_mode, **options)
    else:
        assert pool_output_shape(n, k, ceil_mode=ceil_mode, **options) == counts


@many
@given(crop=st.integers(0, 8), ceil_mode=st.booleans(), **small)
def test_negative_padding_of_a_pool_is_a_smaller_input(crop, ceil_mode, n, k, s, d):
    """Cropping `crop` elements at either end is pooling what is left, in ceil mode too."""
    options = {"stride": s, "dilation": d, "ceil_mode": ceil_mode}

    def shape(size: int, pair: tuple[int, int]) -> Any:
        try:
            return pool_output_shape((size,), (k,), padding=(pair,), **options)
        except ValueError:
            return "too small"

    left = shape(n, (0, 0))
    assert shape(n + crop, (-crop, 0)) == left
    assert shape(n + crop, (0, -crop)) == left


@many
@given(low=st.integers(0, 4), high=st.integers(0, 4), **small)
def test_pool_stride_is_the_window_by_default(low, high, n, k, s, d):
    reach = (k - 1) * d
    pair = ((min(low, reach), min(high, reach)),)
    if n <= reach:
        return
    default = pool_output_shape((n,), (k,), padding=pair, dilation=d)
    assert default == (walk(n, k, k, *pair[0], d),)
    assert default == pool_output_shape((n,), (k,), stride=None, padding=pair, dilation=d)


# receptive_field.

Layer = tuple[int, int, tuple[int, int], int]  # window, stride, padding, dilation of one axis


def seen(layers: Iterable[Layer], output: int) -> set[int]:
    """The input positions that an output position reads, through all layers."""
    positions = {output}
    for k, s, (low, _), d in reversed(list(layers)):
        positions = {i * s + a * d - low for i in positions for a in range(k)}
    return positions


def field(layers: list[Layer]) -> tuple[int, int, int]:
    """(size, jump, start) along one axis, measured."""
    first, second = seen(layers, 0), seen(layers, 1)
    return max(first) - min(first) + 1, min(second) - min(first), min(first)


layer = st.tuples(
    st.integers(1, 5),
    st.integers(1, 3),
    st.tuples(st.integers(-2, 4), st.integers(-2, 4)),
    st.integers(1, 3),
)


@many
@given(st.integers(1, 3), st.integers(1, 4), st.data())
def test_receptive_field_of_any_stack(rank, depth, data):
    axes = [data.draw(st.lists(layer, min_size=depth, max_size=depth)) for _ in range(rank)]
    layers = [tuple(zip(*parts, strict=True)) for parts in zip(*axes, strict=True)]
    expected = tuple(zip(*(field(one) for one in axes), strict=True))
    assert receptive_field(layers) == expected


@pytest.mark.parametrize(
    ("layers", "size", "jump", "start"),
    [
        pytest.param([((2, 2),)], (2, 2), (1, 1), (0, 0), id="s6-one-layer"),
        pytest.param([((2, 2),), ((2, 2),)], (3, 3), (1, 1), (0, 0), id="s6-2x2-over-2x2"),
        pytest.param([((3, 5),)] * 4, (9, 17), (1, 1), (0, 0), id="s6-depth-widens"),
        pytest.param([((3,), 2)] * 3, (15,), (8,), (0,), id="s6-stride-multiplies"),
        pytest.param([((3, 3), 1, 1)] * 10, (21, 21), (1, 1), (-10, -10), id="s6-exceeds-8x8"),
        pytest.param([((5, 5),)] * 55, (221, 221), (1, 1), (0, 0), id="s3-55-layers"),
        pytest.param([((1,), 2), ((3,),)], (5,), (2,), (0,), id="stride-before"),
        pytest.param([((3,),), ((1,), 2)], (3,), (2,), (0,), id="stride-after"),
    ],
)
def test_receptive_field_of_the_notes(layers, size, jump, start):
    field = receptive_field(layers)
    assert field._fields == ("size", "jump", "start")
    assert (field.size, field.jump, field.start) == (size, jump, start)


def test_field_exceeds_the_input_of_the_layers_that_keep_its_size():
    sizes = (8, 8)
    for _ in range(10):
        sizes = conv_output_shape(sizes, (3, 3), padding=1)
    assert sizes == (8, 8)
    assert receptive_field([((3, 3), 1, 1)] * 10).size > sizes


@pytest.mark.parametrize("name", NAMES)
@many
@given(layer, layer)
def test_receptive_field_of_named_padding(name, first, second):
    """Without a stride in its layer, a name stands for fixed pairs, whatever the size."""
    k, _, _, d = first
    pair = named_pairs(20, k, 1, d)[name]
    spelled = receptive_field([((k,), 1, name, d), tuple((part,) for part in second)])
    assert tuple(value for (value,) in spelled) == field([(k, 1, pair, d), second])


@pytest.mark.parametrize("name", ["valid", "full", "causal"])
def test_named_padding_with_a_stride(name):
    start = {"valid": 0, "full": -6, "causal": -6}[name]
    assert receptive_field([((4,), 3, name, 2)]) == ((7,), (3,), (start,))


def test_layers_may_come_from_a_generator():
    assert receptive_field(((3,),) for _ in range(3)).size == (7,)


def test_receptive_field_is_what_the_gradient_reaches():
    """Notes, section 6: the inputs with a gradient are those the field says, in the middle."""
    layers: list[Any] = [((3, 2), (2, 1), 1, 1), ((2, 3), 1, ((0, 1), (2, 0)), (1, 2))]

    def network(x: jax.Array) -> jax.Array:
        for window, stride, padding, dilation in layers:
            ones = jnp.ones((1, 1, *window), x.dtype)
            x = jc.conv(x, ones, stride=stride, padding=padding, dilation=dilation)
        return x[0, 3, 5]

    reached = np.nonzero(jax.grad(network)(jnp.ones((1, 16, 16), float))[0])
    size, jump, start = receptive_field(layers)
    for positions, output, *parts in zip(reached, (3, 5), size, jump, start, strict=True):
        assert positions.min() == parts[2] + output * parts[1]
        assert positions.max() - positions.min() + 1 == parts[0]


# conv_cost.

COSTS = {
    "1d": ((4, 9), (6, 4, 3), {"stride": 2, "padding": 1}),
    "1d-last": ((9, 4), (3, 4, 6), {"stride": 2, "padding": 1, "layout": "NWC"}),
    "2d-batch": ((2, 3, 6, 5), (4, 3, 2, 3), {"padding": "same"}),
    "2d-first": ((2, 3, 6, 5), (4, 3, 2, 3), {"layout": "NCHW"}),
    "2d-last-groups": ((2, 6, 5, 4), (2, 3, 2, 6), {"groups": 2, "layout": "NHWC"}),
    "2d-depthwise": ((4, 6, 6), (4, 1, 3, 3), {"groups": 4, "dilation": 2}),
    "2d-batches": ((2, 3, 2, 5, 5), (2, 2, 2, 2), {"stride": (2, 3)}),
    "3d": ((2, 4, 5, 4), (3, 2, 2, 3, 1), {"padding": ((1, 0), (0, 2), (0, 0))}),
    "3d-last": ((2, 4, 5, 4, 2), (2, 3, 1, 1, 4), {"layout": "NDHWC", "groups": 2}),
    "no-batch": ((0, 2, 5), (3, 2, 2), {}),
    "no-channels": ((2, 0, 5), (3, 0, 2), {}),
}


def count_multiplications(x_shape: Any, kernel_shape: Any, options: dict[str, Any]) -> int:
    """Every product of `conv` made one by one, by running `conv`'s sizes as Python loops."""
    rank, last = len(kernel_shape) - 2, str(options.get("layout")).endswith("C")
    window = kernel_shape[:rank] if last else kernel_shape[2:]
    c_o, per_group = reversed(kernel_shape[rank:]) if last else kernel_shape[:2]
    spatial = x_shape[-rank - 1 : -1] if last else x_shape[-rank:]
    starts = []
    for at in range(rank):
        stride, dilation, padding = (
            options.get(name, default)
            for name, default in (("stride", 1), ("dilation", 1), ("padding", 0))
        )
        s, d = (value[at] if isinstance(value, tuple) else value for value in (stride, dilation))
        if isinstance(padding, str):
            low, high = named_pairs(spatial[at], window[at], s, d)[padding]
        else:
            low, high = padding[at] if isinstance(padding, tuple) else (padding, padding)
        starts.append(range(walk(spatial[at], window[at], s, low, high, d)))
    loops = [*x_shape[: -rank - 1], c_o, per_group, *window]
    return sum(1 for _ in itertools.product(*map(range, loops), *starts))


@pytest.mark.parametrize(("x_shape", "kernel_shape", "options"), COSTS.values(), ids=COSTS)
@pytest.mark.parametrize("itemsize", [4, 2])
def test_cost_counts_every_product(x_shape, kernel_shape, options, itemsize):
    cost = conv_cost(x_shape, kernel_shape, itemsize=itemsize, **options)
    y = jax.eval_shape(
        lambda x, w: jc.conv(x, w, **options),
        jax.ShapeDtypeStruct(x_shape, jnp.float32),
        jax.ShapeDtypeStruct(kernel_shape, jnp.float32),
    )
    assert cost._fields == ("parameters", "multiply_adds", "bytes")
    assert cost.parameters == np.zeros(kernel_shape).size
    assert cost.multiply_adds == count_multiplications(x_shape, kernel_shape, options)
    assert cost.bytes == itemsize * (np.zeros(x_shape).size + np.zeros(kernel_shape).size + y.size)
    assert plain(cost)


def test_cost_is_of_float32_by_default():
    assert conv_cost((1, 4), (1, 1, 2)).bytes == 4 * (4 + 2 + 3)


def test_cost_of_a_layer_of_the_notes():
    """Section 4: c_i = c_o = 100, k = 5, m = 64; ten such layers, a million examples."""
    cost = conv_cost((100, 64, 64), (100, 100, 5, 5), padding=2)
    assert cost.multiply_adds == 1_024_000_000
    assert cost.parameters == 100 * 100 * 5 * 5
    many_examples = conv_cost((1_000_000, 100, 64, 64), (100, 100, 5, 5), padding=2)
    assert 10 * many_examples.multiply_adds == 10_240_000_000_000_000


def test_parameters_with_either_bias():
    """Section 4: a bias per pair of channels makes c_o*c_i*(k_h*k_w + 1), the usual one + c_o."""
    c_o, c_i, window = 7, 5, (3, 4)
    parameters = conv_cost((c_i, 9, 9), (c_o, c_i, *window)).parameters
    assert parameters + c_o * c_i == 7 * 5 * (3 * 4 + 1) == 455
    assert parameters + c_o == 7 * 5 * 3 * 4 + 7 == 427


def test_cost_of_a_dense_layer_in_its_place():
    """Section 4: 12 M pixels x 3 channels into 100 hidden units are 3.6e9 weights: a convolution
    whose window is the whole image."""
    dense = conv_cost((3, 3000, 4000), (100, 3, 3000, 4000))
    assert dense.parameters == dense.multiply_adds == 3_600_000_000


def test_constraining_a_dense_map_to_a_convolution():
    """Section 1: parameters drop from M_l * M_{l-1} to k_h * k_w."""
    spatial, window = (8, 8), (3, 3)
    shared = conv_cost((1, *spatial), (1, 1, *window)).parameters
    outputs = conv_output_shape(spatial, window)
    assert math.prod(outputs) * math.prod(spatial) == 36 * 64
    assert shared == 9


# Plain ints, whatever comes in.

i4: Any = np.int32
i8: Any = np.int64
array: Any = np.array


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (lambda: conv_output_shape(array([8, 9]), (i8(3), i4(3)), stride=i8(2)), (3, 4)),
        (lambda: conv_output_shape([8], [3], padding=i8(1), dilation=array([2])), (6,)),
        (lambda: conv_output_shape((i8(8),), (3,), padding=array([[1, 2]])), (9,)),
        (lambda: conv_output_shape((i8(9),), (i8(4),), padding="same", stride=i8(2)), (5,)),
        (
            lambda: conv_transpose_output_shape(
                array([4]), (i8(3),), stride=i8(2), padding=i8(1), output_padding=i8(1)
            ),
            (8,),
        ),
        (lambda: pool_output_shape(array([5]), (i8(2),), ceil_mode=True), (3,)),
        (
            lambda: receptive_field([(array([3]), i8(2), i8(1), i8(2)), ((i8(2),),)]),
            ((7,), (2,), (-1,)),
        ),
        (
            lambda: conv_cost(
                array([2, 8]), (i8(4), 1, 3), stride=i8(2), groups=i8(2), itemsize=i8(8)
            ),
            (12, 36, 8 * (16 + 12 + 12)),
        ),
    ],
    ids=["stride", "dilation", "pairs", "same", "transpose", "pool", "field", "cost"],
)
def test_numpy_ints_come_out_as_python_ints(result, expected):
    got = result()
    assert got == expected
    assert plain(got)


# Bad calls: the error, and the argument that its message names, with which it begins.

SHAPE, BACK, POOL = conv_output_shape, conv_transpose_output_shape, pool_output_shape
FIELD, COST = receptive_field, conv_cost
IMAGE, KERNEL = (4, 8, 8), (6, 4, 3, 3)

#: Wrong in every function that takes the option: (value, error).
BAD_OPTIONS: dict[str, list[tuple[Any, type[Exception]]]] = {
    "stride": [
        (0, ValueError), (-1, ValueError), ((1, 0), ValueError), ((1, 1, 1), ValueError),
        ((), ValueError), (1.0, TypeError), ((1, 1.5), TypeError), (True, TypeError),
        ("2", TypeError), ({1: 1, 2: 2}, TypeError),
    ],
    "dilation": [
        (0, ValueError), ((2, -2), ValueError), ((2,), ValueError), (2.0, TypeError),
        (False, TypeError), (None, TypeError), ((1, "1"), TypeError),
    ],
    "padding": [
        ("Same ", ValueError), ("reflect", ValueError), ((1,), ValueError), ((1, 1, 1), ValueError),
        (((1, 1), (1, 1, 1)), ValueError), (((1, 1), 1), TypeError), ((1, (1, 1)), TypeError),
        (1.0, TypeError), (True, TypeError), ((1, None), TypeError), (None, TypeError),
        (((0, 0), (0, 0.0)), TypeError),
    ],
}  # fmt: skip

Bad = tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any], type[Exception]]


def bad_options() -> list[Bad]:
    plane = (8, 8), (3, 3)
    calls = [(SHAPE, plane), (BACK, plane), (POOL, plane), (COST, (IMAGE, KERNEL))]
    found: list[Bad] = []
    for name, values in BAD_OPTIONS.items():
        for value, error in values:
            found += [(name, function, args, {name: value}, error) for function, args in calls]
            parts = {"stride": 1, "padding": 0, "dilation": 1, name: value}
            layers = [((3, 3),), ((3, 3), *parts.values())]
            found.append((rf"layers\[1\] {name}", FIELD, (layers,), {}, error))
    return found


def bad_sizes() -> list[Bad]:
    found: list[Bad] = []
    for function in (SHAPE, BACK, POOL):
        found += [
            ("window", function, ((8, 8), 3), {}, TypeError),
            ("window", function, ((8, 8), "33"), {}, TypeError),
            ("window", function, ((8, 8), (3, 3.0)), {}, TypeError),
            ("window", function, ((8, 8), (True, True)), {}, TypeError),
            ("window", function, ((8, 8), {3, 4}), {}, TypeError),
            ("window", function, ((8, 8), (3, 0)), {}, ValueError),
            ("window", function, ((8, 8), ()), {}, ValueError),
            ("window", function, ((8,) * 4, (3,) * 4), {}, ValueError),
            ("spatial", function, (8, (3, 3)), {}, TypeError),
            ("spatial", function, (None, (3, 3)), {}, TypeError),
            ("spatial", function, ((8, 8.0), (3, 3)), {}, TypeError),
            ("spatial", function, ((8, True), (3, 3)), {}, TypeError),
            ("spatial", function, ((8, -1), (3, 3)), {}, ValueError),
            ("spatial", function, ((8,), (3, 3)), {}, ValueError),
            ("spatial", function, ((1, 3, 8, 8), (3, 3)), {}, ValueError),
        ]
    return found


OTHER_BAD: list[Bad] = [
    ("window", SHAPE, ((8, 8), (3, 9)), {}, ValueError),
    ("window", SHAPE, ((8, 8), (3, 3)), {"dilation": 4}, ValueError),
    ("window", SHAPE, ((8, 8), (3, 3)), {"padding": -3}, ValueError),
    ("window", SHAPE, ((0, 8), (1, 1)), {}, ValueError),
    ("window", POOL, ((8, 8), (3, 9)), {}, ValueError),
    ("window", POOL, ((8, 8), (3, 9)), {"stride": 1, "ceil_mode": True}, ValueError),
    ("padding", POOL, ((8, 8), (3, 3)), {"padding": 3}, ValueError),
    ("padding", POOL, ((8, 8), (3, 3)), {"padding": ((0, 0), (0, 3))}, ValueError),
    ("ceil_mode", POOL, ((8, 8), (3, 3)), {"ceil_mode": 1}, TypeError),
    ("ceil_mode", POOL, ((8, 8), (3, 3)), {"ceil_mode": "true"}, TypeError),
    ("output_padding", BACK, ((8, 8), (3, 3)), {"output_padding": 1}, ValueError),
    ("output_padding", BACK, ((8, 8), (3, 3)), {"output_padding": (0, 2), "stride": 2}, ValueError),
    ("output_padding", BACK, ((8, 8), (3, 3)), {"output_padding": -1, "stride": 2}, ValueError),
    ("output_padding", BACK, ((8, 8), (3, 3)), {"output_padding": 0.0}, TypeError),
    ("output_padding", BACK, ((8, 8), (3, 3)), {"output_padding": (0,)}, ValueError),
    ("padding", BACK, ((1, 8), (3, 3)), {"padding": 2}, ValueError),
    ("padding", BACK, ((1, 8), (3, 3)), {"padding": "full"}, ValueError),
    ("spatial", BACK, ((0, 8), (3, 3)), {}, ValueError),
    ("layers", FIELD, ([],), {}, ValueError),
    ("layers", FIELD, (3,), {}, TypeError),
    ("layers", FIELD, (None,), {}, TypeError),
    ("layers", FIELD, ([((3, 3),), ((3,),)],), {}, ValueError),
    (r"layers\[0\] must", FIELD, ([3],), {}, TypeError),
    (r"layers\[0\] must", FIELD, ([()],), {}, ValueError),
    (r"layers\[1\] must", FIELD, ([((3,),), ((3,), 1, 0, 1, 1)],), {}, ValueError),
    (r"layers\[0\] window", FIELD, ([(3, 1)],), {}, TypeError),
    (r"layers\[0\] window", FIELD, ([(3, 3)],), {}, TypeError),
    (r"layers\[0\] window", FIELD, ([((3, 0),)],), {}, ValueError),
    (r"layers\[1\] padding", FIELD, ([((3,),), ((3,), 2, "same")],), {}, ValueError),
    (r"layers\[0\] padding", FIELD, ([((3, 3), (1, 2), "Same_Lower")],), {}, ValueError),
    ("x_shape", COST, (8, KERNEL), {}, TypeError),
    ("x_shape", COST, ("8x8", KERNEL), {}, TypeError),
    ("x_shape", COST, ((4, 8, 8.0), KERNEL), {}, TypeError),
    ("x_shape", COST, ((4, 8, -8), KERNEL), {}, ValueError),
    ("x_shape", COST, ((8, 8), KERNEL), {}, ValueError),
    ("kernel_shape", COST, (IMAGE, 3), {}, TypeError),
    ("kernel_shape", COST, (IMAGE, (6, 4, 3, True)), {}, TypeError),
    ("kernel_shape", COST, (IMAGE, (6, 4)), {}, ValueError),
    ("kernel_shape", COST, (IMAGE, (6, 4, 1, 1, 1, 1)), {}, ValueError),
    ("kernel_shape", COST, (IMAGE, (6, 3, 3, 3)), {}, ValueError),
    ("kernel_shape", COST, (IMAGE, (6, 4, 0, 3)), {}, ValueError),
    ("kernel_shape", COST, (IMAGE, (6, 4, 9, 3)), {}, ValueError),
    ("groups", COST, (IMAGE, (5, 2, 3, 3)), {"groups": 2}, ValueError),
    ("kernel_shape", COST, (IMAGE, KERNEL), {"groups": 2}, ValueError),
    ("groups", COST, (IMAGE, KERNEL), {"groups": 0}, ValueError),
    ("groups", COST, (IMAGE, KERNEL), {"groups": 1.0}, TypeError),
    ("layout", COST, (IMAGE, KERNEL), {"layout": "NCW"}, ValueError),
    ("layout", COST, (IMAGE, KERNEL), {"layout": "CHWN"}, ValueError),
    ("layout", COST, (IMAGE, KERNEL), {"layout": 2}, TypeError),
    ("itemsize", COST, (IMAGE, KERNEL), {"itemsize": 0}, ValueError),
    ("itemsize", COST, (IMAGE, KERNEL), {"itemsize": 4.0}, TypeError),
]


def call_id(bad: Bad) -> str:
    _, function, args, options, _ = bad
    return f"{function.__name__}-{args}-{options}"


@pytest.mark.parametrize("bad", [*bad_options(), *bad_sizes(), *OTHER_BAD], ids=call_id)
def test_bad_calls_name_the_argument(bad: Bad):
    name, function, args, options, error = bad
    with pytest.raises(error, match=rf"^{name}\b") as caught:
        function(*args, **options)
    assert caught.type is error


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (lambda: SHAPE((5, 6), (7, 2)), ["(7, 2)", "(5, 6)"]),
        (lambda: SHAPE((5, 6), (2, 2), stride=(1, 2, 3)), ["(1, 2, 3)", "2"]),
        (lambda: SHAPE((5, 6), (2, 2), padding="sane"), ["'sane'", "same", "same_lower", "full"]),
        (lambda: COST((3, 5, 5), (2, 4, 2, 2)), ["(3, 5, 5)", "(2, 4, 2, 2)"]),
        (lambda: COST((3, 5), (2, 3, 2), layout="NHWC"), ["'NHWC'", "(2, 3, 2)", "NWC"]),
        (lambda: FIELD([((3, 3),), ((3,),)]), ["1", "2"]),
    ],
    ids=["window", "stride", "padding", "channels", "layout", "layers"],
)
def test_messages_say_what_came_and_what_is_needed(call, parts):
    with pytest.raises(ValueError, match="; ") as caught:
        call()
    assert [part for part in parts if part not in str(caught.value)] == []
