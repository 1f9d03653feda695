"""lax's own lowerings, and what stands in their place: all that jaxconv knows of jax's inside.

A primitive's lowering, the function that writes it down for a platform, is registered with jax in a
table, by `jax.interpreters.mlir.register_lowering`. jax has no public way to read that table or to
take an entry out again; both are done here, after a look at whether it is as expected.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

PLATFORM = "cpu"
#: The parameters of each primitive that can be replaced.
PARAMETERS = {
    lax.conv_general_dilated_p: {
        "window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers",
        "feature_group_count", "batch_group_count", "precision", "preferred_element_type",
        "out_sharding",
    },
    lax.reduce_window_max_p: {
        "window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation",
    },
    lax.select_and_scatter_add_p: {
        "select_prim", "window_dimensions", "window_strides", "padding",
    },
    lax.select_and_gather_add_p: {
        "select_prim", "window_dimensions", "window_strides", "padding", "base_dilation",
        "window_dilation",
    },
}  # fmt: skip
for _like_max in (lax.reduce_window_min_p, lax.reduce_window_sum_p):
    PARAMETERS[_like_max] = PARAMETERS[lax.reduce_window_max_p]

#: `(ctx, *operands, **params) -> results`.
Rule = Callable[..., Any]

#: While lowerings are replaced: the entries of jax's table that were there.
_entries: dict[Primitive, Any] = {}
#: lax's own rules. They stay: a program may be half lowered when another thread puts things back.
_own: dict[Primitive, Rule] = {}
_only_own: contextvars.ContextVar[bool] = contextvars.ContextVar("only_own", default=False)


def unexpected() -> str | None:
    """What is not as this file expects it in the jax that is installed; None when all is."""
    try:
        by_platform, common, entry = _tables()
    except (ImportError, AttributeError) as error:
        return str(error)
    for primitive in PARAMETERS:
        found = by_platform[PLATFORM].get(primitive, common.get(primitive))
        if not isinstance(found, entry) or not callable(getattr(found, "rule", None)):
            return f"{primitive} has no lowering of the expected kind"
    return _unexpected_parameters()


def replaced() -> bool:
    """Whether lowerings are replaced now."""
    return bool(_entries)


def replace(rules: Mapping[Primitive, Callable[[Rule], Rule]]) -> None:
    """Put `rules[primitive](lax's own rule)` in the place of lax's own rules on CPUs."""
    by_platform, common, _ = _tables()
    for primitive, rule in rules.items():
        entry = by_platform[PLATFORM].get(primitive)
        _own[primitive] = (common[primitive] if entry is None else entry).rule
        _entries[primitive] = entry
        mlir.register_lowering(primitive, rule(_own[primitive]), platform=PLATFORM)


def restore() -> None:
    """Put the entries of jax's table back that `replace` found there."""
    by_platform, _, _ = _tables()
    for primitive, entry in _entries.items():
        if entry is None:
            by_platform[PLATFORM].pop(primitive, None)
        else:
            by_platform[PLATFORM][primitive] = entry
    _entries.clear()


def own_asked_for() -> bool:
    """Whether what is being lowered is part of one of lax's own lowerings."""
    return _only_own.get()


def by_lax(function: Callable[..., Array], *operands: Array) -> Array:
    """`function(*operands)`, one operation of lax's, by lax's own lowering in any case."""
    if not replaced():
        return function(*operands)
    jaxpr = jax.make_jaxpr(function)(*operands).jaxpr
    equation = jaxpr.eqns[-1]
    if len(jaxpr.eqns) != 1 or equation.primitive not in _own:
        return function(*operands)
    params = tuple(sorted(equation.params.items()))
    return own_p.bind(*operands, operation=equation.primitive, params=params)


own_p = Primitive("jaxconv_own")


def _own_result(*operands: Any, operation: Primitive, params: tuple[tuple[str, Any], ...]) -> Any:
    return jax.make_jaxpr(lambda *values: operation.bind(*values, **dict(params)))(
        *operands
    ).out_avals[0]


def _lower_own(ctx: Any, *operands: Any, operation: Primitive, params: Any) -> Any:
    with _own_only():
        return _own[operation](ctx.replace(primitive=operation), *operands, **dict(params))


def _lower_elsewhere(*operands: Array, operation: Primitive, params: Any) -> Array:
    return operation.bind(*operands, **dict(params))


own_p.def_abstract_eval(_own_result)
own_p.def_impl(_lower_elsewhere)
mlir.register_lowering(own_p, mlir.lower_fun(_lower_elsewhere, multiple_results=False))
mlir.register_lowering(own_p, _lower_own, platform=PLATFORM)


@contextlib.contextmanager
def _own_only() -> Iterator[None]:
    token = _only_own.set(True)
    try:
        yield
    finally:
        _only_own.reset(token)


def _tables() -> tuple[Any, Any, Any]:
    """jax's lowerings for single platforms, those for all, and the class of their entries."""
    from jax._src.interpreters import mlir as inside

    return inside._platform_specific_lowerings, inside._lowerings, inside.LoweringRuleEntry  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]


def _unexpected_parameters() -> str | None:
    """Trace one of each, and see whether it says what it is to do in the expected words."""

    def every(x: Any, kernel: Any) -> Any:
        pooled = [
            lax.reduce_window(x, init, monoid, (1, 2, 1), (1, 1, 1), "VALID")
            for monoid, init in ((lax.max, -np.inf), (lax.min, np.inf), (lax.add, 0.0))
        ]
        return lax.conv(x, kernel, (1,), "VALID"), pooled

    def maximum(x: Any) -> Any:
        return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 1), (1, 1, 1), "VALID")

    x, kernel = np.zeros((1, 3, 3), np.float32), np.zeros((1, 3, 1), np.float32)
    jaxprs = (
        jax.make_jaxpr(every)(x, kernel),
        jax.make_jaxpr(lambda x: jax.jvp(maximum, (x,), (x,)))(x),
        jax.make_jaxpr(lambda x: jax.vjp(maximum, x)[1](maximum(x)))(x),
    )
    met = {e.primitive: set(e.params) for jaxpr in jaxprs for e in jaxpr.jaxpr.eqns}
    for primitive, expected in PARAMETERS.items():
        if met.get(primitive) != expected:
            return f"{primitive} has parameters {sorted(met.get(primitive, ()))}"
    return None
