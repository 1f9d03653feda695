"""fn's jaxpr: its convolutions, what they are given, and the cotangents that reach them.

The jaxpr is evaluated equation by equation, calls that hold a convolution opened, and a zero added
to each convolution's result: the gradient with respect to that zero is the cotangent there. Rules
that a `custom_vjp` puts in place of derivatives are opened too, so that the gradient found here is
that of what the function computes. Nothing here knows of slips.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from .._form import PROJECTIONS, Form
from .function import Function
from .trilinear import Ints, Steps

#: Primitives that only call another jaxpr, and the parameters that hold it.
CALLS = (
    "jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call",
    "custom_vjp_call", "custom_vjp_call_jaxpr",
)  # fmt: skip
HOLDERS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
#: Floats that lose digits of float64.
NARROW = [np.dtype(dtype) for dtype in (jnp.float32, jnp.float16, jnp.bfloat16)]


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution of fn, in the terms of the trilinear form.

    Attributes:
        arrays: which of x, w, y its two operands and its result are.
        orders: for each of x, w, y the axes that bring it to channels first.
        steps: how its windows move.
        sizes: the channels-first shapes of all three.
    """

    arrays: tuple[str, str, str]
    orders: dict[str, Ints]
    steps: Steps
    sizes: dict[str, Ints]

    def first(self, name: str, array: Any) -> np.ndarray:
        """An array in fn's own order of axes as channels first."""
        return np.transpose(np.asarray(array), self.orders[name])

    def own(self, name: str, array: np.ndarray) -> np.ndarray:
        """A channels-first array in fn's own order of axes."""
        return np.transpose(array, np.argsort(self.orders[name]))


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function seen from inside.

    Attributes:
        convolutions: those that are reached through calls alone.
        gradient: `(z, u)` to J'u, whatever rules fn brings along.
        arrays: `u` to the three arrays of each convolution, channels first: its two operands, and
            the cotangent that u sends to its result.
        spread: `(convolution, operand's name, cotangent)` to what a cotangent of this operand adds
            to J'u.
        shapes: of every array and every window that occurs.
    """

    convolutions: tuple[Convolution, ...]
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray]
    arrays: Callable[[np.ndarray], list[dict[str, np.ndarray]]]
    spread: Callable[[int, str, np.ndarray], np.ndarray]
    shapes: frozenset[Ints]


def trace(function: Function) -> Traced | None:
    """`function` from inside; None where it cannot be traced, or not run equation by equation."""
    if function.eager:
        return None
    try:
        return _trace(function)
    except Exception:  # this only serves the naming of slips, which must not hide what is wrong
        return None


def _trace(function: Function) -> Traced:
    closed = jax.make_jaxpr(function.flat)(jnp.asarray(function.point))
    sites = list(_sites(closed.jaxpr))

    def opened(z: Any, added: Any) -> Any:
        seen: list[Any] = []
        (out,) = _run(closed.jaxpr, closed.consts, [z], iter(added), seen)
        return out, seen

    @jax.jit
    def pull(z: Any, u: Any, cotangents: Any) -> Any:
        shifts = [jnp.zeros(site.shapes[2]) for site in sites]
        (_, seen), back = jax.vjp(opened, z, shifts)
        return seen, *back((u, cotangents))

    nothing = [[np.zeros(shape) for shape in site.shapes[:2]] for site in sites]
    convolutions = tuple(_convolution(site) for site in sites)
    point, silent = function.point, np.zeros(function.size)

    # Compiled when it is needed; that it can be is seen here.
    jax.eval_shape(pull, jnp.asarray(point), jnp.asarray(silent), nothing)

    def arrays(u: np.ndarray) -> list[dict[str, np.ndarray]]:
        operands, _, cotangents = pull(point, u, nothing)
        found = []
        for one, pair, delta in zip(convolutions, operands, cotangents, strict=True):
            named = zip(one.arrays, (*pair, delta), strict=True)
            found.append({name: one.first(name, value) for name, value in named})
        return found

    def spread(at: int, name: str, cotangent: np.ndarray) -> np.ndarray:
        one, given = convolutions[at], [list(pair) for pair in nothing]
        given[at][one.arrays.index(name)] = one.own(name, cotangent)
        return np.asarray(pull(point, silent, given)[1])

    return Traced(
        convolutions,
        lambda z, u: np.asarray(pull(z, u, nothing)[1]),
        arrays,
        spread,
        frozenset(_shapes(closed.jaxpr)),
    )


def narrowed(function: Function) -> str:
    """The narrower dtype that some float64 array in fn is cast to, or `""`."""
    if function.eager:
        return ""
    closed = jax.make_jaxpr(function.flat)(jnp.asarray(function.point))
    return next(_casts(closed.jaxpr), "")


# Walking through a jaxpr.


class Site(NamedTuple):
    """An equation that is a convolution; shapes in fn's own order of axes."""

    arrays: tuple[str, str, str]
    orders: dict[str, Ints]
    steps: Steps
    shapes: tuple[Ints, Ints, Ints]


