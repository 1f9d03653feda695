"""One table of cases that the value, gradient, dtype, layout, vmap and jit tests share."""

import math
import zlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

#: Largest error over largest output that a dtype may show. Half precision is summed in float32 and
#: rounded once, by half a unit in the last place: 2**-8 for bfloat16, 2**-11 for float16.
TOLERANCE = {
    "float64": 1e-12,
    "complex128": 1e-12,
    "float32": 2e-6,
    "complex64": 2e-6,
    "bfloat16": 2**-8 + 1e-5,
    "float16": 2**-11 + 1e-5,
}

#: Whether all cases are run (`pytest --full`).
FULL = False


def examples(count: int) -> int:
    """How many examples hypothesis draws: six times as many with `--full`."""
    return 6 * count if FULL else count


class Case(NamedTuple):
    """A call of `conv` (or `conv_transpose`), channels first."""

    id: str
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    options: dict[str, Any]

    @property
    def rank(self):
        return len(self.kernel) - 2

    @property
    def groups(self):
        return self.options.get("groups", 1)

    def arrays(self, dtype="float64"):
        """Seeded image, kernel and one bias for each output channel."""
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        shapes = self.image, self.kernel, (self.kernel[0],)
        return tuple(draw(rng, shape, dtype) for shape in shapes)


CONV = [
    Case("1x1", (2, 3, 4, 5), (2, 3, 1, 1), {}),
    Case("plain-1d", (2, 3, 9), (4, 3, 3), {}),
    Case("plain-2d", (2, 3, 6, 7), (4, 3, 3, 2), {}),
    Case("plain-3d", (1, 2, 4, 5, 4), (3, 2, 2, 3, 2), {}),
    Case("no-batch", (3, 6, 7), (2, 3, 3, 3), {}),
    Case("two-batch-axes", (2, 3, 2, 5, 5), (2, 2, 3, 3), {"padding": 1}),
    Case("window-is-input", (2, 3, 4, 3), (2, 3, 4, 3), {}),
    Case("stride", (2, 2, 8, 9), (3, 2, 3, 3), {"stride": (2, 3)}),
    Case("stride-over-window", (2, 2, 9, 8), (2, 2, 2, 1), {"stride": 3}),
    # The gradient that XLA's simplifier ends the process on, see `direct._set_apart`.
    Case("two-by-two-steps", (1, 1, 2, 4), (1, 1, 3, 2), {"stride": (1, 2), "padding": 1}),
    Case("unused-tail", (1, 2, 8), (2, 2, 2), {"stride": 4}),
    Case("padding", (2, 2, 5, 6), (2, 2, 3, 3), {"padding": 1}),
    Case("padding-per-axis", (1, 2, 5, 6), (2, 2, 5, 3), {"padding": (2, 1)}),
    Case("asymmetric", (1, 2, 5, 6), (2, 2, 3, 2), {"padding": ((2, 0), (1, 3))}),
    Case("over-padded", (1, 1, 3, 3), (2, 1, 2, 2), {"padding": 4, "stride": 2}),
    Case("negative", (1, 2, 8, 9), (2, 2, 3, 2), {"padding": ((-2, 1), (1, -3))}),
    Case("negative-strided", (1, 2, 9, 9), (2, 2, 2, 3), {"padding": -2, "stride": 2}),
    Case("same-odd", (1, 2, 5, 6), (2, 2, 3, 3), {"padding": "SAME"}),
    Case("same-even", (1, 2, 5, 6), (2, 2, 2, 4), {"padding": "same", "stride": (2, 1)}),
    Case("same-lower", (1, 2, 5, 6), (2, 2, 2, 4), {"padding": "same_lower", "stride": (2, 1)}),
    Case("full", (1, 2, 4, 3), (2, 2, 3, 2), {"padding": "full", "dilation": (1, 2)}),
    Case("causal", (2, 3, 8), (3, 3, 3), {"padding": "Causal", "dilation": 2}),
    Case("dilation", (1, 2, 9, 8), (2, 2, 3, 2), {"dilation": (2, 3)}),
    Case("dilation-stride", (1, 2, 11), (2, 2, 3), {"dilation": 3, "stride": 2, "padding": (2,)}),
    Case("groups", (2, 4, 6, 5), (6, 2, 3, 2), {"groups": 2, "padding": 1}),
    Case("depthwise", (2, 3, 6, 7), (3, 1, 3, 3), {"groups": 3, "stride": 2}),
    Case("depth-multiplier", (1, 3, 6, 6), (6, 1, 3, 2), {"groups": 3, "dilation": 2}),
    Case("depthwise-1d", (2, 4, 10), (4, 1, 4), {"groups": 4, "padding": "causal"}),
    Case("groups-3d", (1, 4, 4, 4, 3), (2, 2, 2, 2, 2), {"groups": 2, "stride": (2, 1, 1)}),
    Case("all-2d", (2, 4, 9, 10), (4, 2, 3, 2),
         {"stride": (2, 3), "padding": ((1, -1), (2, 3)), "dilation": (2, 1), "groups": 2}),
]  # fmt: skip

