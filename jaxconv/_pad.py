"""Padding modes other than zeros, which the convolution itself provides: explicit, before it."""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ._check import Pairs
from ._geometry import Ints
from ._layout import Layout

#: Our names (torch's) and those of `jnp.pad`.
MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def check(mode: str, spatial: Ints, pairs: Pairs) -> None:
    """Each mode needs something to repeat.

    Raises:
        ValueError: `reflect` with padding >= n, `circular` with padding > n (what is left of the
            input after cropping), `replicate` of nothing.
    """
    for axis, (n, (low, high)) in enumerate(zip(spatial, pairs, strict=True)):
        most = {
            "reflect": n - 1,
            "replicate": max(low, high) if n else 0,
            "circular": n + min(low, 0) + min(high, 0),
            "zeros": max(low, high),
        }[mode]
        if max(low, high, 0) > max(most, 0):
            raise ValueError(
                f"padding must be at most {max(most, 0)} on axis {axis} of size {n} in "
                f"padding_mode {mode!r}; got {(low, high)}"
            )


def pad(x: Array, layout: Layout, pairs: Pairs, mode: str) -> Array:
    """`x` padded along its spatial axes; negative padding crops.

    `circular` wraps what is left after cropping, the others extend the whole input and crop then,
    as `torch.nn.functional.pad` does.
    """
    first = layout.first_spatial(x.ndim)
    config: list[Any] = [(0, 0)] * x.ndim
    config[first : first + layout.rank] = pairs
    added = [(max(low, 0), max(high, 0)) for low, high in config]
    if mode == "circular":
        return jnp.pad(_crop(x, config), added, mode="wrap")
    return _crop(jnp.pad(x, added, mode=MODES[mode]), config)


def _crop(x: Array, config: list[tuple[int, int]]) -> Array:
    starts = [max(-low, 0) for low, _ in config]
    stops = [size - max(-high, 0) for size, (_, high) in zip(x.shape, config, strict=True)]
    return lax.slice(x, starts, stops)
