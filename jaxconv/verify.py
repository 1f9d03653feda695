"""Proving gradients right: your own derivation against four others, in float64.

What belongs here is the two doors, `check_gradients` and `assert_gradients`; what they are made of
is in `_verify`. It knows convolutions well enough to name the slips that derivations of theirs
have, and works on any function.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat, SupportsIndex

from . import _check
from ._verify.check import run
from ._verify.compare import Limits
from ._verify.report import Kink, Report, Row

__all__ = ["Kink", "Report", "Row", "assert_gradients", "check_gradients"]

#: 2**order - 1 mixtures of modes are compiled.
HIGHEST_ORDER = 5


def check_gradients(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    closed_form: Callable[..., Any] | None = None,
    order: SupportsIndex = 2,
    seed: SupportsIndex = 0,
    rtol: SupportsFloat | None = None,
    atol: SupportsFloat | None = None,
) -> Report:
    """Compare a function's derivatives, and a closed form of its gradient, with each other.

    With J the matrix of derivatives, u a cotangent of the output (`dy`) and v a vector like the
    arguments, all of these have to agree:

        closed form      closed_form(*args, u) = J'u
        reverse mode     jax.vjp, J'u
        forward mode     jax.jvp, J v
        differences      (f(x + h v) - f(x - h v)) / 2h, extrapolated to h = 0 (Ridders 1982)
        adjoint          <J v, u> = <v, J'u>
        higher orders    each mixture of the two modes, against differences of one order less

    All of it is done in float64, whatever `jax_enable_x64` is; mixed dtypes and ranks are promoted
    and NaN raises nothing while it runs. Arguments of up to 100 entries are moved entry by entry,
    larger ones in 100 entries drawn at random (fewer where the output is huge); all together along
    random vectors. The closed form is compared with reverse mode in every entry.

    Where the slopes to the left and to the right differ (ties of a maximum, the corner of relu)
    there is no derivative: the report names the entry and both slopes, and takes any gradient
    between them for right. Such entries are left out of higher orders.

    A wrong gradient is compared with what known slips would give: kernel not rotated, correlation
    where full convolution is due, stride not re-inserted, padding off by one, groups mixed, sum
    instead of mean, factor 2 and others. A slip is named if it gives exactly what came. Those of
    convolutions are found wherever `fn` calls `jaxconv.conv`, `conv_transpose` or `lax`'s own.

    Args:
        fn: what is differentiated: takes arrays, or pytrees of them, and returns an array or a
            pytree. It is jitted if it can be; a function with Python branches on values runs
            eagerly. Integer outputs have no derivative and are left out.
        args: its arguments, a tuple or list of arrays, numbers or pytrees of these; all become
            float64. What has no derivative is closed over: `lambda x: fn(x, flag)`. A function of
            complex numbers is checked as one of real and imaginary parts.
        closed_form: your derivation, called as `closed_form(*args, dy)` with `dy` like the output:
            returns one gradient per argument, like the argument, in a tuple or list; None for an
            argument whose gradient is not derived. May be written in NumPy. With a single argument
            its gradient alone will do.
        order: the highest order of derivatives to check, 1 to 5. Order n compiles `2**n - 1`
            mixtures of modes.
        seed: of the random vectors and samples.
        rtol: relative error up to which numbers are equal, instead of 1e-7 against differences (10
            times as much for each higher order) and 1e-10 between forms. Relative to the entry, or
            to what the differences, or the rounding of fn's own values, can tell apart.
        atol: an absolute error that is allowed on top, 0 if None.

    Returns:
        A `Report`: `ok`, `max_error` (relative), `rows`, `kinks`, `likely`;
        `str(report)` is a table that says first which argument and entry is wrong, what came,
        what is right, and the likely slip. A wrong shape or number of gradients is such a finding
        too. A missing mode (forward through a `custom_vjp`) is said and not wrong. What `fn` or
        `closed_form` themselves raise is not caught.

    Raises:
        TypeError: something that cannot be called or has no derivative, arguments that `fn` does
            not take, an `fn` that does not return float64 (a cast inside of it).
        ValueError: a bad order, seed or tolerance, no arguments.

    Source: notes, section 7; C. Ridders, "Accurate computation of F'(x)", Adv. Eng. Softw. 4, 1982.

    >>> import jax.numpy as jnp
    >>> def square(x):
    ...     return x**2
    >>> check_gradients(square, (jnp.arange(3.0),), closed_form=lambda x, dy: 2 * x * dy).ok
    True
    >>> check_gradients(square, (jnp.arange(3.0),), closed_form=lambda x, dy: x * dy).likely
    ('factor 1/2: half of what is right',)
    """
    for name, value in (("fn", fn), ("closed_form", closed_form)):
        if not callable(value) and not (name == "closed_form" and value is None):
            raise TypeError(f"{name} must be callable; got {_check.describe(value)}")
    if not isinstance(args, (tuple, list)):
        raise TypeError(
            f"args must be a tuple or list of fn's arguments, (x,) for one; "
            f"got {_check.describe(args)}"
        )
    if not args:
        raise ValueError("args must hold at least one argument to differentiate by; got none")
    highest = _check.integer("order", order, 1)
    if highest > HIGHEST_ORDER:
        raise ValueError(f"order must be 1 to {HIGHEST_ORDER}; got {highest}")
    limits = Limits(_tolerance("rtol", rtol), _tolerance("atol", atol))
    return run(fn, tuple(args), closed_form, highest, _check.integer("seed", seed, 0), limits)


def assert_gradients(
    fn: Callable[..., Any],
    args: Sequence[Any],
    *,
    closed_form: Callable[..., Any] | None = None,
    order: SupportsIndex = 2,
    seed: SupportsIndex = 0,
    rtol: SupportsFloat | None = None,
    atol: SupportsFloat | None = None,
) -> None:
    """`check_gradients`, raising the report where something is wrong: for tests.

    Args:
        fn, args, closed_form, order, seed, rtol, atol: as in `check_gradients`.

    Returns:
        None, if all gradients agree.

    Raises:
        AssertionError: with the report as its message.
        TypeError, ValueError: as in `check_gradients`.

    >>> import jax.numpy as jnp, jaxconv as jc
    >>> def closed_form(x, kernel, dy):
    ...     dx = jc.conv_transpose(dy, kernel)         # the full convolution with rot180 kernel
    ...     return dx, jc.conv(x[:, None], dy[:, None])[None, :, 0]
    >>> x, kernel = jnp.arange(6.0).reshape(1, 6) ** 2, jnp.array([[[1.0, 2.0, 4.0]]])
    >>> assert_gradients(jc.conv, (x, kernel), closed_form=closed_form)
    """
    report = check_gradients(
        fn, args, closed_form=closed_form, order=order, seed=seed, rtol=rtol, atol=atol
    )
    if not report.ok:
        raise AssertionError(str(report))


def _tolerance(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or None; got {_check.describe(value)}") from None
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite; got {number}")
    return number
