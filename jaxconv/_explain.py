"""`explain`: what the table chooses for a call, and why."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from . import _arrays, _check, _mesh
from ._algorithms import _frame
from ._choice import choose
from ._conv import conv
from ._form import PROJECTIONS, Problem
from ._primitives import PLATFORMS, default_platform

#: What the names of the core's primitives begin with.
PREFIX = "jaxconv_"


class Step(NamedTuple):
    """One choice: an algorithm, and why it was taken.

    Attributes:
        algorithm: its name, one of `jaxconv.algorithms()`.
        reason: the table's reason.
    """

    algorithm: str
    reason: str


class Explanation(NamedTuple):
    """What computes each projection of a call. `str` of it is a readable table.

    Attributes:
        output: the forward pass: its algorithm, then those that it hands its parts to, in order.
        input_grad: the same for the gradient with respect to the image.
        kernel_grad: the same for the gradient with respect to the kernel.
    """

    output: tuple[Step, ...]
    input_grad: tuple[Step, ...]
    kernel_grad: tuple[Step, ...]

    def __str__(self) -> str:
        lines = []
        for name, steps in zip(self._fields, self, strict=True):
            for at, (algorithm, reason) in enumerate(steps):
                label = "" if at else name
                lines.append(f"{label:12} {'then ' if at else ''}{algorithm}: {reason}")
        return "\n".join(lines)


def explain(
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    *,
    dtype: Any = "float32",
    platform: str | None = None,
    **conv_args: Any,
) -> Explanation:
    """Which algorithm `conv` and its gradients take for these shapes, and why.

    The choice depends on shapes, dtype, options and platform alone, on a CPU also on whether the
    XLA that is installed has oneDNN, so on one machine it is always this one.

    Args:
        x_shape: shape of the images, as `conv` takes them.
        kernel_shape: shape of the kernel.
        dtype: of both.
        platform: `"cpu"`, `"cuda"`, `"rocm"` or `"tpu"`; None is where JAX computes by default.
        conv_args: as in `conv`: stride, padding, dilation, groups, padding_mode, layout, precision,
            preferred_element_type, algorithm.

    Returns:
        For each projection (output, input gradient, kernel gradient) the chosen algorithm with its
        reason, and then those that it reduces the problem to, if any.

    Raises:
        ValueError, TypeError: what `conv` raises for these arguments; an unknown platform.

    >>> print(explain((8, 96, 56, 56), (96, 1, 5, 5), groups=96, padding=2, platform="cpu"))
    output       shift: few channels to a group: all taps in one loop of vectors
    input_grad   shift: few channels to a group: all taps in one loop of vectors
    kernel_grad  shift: few channels to a group: all taps in one loop of vectors
    """
    platform = checked_platform(platform)
    kind = jax.dtypes.canonicalize_dtype(_arrays.dtype("dtype", dtype))
    shapes = _shape("x_shape", x_shape), _shape("kernel_shape", kernel_shape)
    arrays = [jax.ShapeDtypeStruct(shape, kind) for shape in shapes]
    equation = core_equation(functools.partial(conv, **conv_args), *arrays)
    (x, w), (y,) = equation.invars, equation.outvars
    held = {"x": x.aval, "w": w.aval, "y": y.aval}
    return Explanation(
        *(
            _steps(projection, equation.params["form"], [held[a], held[b]], platform)
            for projection, (a, b, _) in PROJECTIONS.items()
        )
    )


def checked_platform(platform: Any) -> str:
    """The platform asked for, or where JAX computes by default."""
    if platform is None:
        return default_platform()
    return _check.choice("platform", platform, PLATFORMS)


def core_equation(function: Callable[..., Any], *arrays: Any) -> Any:
    """The equation of the first of the core's primitives that a function of these arrays binds."""
    return next(_equations(jax.make_jaxpr(function)(*arrays).jaxpr, PREFIX))


def _equations(jaxpr: Any, name: str) -> Iterator[Any]:
    """All equations of primitives whose names begin so; jax 0.11 leaves inlined functions as
    equations of their own."""
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith(name):
            yield equation
        for value in equation.params.values():
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from _equations(inner, name)


def chosen(equation: Any, platform: str) -> tuple[str, ...]:
    """The algorithms that the table takes for an equation of the core's, one of `core_equation`.

    For a projection: its own, and those of its derivatives in its first and its second operand.
    For a map of windows: its own.
    """
    name, form = equation.primitive.name.removeprefix(PREFIX), equation.params["form"]
    shapes = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    where = _where(platform)
    if name not in PROJECTIONS:
        problem = Problem(name, form, tuple(shapes[:-1]), **where)
        return (choose(problem)[0].name,)
    held = dict(zip(PROJECTIONS[name], shapes, strict=True))
    first, second, _ = PROJECTIONS[name]
    giving = {result: projection for projection, (*_, result) in PROJECTIONS.items()}
    names = []
    for asked in (name, giving[first], giving[second]):
        a, b, _ = PROJECTIONS[asked]
        problem = Problem(asked, form, (held[a], held[b]), **where)
        names.append(choose(problem)[0].name)
    return tuple(names)


def _where(platform: str) -> dict[str, Any]:
    """What a problem says of where it is computed: here, and by this process."""
    return {"platform": platform, "portable": _mesh.is_cached(), "choose": choose}


def _shape(name: str, value: Any) -> tuple[int, ...]:
    items = _check.sequence(name, value, "a sequence of ints, one per axis")
    return tuple(_check.integer(f"{name}[{axis}]", item, 0) for axis, item in enumerate(items))


def _steps(projection: str, form: Any, operands: list[Any], platform: str) -> tuple[Step, ...]:
    """The choice for a projection, and what its algorithm chooses in turn while it is traced."""
    shapes = tuple(operand.shape for operand in operands)
    problem = Problem(projection, form, shapes, **_where(platform))
    algorithm, reason = choose(problem)
    steps = [Step(algorithm.name, reason)]

    def compute(*arrays: Any) -> Any:
        with _frame.recorded() as parts:
            result = algorithm.maps[projection](problem, *arrays)
        steps.extend(Step(*part) for part in parts)
        return result

    if not any(0 in operand.shape for operand in operands):
        jax.eval_shape(compute, *operands)
    return tuple(dict.fromkeys(steps))