def _inner(eqn: Any) -> Any:
    """The jaxpr that a call calls and its constants, or None."""
    if eqn.primitive.name not in CALLS:
        return None
    held = next((eqn.params[name] for name in HOLDERS if name in eqn.params), None)
    if held is None:
        return None
    return getattr(held, "jaxpr", held), getattr(held, "consts", ())


def _sites(jaxpr: Any) -> Iterator[Site]:
    """The convolutions, in order of evaluation."""
    for eqn in jaxpr.eqns:
        site, inner = _site(eqn), _inner(eqn)
        if site is not None:
            yield site
        elif inner is not None:
            yield from _sites(inner[0])


def _overruled(eqn: Any) -> bool:
    """Whether a rule stands in place of a derivative, in this equation or inside of it."""
    inner = _inner(eqn)
    if eqn.primitive.name.startswith("custom_vjp"):
        return inner is not None
    return inner is not None and any(_overruled(one) for one in inner[0].eqns)


def _shapes(jaxpr: Any) -> Iterator[Ints]:
    """Shapes of all arrays and of all windows."""
    for eqn in jaxpr.eqns:
        for var in (*eqn.invars, *eqn.outvars):
            yield tuple(getattr(var.aval, "shape", ()))
        geometry = getattr(eqn.params.get("form"), "geometry", None)
        yield tuple(eqn.params.get("window_dimensions", geometry.window if geometry else ()))
        inner = _inner(eqn)
        if inner is not None:
            yield from _shapes(inner[0])


def _casts(jaxpr: Any) -> Iterator[str]:
    """Narrower floats that float64 is cast to, anywhere inside."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "convert_element_type":
            given, result = eqn.invars[0].aval.dtype, eqn.outvars[0].aval.dtype
            if given == np.float64 and result in NARROW:
                yield str(result)
        for held in jax.tree.leaves(list(eqn.params.values())):
            if hasattr(held, "eqns"):
                yield from _casts(held)


def _run(jaxpr: Any, consts: Any, args: Any, added: Iterator[Any], seen: list[Any]) -> list[Any]:
    """Evaluate, with `added` on top of each convolution's result; operands go into `seen`."""
    values: dict[Any, Any] = {}
    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        given = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
        inner = _inner(eqn)
        if inner is not None and (_overruled(eqn) or any(True for _ in _sites(inner[0]))):
            results = _run(inner[0], inner[1], given, added, seen)
        else:
            params = eqn.primitive.get_bind_params(eqn.params)
            results = eqn.primitive.bind(*given, **params)
            results = results if eqn.primitive.multiple_results else [results]
        if _site(eqn) is not None:
            seen.append(given)
            results = [results[0] + next(added)]
        values.update(zip(eqn.outvars, results, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


# One convolution.


def _site(eqn: Any) -> Site | None:
    """A real convolution that is one of the three projections, else None."""
    if any(getattr(v.aval, "dtype", None) != np.float64 for v in (*eqn.invars, *eqn.outvars)):
        return None
    form = eqn.params.get("form")
    if isinstance(form, Form):
        found = _of_form(eqn.primitive.name.removeprefix("jaxconv_"), form)
    elif eqn.primitive.name == "conv_general_dilated":
        found = _of_lax(eqn.params)
    else:
        return None
    if found is None:
        return None
    shapes: Any = tuple(v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    return Site(found[0], found[1], found[2], shapes)


def _of_form(projection: str, form: Form) -> tuple[Any, Any, Steps]:
    geometry, rank = form.geometry, form.layout.rank
    image = kernel = tuple(range(rank + 2))
    if form.layout.channels_last:
        image, kernel = (0, rank + 1, *range(1, rank + 1)), (rank + 1, rank, *range(rank))
    low = tuple(low for low, _ in geometry.padding)
    steps = Steps(geometry.stride, geometry.dilation, low, geometry.groups)
    return PROJECTIONS[projection], {"x": image, "w": kernel, "y": image}, steps


def _of_lax(params: dict[str, Any]) -> tuple[Any, Any, Steps] | None:
    numbers, rank = params["dimension_numbers"], len(params["window_strides"])
    plain = set(params["lhs_dilation"]) <= {1} and params["batch_group_count"] == 1
    if not plain or not 1 <= rank <= 3:
        return None
    orders = {"x": numbers.lhs_spec, "w": numbers.rhs_spec, "y": numbers.out_spec}
    steps = Steps(
        tuple(params["window_strides"]),
        tuple(params["rhs_dilation"]),
        tuple(low for low, _ in params["padding"]),
        params["feature_group_count"],
    )
    return ("x", "w", "y"), {name: tuple(order) for name, order in orders.items()}, steps


def _convolution(site: Site) -> Convolution:
    named = zip(site.arrays, site.shapes, strict=True)
    sizes = {name: tuple(shape[axis] for axis in site.orders[name]) for name, shape in named}
    return Convolution(site.arrays, site.orders, site.steps, sizes)