#: Explicit paddings: `conv`'s other modes, which have no transposed form.
MODES = [
    Case(f"{mode}-{name}", (2, 2, 6, 5), (3, 2, 3, 2), {"padding": padding, "padding_mode": mode})
    for mode in ("reflect", "replicate", "circular")
    for name, padding in {
        "even": 2, "uneven": ((3, 1), (0, 4)), "crop": ((-1, 3), (2, -2)), "same": "same",
    }.items()
]  # fmt: skip

TRANSPOSE = [
    Case("plain-1d", (2, 4, 5), (4, 3, 3), {}),
    Case("plain-2d", (2, 3, 4, 3), (3, 2, 3, 2), {}),
    Case("plain-3d", (1, 2, 3, 2, 3), (2, 2, 2, 3, 1), {}),
    Case("no-batch", (3, 4, 3), (3, 2, 3, 2), {"stride": 2}),
    Case("stride", (1, 3, 4, 3), (3, 2, 3, 2), {"stride": (2, 3)}),
    Case("stride-over-window", (1, 2, 3, 4), (2, 2, 2, 1), {"stride": 3}),
    Case("padding", (1, 2, 4, 5), (2, 2, 3, 4), {"stride": 2, "padding": (1, 2)}),
    Case("asymmetric", (1, 2, 4, 5), (2, 2, 3, 4), {"padding": ((0, 2), (3, 1))}),
    Case("negative", (1, 2, 3, 4), (2, 2, 2, 2), {"padding": ((-2, 1), (0, -1)), "stride": 2}),
    Case("output-padding", (1, 2, 3, 4), (2, 2, 3, 3),
         {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    Case("output-padding-dilation", (1, 2, 3, 4), (2, 2, 2, 2),
         {"dilation": 3, "output_padding": (2, 1)}),
    Case("same", (1, 2, 4, 3), (2, 2, 3, 4), {"padding": "same", "stride": (2, 3)}),
    Case("same-lower", (1, 2, 4, 3), (2, 2, 3, 4), {"padding": "same_lower", "stride": 1}),
    Case("same-stride-over-window", (1, 2, 4, 3), (2, 2, 2, 1),
         {"padding": "same", "stride": (3, 2)}),
    Case("valid", (1, 2, 4), (2, 2, 3), {"padding": "VALID", "stride": 2}),
    Case("full", (1, 2, 5, 6), (2, 2, 3, 2), {"padding": "full"}),
    Case("causal", (1, 2, 5), (2, 2, 3), {"padding": "causal", "dilation": 2}),
    Case("groups", (2, 6, 3, 4), (6, 2, 3, 2), {"groups": 2, "stride": 2, "padding": 1}),
    Case("depthwise", (1, 3, 4, 4), (3, 1, 2, 2), {"groups": 3, "stride": 2}),
    Case("to-nothing", (1, 2, 4), (2, 2, 3), {"padding": 3}),
]  # fmt: skip


class PoolCase(NamedTuple):
    """A call of a pool, channels first."""

    id: str
    image: tuple[int, ...]
    window: tuple[int, ...]
    options: dict[str, Any]

    @property
    def rank(self):
        return len(self.window)

    def array(self, dtype="float64"):
        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        return draw(rng, self.image, dtype)


POOL = [
    PoolCase("plain-1d", (2, 3, 8), (3,), {}),
    PoolCase("plain-2d", (2, 3, 6, 7), (2, 3), {}),
    PoolCase("plain-3d", (1, 2, 4, 5, 4), (2, 2, 3), {}),
    PoolCase("no-batch", (2, 5, 6), (2, 2), {"stride": 1}),
    PoolCase("two-batch-axes", (2, 1, 2, 5, 4), (3, 2), {"stride": 2}),
    PoolCase("whole-plane", (2, 3, 5, 6), (5, 6), {"stride": 1}),
    PoolCase(
        "whole-but-dilated", (2, 3, 2), (2,), {"stride": 1, "dilation": 2, "padding": ((0, 1),)}
    ),
    PoolCase("overlap", (1, 2, 7, 8), (3, 3), {"stride": (1, 2), "padding": 1}),
    PoolCase("stride-over-window", (1, 2, 9, 8), (2, 1), {"stride": 3}),
    PoolCase("asymmetric", (1, 2, 5, 6), (3, 3), {"padding": ((2, 0), (1, 2)), "stride": 1}),
    PoolCase("more-than-half", (1, 2, 4, 5), (3, 2), {"padding": (2, 1)}),
    PoolCase(
        "only-padding", (1, 1, 2, 3), (2, 2), {"padding": (2, 1), "dilation": (3, 1), "stride": 1}
    ),
    PoolCase("negative", (1, 2, 8, 9), (2, 3), {"padding": ((-2, 1), (1, -3)), "stride": 1}),
    PoolCase("dilation", (1, 2, 9, 8), (3, 2), {"dilation": (2, 3), "stride": 1}),
    PoolCase("same", (1, 2, 5, 6), (2, 3), {"padding": "same", "stride": (2, 1)}),
    PoolCase("causal", (2, 2, 8), (3,), {"padding": "causal", "stride": 1}),
    PoolCase("ceil", (1, 2, 5, 8), (2, 3), {"ceil_mode": True}),
    PoolCase("ceil-padding", (1, 2, 6, 7), (3, 2), {"ceil_mode": True, "padding": 1, "stride": 2}),
    PoolCase("ceil-drops", (1, 1, 3, 4), (1, 2), {"ceil_mode": True, "stride": (3, 3)}),
    PoolCase(
        "ceil-crops", (1, 2, 10), (3,), {"ceil_mode": True, "stride": 3, "padding": ((0, -6),)}
    ),
    PoolCase(
        "ceil-crops-2d",
        (1, 2, 9, 8),
        (2, 3),
        {"ceil_mode": True, "stride": 2, "padding": ((-1, 1), (1, -2)), "dilation": (2, 1)},
    ),
    PoolCase(
        "ceil-crops-all",
        (1, 2, 1),
        (2,),
        {"ceil_mode": True, "stride": 3, "padding": ((3, -2),), "dilation": 3},
    ),
    PoolCase("ceil-alone", (1, 1, 2), (3,), {"ceil_mode": True, "stride": 2}),
    PoolCase("long-window", (1, 2, 40), (19,), {"stride": 2}),
    PoolCase("long-dilated", (1, 2, 41), (19,), {"dilation": 2, "stride": 1}),
]


def draw(rng, shape, dtype):
    """Seeded numbers of a dtype: integers over their whole range, floats normal."""
    kind = np.dtype(getattr(jnp, dtype))
    if kind.kind in "iu":
        info = np.iinfo(kind)
        return rng.integers(info.min, info.max, shape, dtype=kind, endpoint=True)
    values = rng.normal(size=shape)
    if kind.kind == "c":
        values = values + 1j * rng.normal(size=shape)
    return values.astype(kind)


def distinct(x):
    """The same order, but values evenly apart, so that finite differences never meet a tie."""
    return (np.argsort(np.argsort(x, axis=None)).reshape(x.shape) - x.size / 2) / 8


LAYOUTS = {1: "NWC", 2: "NHWC", 3: "NDHWC"}


def last(image, rank):
    """An image's channels moved behind its spatial axes."""
    return jnp.moveaxis(image, -rank - 1, -1)


def first(image, rank):
    """An image's channels moved before its spatial axes."""
    return jnp.moveaxis(image, -1, -rank - 1)


def kernel_last(kernel):
    """A kernel in the channels-last order."""
    return jnp.moveaxis(kernel, (0, 1), (-1, -2))


def one_batch(image, rank):
    """An image with exactly one batch axis, for the oracles."""
    rows = math.prod(image.shape[: -rank - 1])
    return np.asarray(image).reshape(rows, *image.shape[-rank - 1 :])


def assert_close(got, want, tolerance):
    """Whether the largest error is within tolerance of the largest entry; NaNs must agree."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, (got.shape, want.shape)
    scale = np.nanmax(np.abs(want), initial=0, where=np.isfinite(want))
    dtype = complex if want.dtype.kind == "c" else float
    np.testing.assert_allclose(
        got.astype(dtype), want.astype(dtype), rtol=0, atol=tolerance * max(scale, 1e-300)
    )


def ids(cases):
    return [case.id for case in cases]
