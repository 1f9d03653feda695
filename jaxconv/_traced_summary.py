"""The summary of a program: its trace is read, equation by equation, and nothing is computed.

Calls of modules stand in the trace between marks, which compute nothing either. What values see of
the inputs is `_traced_fields`'s; here are what operations cost, what computes them, and the rows.
"""

import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from . import _accelerate, _lax
from ._explain import PREFIX, checked_platform, chosen, core_equation
from ._form import PROJECTIONS
from ._sizes import ReceptiveField, element
from ._summary import Row, Shape, Summary
from ._traced_fields import Seen, Source, inputs_of, nothing, seen, shape_of, windows_of
from ._views import VIEWS


class Module(NamedTuple):
    """What a trace does not say about a module.

    Attributes:
        kind: what its rows are called.
        parameters: entries of those that are its own, and not those of a module within.
        transposed: whether it is a transposed convolution, which multiplies each element of its
            input with each tap; without a stride a trace does not tell it from a convolution.
        normalizes: whether it is a batch norm, whose statistics when in use are constants; the
            means that they are taken from are not counted as what an output sees.
    """

    kind: str
    parameters: int
    transposed: bool
    normalizes: bool


MARK = "jaxconv.summary"


def begin(path: str) -> None:
    """Mark the begin of a module's call in a trace."""
    checkpoint_name(np.zeros((), bool), f"{MARK} begin {path}")


def end(path: str, results: Any) -> Any:
    """Mark a call's results and its end; the results."""
    marked = jax.tree.map(
        lambda leaf: checkpoint_name(leaf, f"{MARK} out {path}") if _is_array(leaf) else leaf,
        results,
    )
    checkpoint_name(np.zeros((), bool), f"{MARK} end {path}")
    return marked


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray))


def summary_of_trace(
    function: Callable[..., Any],
    held: Any,
    inputs: Sequence[Any],
    modules: Mapping[str, Module],
    platform: str | None,
) -> Summary:
    """The summary of `function(held, inputs)`, which is traced.

    Args:
        function: what calls `begin` and `end` of the modules, by their paths.
        held: a tree of what is held, parameters among it, arrays or shapes and dtypes.
        inputs: shapes and dtypes.
        modules: the modules by their paths, to be looked at after tracing.
        platform: as in `jaxconv.explain`.
    """
    where = checked_platform(platform)
    closed = jax.make_jaxpr(function)(held, list(inputs))
    count = len(closed.jaxpr.invars) - len(inputs)
    operands = [nothing(variable.aval.ndim) for variable in closed.jaxpr.invars[:count]]
    for number, variable in enumerate(closed.jaxpr.invars[count:]):
        axes = ({(number, axis): element(1)} for axis in range(variable.aval.ndim))
        operands.append(Seen(frozenset([number]), tuple(axes)))
    walk = _Walk(modules, where)
    results = walk.through(closed.jaxpr, operands, 1)
    rows = [*walk.frames[0].drafts, *walk.uncalled()]
    return Summary.of(
        [draft.row._replace(receptive_field=walk.field(draft.seen)) for draft in rows],
        walk.field(results[0]) if results else None,
    )


# What operations cost, and what computes them.


class Operation(NamedTuple):
    """What a row is about: a convolution, a matrix product or windows.

    Attributes:
        kind: what its rows are called.
        multiply_adds: as in `Row`.
        algorithms: as in `Row`.
    """

    kind: str
    multiply_adds: int
    algorithms: tuple[str, ...]


_KINDS = {
    "conv_general_dilated": "conv", "dot_general": "dot", "reduce_window": "reduce_window",
    "reduce_window_max": "max_pool", "reduce_window_min": "min_pool",
    "reduce_window_sum": "sum_pool", "jaxconv_window_max": "max_pool",
    "jaxconv_window_sum": "sum_pool", "jaxconv_output": "conv",
    "jaxconv_input_grad": "conv_transpose", "jaxconv_kernel_grad": "conv_kernel_grad",
}  # fmt: skip


def _operation(equation: Any, transposed: bool, platform: str) -> Operation:
    """What an equation costs, with the module it is in known to be transposed or not."""
    name = equation.primitive.name
    shapes = [shape_of(atom) for atom in (*equation.invars, *equation.outvars)]
    if name.startswith(PREFIX):
        algorithms = chosen(equation, platform)
        multiply_adds = _projected(name, equation.params["form"], shapes, transposed)
    else:
        algorithms = _laxs_algorithms(equation, platform)
        multiply_adds = _laxs_products(name, equation.params, shapes, transposed)
    transposed |= any(step > 1 for step in equation.params.get("lhs_dilation", ()))
    kind = "conv_transpose" if transposed and _KINDS[name] == "conv" else _KINDS[name]
    return Operation(kind, multiply_adds, algorithms)


def _projected(name: str, form: Any, shapes: Sequence[Shape], transposed: bool) -> int:
    """The products of one of the core's projections, each of which has the same ones."""
    if (projection := name.removeprefix(PREFIX)) not in PROJECTIONS:
        return 0
    held = dict(zip(PROJECTIONS[projection], shapes, strict=True))
    read = transposed and projection == "output"
    positions = form.geometry.spatial if read else form.geometry.output
    return held["x" if "x" in held else "y"][0] * math.prod(positions) * math.prod(held["w"])


