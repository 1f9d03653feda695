"""Half precision on a CPU: converted to the bit, turned for oneDNN, moved without being
widened; and sums of whole planes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import LAYOUTS, assert_close

import jaxconv as jc
from jaxconv._algorithms import _library, slices
from jaxconv._algorithms._apart import collected, cut_up, taken
from jaxconv._algorithms._cast import bits, cast
from jaxconv._form import PoolForm, Problem
from jaxconv._geometry import Geometry

BFLOAT16 = np.dtype(jnp.bfloat16)


def singles():
    """Every 16th pattern of the upper bits, all lower bits that decide, and the ends."""
    upper = np.arange(0, 2**16, 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x18000, 0x17FFF], np.uint32)
    ends = [0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00001, 0x80000001]
    return np.concatenate([(upper[:, None] + lower).ravel(), np.array(ends, np.uint32)])


def test_conversions_are_those_of_jax_to_the_bit():
    numbers = jnp.asarray(singles()).view(np.float32)
    want = np.asarray(numbers.astype(BFLOAT16)).view(np.uint16)
    np.testing.assert_array_equal(np.asarray(cast(numbers, BFLOAT16)).view(np.uint16), want)
    halves = jnp.arange(2**16, dtype=np.uint16).view(BFLOAT16)
    want = np.asarray(halves.astype(np.float32)).view(np.uint32)
    got = np.asarray(jax.jit(lambda half: cast(half, np.float32))(halves)).view(np.uint32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_other_conversions_are_jaxs_own(dtype):
    numbers = jnp.asarray(np.linspace(-3, 3, 50), np.float32)
    got = cast(numbers, dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, numbers.astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_blocks_are_moved_by_their_bits(dtype):
    """XLA:CPU would widen all of an array to read or write a part of it."""
    x = jnp.asarray(np.arange(7 * 5 * 3).reshape(7, 5, 3), dtype)
    blocks = cut_up(7, 5, 5)

    def copied(x):
        return collected(lambda block, x: taken(x, block, 1), blocks, 1, x, most_unrolled=1)

    np.testing.assert_array_equal(jax.jit(copied)(x).view(np.uint16), x.view(np.uint16))
    text = jax.jit(copied).lower(x).as_text()
    for name in ("dynamic_slice", "dynamic_update_slice"):
        lines = [line for line in text.splitlines() if f"stablehlo.{name} " in line]
        assert any("xi16>" in line for line in lines)
        assert not any("xf16>" in line or "xbf16>" in line for line in lines)
    assert bits(jnp.ones(3)).dtype == jnp.ones(3).dtype


@pytest.fixture
def with_bfloat16(monkeypatch):
    """As on a processor that oneDNN has bfloat16 for, whatever this one has: nothing is run."""
    monkeypatch.setattr(_library, "is_there", lambda: True)
    monkeypatch.setattr(_library, "_features", lambda: _library.BFLOAT16)


TURNED = [
    ((8, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "onednn", "onednn"),
    ((8, 64, 28, 28), (128, 64, 1, 1), {}, "matmul", "matmul"),
    ((8, 32, 28, 28), (64, 32, 3, 3), {"padding": 1, "stride": 2}, "onednn", "phases"),
    ((4, 64, 28, 28), (64, 1, 5, 5), {"padding": 2, "groups": 64}, "onednn", "onednn"),
    ((4, 64, 28, 28), (64, 8, 3, 3), {"padding": 1, "groups": 8}, "onednn", "onednn"),
]


@pytest.mark.parametrize(("image", "kernel", "options", "output", "input_grad"), TURNED)
@pytest.mark.usefixtures("with_bfloat16")
def test_what_onednn_is_fast_for_is_turned(image, kernel, options, output, input_grad):
    """Forward and back to the image; what kernel gradients write out is as fast as it lies."""
    found = jc.explain(image, kernel, dtype=BFLOAT16, platform="cpu", **options)
    for steps, name in ((found.output, output), (found.input_grad, input_grad)):
        assert [step.algorithm for step in steps][:2] == ["turned", name]
    assert found.kernel_grad[0].algorithm != "turned"
    last = (image[0], *image[2:], image[1]), (*kernel[2:], kernel[1], kernel[0])
    for shapes, more in (
        ((image, kernel), {"dtype": np.float32}),
        ((image, kernel), {"dtype": np.float16}),
        (last, {"dtype": BFLOAT16, "layout": LAYOUTS[2]}),
    ):
        steps = jc.explain(*shapes, platform="cpu", **options, **more)
        assert "turned" not in str(steps)


@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((8, 96, 56, 56), (96, 1, 3, 3), {"padding": 1, "groups": 96}),
        ((32, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
        ((1, 3, 8, 8), (8, 3, 3, 3), {}),
    ],
)
@pytest.mark.usefixtures("with_bfloat16")
def test_few_channels_are_computed_as_they_lie(image, kernel, options):
    found = jc.explain(image, kernel, dtype=BFLOAT16, platform="cpu", **options)
    assert "turned" not in str(found)


@pytest.mark.usefixtures("with_bfloat16")
def test_images_held_in_both_precisions_are_taken_in_parts():
    shapes, options = ((8, 96, 56, 56), (96, 1, 7, 7)), {"padding": 3, "groups": 96}
    for dtype, name in ((BFLOAT16, "batches"), (np.float32, "shift")):
        found = jc.explain(*shapes, dtype=dtype, platform="cpu", **options)
        assert found.kernel_grad[0].algorithm == name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("channels", [1, 9])
def test_what_does_not_overlap_is_compared_and_given_back(dtype, channels):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 6, 7, channels))
    x[0, 0, 0, 0], x[1, 3, 3, 0], x[1, :2, :2, 0] = np.nan, np.inf, -np.inf
    x = np.asarray(jnp.asarray(x, dtype))
    half = np.dtype(dtype)
    geometry = Geometry((6, 7), (2, 2), (2, 3), ((0, 0), (0, 0)), (1, 1), 1)
    form = PoolForm(geometry, (half, half))
    tiles = np.stack([x[:, :, at : at + 2].reshape(2, 3, 2, 2, channels) for at in (0, 3)], 2)
    got = slices.window_max(Problem("window_max", form, (x.shape,), "cpu"), jnp.asarray(x))
    np.testing.assert_array_equal(np.asarray(got, float), tiles.astype(float).max((3, 4)))
    y = jnp.asarray(rng.normal(size=got.shape), np.float32)
    spread = slices.window_spread(
        Problem("window_spread", PoolForm(geometry, (half, np.dtype(np.float32))), (y.shape,),
                "cpu"), y)  # fmt: skip
    want = np.zeros(x.shape)
    for row in range(6):
        for at in (0, 3):
            want[:, row, at : at + 2] = np.asarray(y, float)[:, row // 2, at // 3][:, None]
    assert spread.dtype == half
    assert_close(np.asarray(spread, float), want, 2**-8 if dtype == "bfloat16" else 2**-11)


@pytest.mark.parametrize("size", [1, 16, 17, 50, 300])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_sums_of_whole_planes(size, dtype):
    """All elements once, in whatever many slices; half precision rounded once."""
    x = np.random.default_rng(4).integers(-9, 9, (2, size, 8))
    geometry = Geometry((size,), (size,), (1,), ((0, 0),), (1,), 1)
    form = PoolForm(geometry, (np.dtype(dtype), np.dtype(dtype)))
    problem = Problem("window_sum", form, (x.shape,), "cpu")
    got = jax.jit(lambda x: slices.window_sum(problem, x))(jnp.asarray(x, dtype))
    want = jnp.asarray(x.sum(1, keepdims=True), dtype)
    np.testing.assert_array_equal(np.asarray(got, float), np.asarray(want, float))
