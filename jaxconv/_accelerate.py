"""`accelerate`: jaxconv's algorithms for every convolution in the process, whoever wrote it."""

import collections
import math
import threading
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax import lax, version

from . import _check, _lax, _mesh
from ._arrays import accumulator
from ._views import VIEWS

#: Multiply-adds up to which an ordinary convolution is left to lax.
SMALL = 80_000

_lock = threading.Lock()
_taken: collections.Counter[str] = collections.Counter()
_left: collections.Counter[str] = collections.Counter()


class Acceleration:
    """What `accelerate` returns: a context manager that puts back on leaving what was before.

    Attributes:
        taken: how many operations of each of lax's primitives have been lowered with jaxconv's
            algorithms in this process, as a `collections.Counter`. Compiled programs that are run
            again, and equal operations of one program, count once.
        left: how many were left to lax while acceleration was on: several devices, sizes that are
            not known, dtypes or windows that jaxconv has no form for, convolutions of a few
            thousand products.
    """

    def __init__(self, before: bool):
        self._before = before
        self.taken = _taken
        self.left = _left

    def __repr__(self) -> str:
        def count(counter: collections.Counter[str]) -> str:
            return ", ".join(f"{name} {n}" for name, n in sorted(counter.items())) or "nothing"

        return f"Acceleration(taken: {count(self.taken)}; left to lax: {count(self.left)})"

    def __enter__(self) -> "Acceleration":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _switch(self._before)


def accelerate(enable: bool = True) -> Acceleration:
    """From now on every convolution and window reduction of lax takes jaxconv's algorithms.

    Whoever calls it, and whether it was imported before or after: Flax, Equinox, Haiku, Keras,
    `jax.numpy.convolve`, `jax.scipy.signal`, and all derivatives. On the platforms where they win,
    that is on CPUs. Elsewhere lax's own lowering stays, as it does where an operation has no form
    here (over several devices, with symbolic sizes, float8) or is so small that compiling is all it
    costs. Results are lax's to rounding, errors are lax's. What has been compiled is forgotten, so
    programs that ran before are compiled again.

        jaxconv.accelerate()                # for the rest of the process
        with jaxconv.accelerate(): ...      # within
        jaxconv.accelerate(False)           # lax as it was

    The lowering changes, nothing above it: transformations, shapes, dtypes, shardings and tracing
    are untouched. It is the process that is switched, not the thread. Calling it again changes
    nothing. Programs compiled ahead of time (`jit(f).lower(x).compile()`) stay what they are.

    Where several elements of a max pool's window are NaN, its gradient goes to the first, where
    lax's CPU lowering may take another.

    Args:
        enable: False puts everything back.

    Returns:
        A context manager, on leaving which things are as before; see its `taken` and `left`.

    Raises:
        TypeError: when `enable` is not a bool.

    Warns:
        RuntimeWarning: when the installed jax is not as this version of jaxconv knows it. Nothing
            is changed then.

    >>> import jax.numpy as jnp
    >>> with accelerate() as acceleration:
    ...     y = lax.reduce_window(jnp.arange(6.0), -jnp.inf, lax.max, (2,), (2,), "VALID")
    >>> y.tolist(), acceleration.taken["reduce_window_max"] > 0
    ([1.0, 3.0, 5.0], True)
    """
    return Acceleration(_switch(_check.flag("enable", enable)))


def _switch(on: bool) -> bool:
    """Turn on or off; whether it was on before."""
    with _lock:
        before = _lax.replaced()
        if on == before:
            return before
        if on and (reason := _lax.unexpected()):
            warnings.warn(
                f"jaxconv.accelerate() has changed nothing: jaxconv does not know jax "
                f"{version.__version__} ({reason}); a newer jaxconv may",
                RuntimeWarning,
                stacklevel=3,
            )
            return before
        if on:
            _lax.replace({primitive: _accelerated(primitive) for primitive in VIEWS})
        else:
            _lax.restore()
        jax.clear_caches()
        return before


def _accelerated(primitive: Any) -> Any:
    """Given lax's own rule for a primitive, the one to stand in its place."""

    def replacement(own: _lax.Rule) -> _lax.Rule:
        def rule(ctx: Any, *operands: Any, **params: Any) -> Any:
            if _lax.own_asked_for():
                return own(ctx, *operands, **params)
            program = None
            if _mesh.devices(ctx) == 1 and not is_small(primitive, ctx, params):
                program = VIEWS[primitive](*ctx.avals_in, *ctx.avals_out, params)
            counter = _left if program is None else _taken
            counter[primitive.name] += 1
            if program is None:
                return own(ctx, *operands, **params)
            return _mesh.lower(program, ctx, *operands)

        return rule

    return replacement


def is_small(primitive: Any, ctx: Any, params: Mapping[str, Any]) -> bool:
    """Whether it is an ordinary convolution that lax does in some 20 microseconds: less than a
    tenth of a second more of compiling would be worth."""
    if primitive is not lax.conv_general_dilated_p:
        return False
    (_, kernel), (result,) = ctx.avals_in, ctx.avals_out
    ordinary = params["feature_group_count"] == params["batch_group_count"] == 1
    ordinary &= all(step == 1 for step in params["lhs_dilation"])
    sizes = (*result.shape, *(kernel.shape[axis] for axis in params["dimension_numbers"].rhs_spec))
    known = all(type(size) is int for size in sizes)
    if not (ordinary and known and accumulator(result.dtype) == np.float32):
        return False
    outputs = sizes[result.ndim]
    return math.prod(sizes) <= SMALL * outputs