def _laxs_products(
    name: str, params: Mapping[str, Any], shapes: Sequence[Shape], transposed: bool
) -> int:
    if name == "dot_general":
        (summed, _), _ = params["dimension_numbers"]
        return math.prod(shapes[-1]) * math.prod(shapes[0][axis] for axis in summed)
    if name != "conv_general_dilated":
        return 0
    x, _, y = params["dimension_numbers"]
    read = transposed or any(step > 1 for step in params["lhs_dilation"])
    shape, (batch, _, *space) = (shapes[0], x) if read else (shapes[-1], y)
    positions = shape[batch] * math.prod(shape[axis] for axis in space)
    return positions * math.prod(shapes[1])


def _laxs_algorithms(equation: Any, platform: str) -> tuple[str, ...]:
    """What computes an operation of lax's: lax, unless `accelerate` is on."""
    primitive, params = equation.primitive, equation.params
    types_in = [atom.aval for atom in equation.invars]
    if primitive is not lax.conv_general_dilated_p:
        return () if primitive is lax.dot_general_p else (_taken(equation, platform),)
    forward = _taken(equation, platform)
    if not all(jax.numpy.issubdtype(kind.dtype, np.inexact) for kind in types_in):
        return (forward,)
    names = [forward]
    for operand in range(2):
        other = types_in[1 - operand]

        def gradient(value: Any, result: Any, operand: int = operand) -> Any:
            def linear(x: Any) -> Any:
                return primitive.bind(*((value, x) if operand else (x, value)), **params)

            return jax.linear_transpose(linear, types_in[operand])(result)

        jaxpr = jax.make_jaxpr(gradient)(other, equation.outvars[0].aval).jaxpr
        backwards = next((e for e in jaxpr.eqns if e.primitive is primitive), None)
        names.append("lax" if backwards is None else _taken(backwards, platform))
    return tuple(names)


def _taken(equation: Any, platform: str) -> str:
    """What acceleration takes for an operation of lax's, if it is on."""
    primitive, params = equation.primitive, equation.params
    context = types.SimpleNamespace(
        avals_in=[atom.aval for atom in equation.invars],
        avals_out=[variable.aval for variable in equation.outvars],
    )
    if not _lax.replaced() or platform != _lax.PLATFORM or primitive not in VIEWS:
        return "lax"
    if _accelerate.is_small(primitive, context, params):
        return "lax"
    program = VIEWS[primitive](*context.avals_in, *context.avals_out, params)
    if program is None:
        return "lax"
    return chosen(core_equation(program, *context.avals_in), platform)[0]


# The walk.


class _Draft(NamedTuple):
    """A row before it is known which axes of the inputs are spatial.

    Attributes:
        row: without its field.
        seen: what it will be made of.
        operation: whether it is about an operation of the call that it stands in, and not about a
            call within it.
    """

    row: Row
    seen: Seen
    operation: bool = False


class _Result(NamedTuple):
    """What is given, in the shape that callers know."""

    shape: Shape | None
    seen: Seen


NO_RESULT = _Result(None, nothing(0))


@dataclasses.dataclass
class _Frame:
    """A module's call.

    Attributes:
        path: the module's.
        drafts: rows of what has been met within it.
        result: the first array that it gives, once that is known.
    """

    path: str
    drafts: list[_Draft] = dataclasses.field(default_factory=list)
    result: _Result = NO_RESULT


#: What runs programs in another way than once on its operands, though shapes may look like that.
_LOOPS = ("scan", "while", "cond")


class _Walk:
    """Reads equations in order; `frames` are the calls that are open, the program itself first."""

    def __init__(self, modules: Mapping[str, Module], platform: str):
        self.modules = modules
        self.platform = platform
        self.frames = [_Frame("")]
        self.unclaimed = {path: module.parameters for path, module in modules.items()}
        self.spatial: set[Source] = set()

    def through(self, jaxpr: Any, operands: Sequence[Seen], times: int) -> list[Seen]:
        """What a program's results see. `times`: how often it runs."""
        known = {variable: nothing(variable.aval.ndim) for variable in jaxpr.constvars}
        known.update(zip(jaxpr.invars, operands, strict=True))

        def read(atom: Any) -> Seen:
            return nothing(np.ndim(atom.val)) if hasattr(atom, "val") else known[atom]

        following = [*jaxpr.eqns[1:], None]
        for equation, after in zip(jaxpr.eqns, following, strict=False):
            values = [read(atom) for atom in equation.invars]
            results = self._results(equation, values, times, after)
            known.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, equation: Any, values: list[Seen], times: int, after: Any) -> list[Seen]:
        if equation.primitive.name == "name" and equation.params["name"].startswith(MARK):
            self._marked(equation, values)
        programs = list(_programs(equation))
        if equation.primitive.name not in _LOOPS:
            for program in programs:
                if _is_call(equation, program):
                    return self.through(program, values, times)
        if programs:
            self._within(equation, programs, values, times)
        if (windows := windows_of(equation)) is not None:
            for axis in windows.axes:
                self.spatial.update(values[0].axes[axis])
        results = seen(equation, values, self._normalizing())
        if equation.primitive.name in _KINDS:
            self._count(equation, values, _Result(_shape(equation, after), results[0]), times)
        return results

    def _normalizing(self) -> bool:
        return len(self.frames) > 1 and self.modules[self.frames[-1].path].normalizes

    def _within(
        self, equation: Any, programs: Sequence[Any], values: list[Seen], times: int
    ) -> None:
        """Rows of what runs within an equation; of alternatives those that cost most."""
        params, frame, inputs = equation.params, self.frames[-1], inputs_of(values)
        before, unclaimed, found = frame.drafts, self.unclaimed, []
        for program in programs:
            frame.drafts = []
            if "branches" in params:
                self.unclaimed = dict(unclaimed)
            whole = [Seen(inputs, ({},) * v.aval.ndim) for v in program.invars]
            self.through(program, whole, times * params.get("length", 1))
            found.append((frame.drafts, self.unclaimed))
        if "branches" in params:
            found = [max(found, key=lambda way: sum(d.row.multiply_adds for d in way[0]))]
        frame.drafts = [*before, *(draft for drafts, _ in found for draft in drafts)]
        self.unclaimed = found[-1][1]

    def _count(self, equation: Any, values: list[Seen], result: _Result, times: int) -> None:
        """A row for an operation."""
        frame = self.frames[-1]
        transposed = len(self.frames) > 1 and self.modules[frame.path].transposed
        kind, products, algorithms = _operation(equation, transposed, self.platform)
        row = Row(_name(frame.path, kind), result.shape, 0, products * times, None, algorithms)
        frame.drafts.append(_Draft(row, result.seen, operation=True))

    def _marked(self, equation: Any, values: list[Seen]) -> None:
        _, kind, path = equation.params["name"].split(" ", 2)
        if kind == "begin":
            self.frames.append(_Frame(path))
        elif kind == "out" and self.frames[-1].result.shape is None:
            self.frames[-1].result = _Result(shape_of(equation.invars[0]), values[0])
        elif kind == "end":
            self._close(self.frames.pop())

    def _close(self, frame: _Frame) -> None:
        """A call's rows: one where it has one operation at most and no rows from calls within it,
        else those, and one for the parameters that are its own."""
        drafts, (shape, seen) = frame.drafts, frame.result
        parameters = self.unclaimed.pop(frame.path, 0)
        name = _name(frame.path, self.modules[frame.path].kind)
        if len(drafts) == 1 and drafts[0].operation:
            row = drafts[0].row
            row = row._replace(name=name, output_shape=shape, parameters=parameters)
            drafts = [_Draft(row, seen)]
        elif parameters:
            drafts = [*drafts, _Draft(Row(name, shape, parameters, 0, None, ()), seen)]
        self.frames[-1].drafts += (draft._replace(operation=False) for draft in drafts)

    def uncalled(self) -> list[_Draft]:
        """Rows for the parameters of modules whose calls were not met."""
        return [
            _Draft(Row(_name(path, self.modules[path].kind), None, count, 0, None, ()), nothing(0))
            for path, count in self.unclaimed.items()
            if count
        ]

    def field(self, seen: Seen) -> ReceptiveField | None:
        """What is seen of the spatial axes of the first of the inputs that has any."""
        first = min((number for number, _ in self.spatial), default=None)
        found = [
            next((along[source] for along in seen.axes if source in along), None)
            for source in sorted(source for source in self.spatial if source[0] == first)
        ]
        fields = [field for field in found if field is not None]
        if not fields or len(fields) < len(found):
            return None
        size, jump, start = (
            tuple(value for (value,) in part) for part in zip(*fields, strict=True)
        )
        return ReceptiveField(size, jump, start)


def _name(path: str, kind: str) -> str:
    return f"{path} {kind}".strip()


def _shape(equation: Any, after: Any) -> Shape:
    """The shape of an operation's result, with the batch axes that the core has merged into one.

    `after` is the equation after it: that which parts them again, if it leaves the rest alone.
    """
    shape = shape_of(equation.outvars[0])
    if after is None or after.primitive.name != "reshape":
        return shape
    parted = shape_of(after.outvars[0])
    # Window maps see channels that come first as a part of the batch.
    rest = shape[1:-1] if "_window_" in equation.primitive.name and shape[-1] == 1 else shape[1:]
    same = after.invars[0] is equation.outvars[0] and parted[len(parted) - len(rest) :] == rest
    return parted if same else shape


def _programs(equation: Any) -> Iterator[Any]:
    """The programs that an equation runs, in whatever way."""
    for value in equation.params.values():
        for program in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(program, "jaxpr", program)
            if hasattr(inner, "eqns"):
                yield inner


def _is_call(equation: Any, program: Any) -> bool:
    """Whether an equation runs a program on its operands, for its results."""
    return all(
        [shape_of(atom) for atom in outer] == [shape_of(variable) for variable in own]
        for outer, own in ((equation.invars, program.invars), (equation.outvars, program.outvars))
    )
