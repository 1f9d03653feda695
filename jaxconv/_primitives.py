"""The core: the projections of the form as JAX primitives, with derivatives and batching rules.

`output`, `input_grad`, `kernel_grad`: the three projections of the trilinear form (see `_form`).
Each is bilinear and the transpose of each other in the argument they do not share, so
every derivative of any order, forward or reverse, is again one of the three. A mapped axis folds
into an axis that is there already: which one, says the set of the form's arrays that carry it:

    x, y     (the kernel is shared)     batch             n
    w, y     (the image is shared)      output channels   o
    x, w     (the output is shared)     input channels    i
    x, w, y                             groups            g

The maps of windows, which are linear in one array, are in `_window_maps`; what makes a primitive of
a map is here for both.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from . import _mesh
from ._algorithms.reduce_window import lowest
from ._choice import choose
from ._form import PROJECTIONS, Form, PoolForm, Problem, Shape

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
#: Compiled maps kept for eager derivatives, for each of the primitives.
CACHED_PROGRAMS = 4096


def default_platform() -> str:
    """What is computed on where nothing says otherwise, by the name it is lowered for."""
    platform = jax.default_backend()
    return "cuda" if platform == "gpu" else platform


def map_primitive(name: str, result: Callable[..., tuple[Shape, Any]], batched: bool) -> Primitive:
    """A primitive whose result has the shape and dtype `result(form, *operand_shapes)`, computed on
    each platform by the algorithm that the table chooses for it. `batched`: the result's first axis
    is the first operand's batch."""
    primitive = Primitive(f"jaxconv_{name}")

    def abstract(*operands, form):
        shape, dtype = result(form, *(operand.shape for operand in operands))
        return _mesh.result_type(operands[0], shape, dtype, batched)

    def compute(*operands, form, platform, devices=1, portable=False):
        shapes = tuple(operand.shape for operand in operands)
        shape, dtype = result(form, *shapes)
        if 0 in shape or any(0 in operand for operand in shapes):
            return jnp.full(shape, _value_of_nothing(name, dtype), dtype)
        problem = Problem(name, form, shapes, platform, devices, portable, choose)
        return choose(problem)[0].maps[name](problem, *operands)

    @functools.lru_cache(maxsize=CACHED_PROGRAMS)
    def program(form):
        return jax.jit(functools.partial(primitive.bind, form=form))

    def eager(*operands, form):
        # Reached outside of any jit: in derivatives taken eagerly, or under jax.disable_jit().
        if not jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return program(form)(*operands)
        return compute(*operands, form=form, platform=default_platform())

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(eager)
    for platform in PLATFORMS:
        mlir.register_lowering(primitive, _lowering(compute, platform), platform=platform)
    mlir.register_lowering(primitive, _lowering(compute, "other"))
    return primitive


def _lowering(compute: Callable[..., Any], platform: str) -> Any:
    def lower(ctx, *operands, form):
        where = {"devices": _mesh.devices(ctx), "portable": _mesh.is_portable(ctx)}
        here = functools.partial(compute, form=form, platform=platform, **where)
        return _mesh.lower(here, ctx, *operands)

    return lower


def bind(primitive: Primitive, *operands: Any, form: Form | PoolForm) -> jax.Array:
    """Apply a primitive; the operands' types are made to agree on the mesh first."""
    kernel_second = primitive in (output_p, input_grad_p)
    batched = tuple(not (at and kernel_second) for at in range(len(operands)))
    return primitive.bind(*_mesh.agree(operands, batched), form=form)


def _value_of_nothing(name: str, dtype: Any) -> Any:
    """What a map gives where it has nothing to read: an empty sum, maximum or position."""
    return {"window_max": lowest(dtype), "window_argmax": -1}.get(name, 0)


# The convolution form.


def _projection(name: str) -> Primitive:
    def result(form: Form, a: Shape, b: Shape):
        return form.result_shape(name, a, b), form.dtype(PROJECTIONS[name][2])

    return map_primitive(name, result, batched=name != "kernel_grad")


output_p = _projection("output")
input_grad_p = _projection("input_grad")
kernel_grad_p = _projection("kernel_grad")

_BY_OPERANDS = {
    frozenset("xw"): output_p,
    frozenset("yw"): input_grad_p,
    frozenset("xy"): kernel_grad_p,
}


def _transpose_in(left_out: str, arrays: tuple[str, str, str]):
    """The rule that transposes (a, b) -> result in one operand: project (result, other operand)."""
    a, b, result = arrays
    other = b if left_out == a else a

    def rule(cotangent, a_value, b_value, *, form):
        values = {result: cotangent, other: b_value if other == b else a_value}
        first, second = (array for array in ("x", "y", "w") if array in values)
        primitive = _BY_OPERANDS[frozenset(values)]
        return bind(primitive, values[first], values[second], form=form)

    return rule


#: For each set of arrays that carry a mapped axis, the index of the form that takes it up.
_FOLD = {
    frozenset("xy"): "n",
    frozenset("wy"): "o",
    frozenset("xw"): "i",
    frozenset("xwy"): "g",
}


def _fold_place(form: Form, array: str, index: str) -> tuple[int, int]:
    """`(axis, blocks)`: where `index` lives in `array`, and how many blocks of that axis stay
    outside of a folded axis. Channels of images and output channels of kernels are grouped."""
    layout, groups = form.layout, form.geometry.groups
    if index == "n":
        return 0, 1
    if array == "w":
        out_axis, in_axis = layout.kernel_axes
        return {"o": (out_axis, groups), "i": (in_axis, 1), "g": (out_axis, 1)}[index]
    return layout.channel_axis, 1 if index == "g" else groups


def _fold(value: jax.Array, mapped: int, axis: int, blocks: int) -> jax.Array:
    """Merge a mapped axis into `axis` of the rest, inside of the outermost `blocks`."""
    value = jnp.moveaxis(value, mapped, 0)
    size, rest = value.shape[0], value.shape[1:]
    split = (*rest[:axis], blocks, rest[axis] // blocks, *rest[axis + 1 :])
    moved = jnp.moveaxis(value.reshape(size, *split), 0, axis + 1)
    return moved.reshape(*rest[:axis], size * rest[axis], *rest[axis + 1 :])


def _unfold(value: jax.Array, size: int, axis: int, blocks: int) -> jax.Array:
    """The inverse of `_fold`, the mapped axis first."""
    shape = value.shape
    inner = shape[axis] // (size * blocks)
    split = value.reshape(*shape[:axis], blocks, size, inner, *shape[axis + 1 :])
    moved = jnp.moveaxis(split, axis + 1, 0)
    return moved.reshape(size, *shape[:axis], blocks * inner, *shape[axis + 1 :])


def _batch_projection(primitive: Primitive, arrays: tuple[str, str, str], values, mapped, *, form):
    operands = list(zip(arrays[:2], values, mapped, strict=True))
    carriers = {arrays[2], *(array for array, _, axis in operands if axis is not None)}
    index = _FOLD[frozenset(carriers)]
    size = next(value.shape[axis] for _, value, axis in operands if axis is not None)
    if size == 0:
        shapes = (without(value.shape, axis) for _, value, axis in operands)
        shape = form.result_shape(primitive.name.removeprefix("jaxconv_"), *shapes)
        return jnp.zeros((0, *shape), form.dtype(arrays[2])), 0
    folded = [
        value if axis is None else _fold(value, axis, *_fold_place(form, array, index))
        for array, value, axis in operands
    ]
    wider = form
    if index == "g":
        groups = form.geometry.groups * size
        wider = dataclasses.replace(
            form, geometry=dataclasses.replace(form.geometry, groups=groups)
        )
    result = primitive.bind(*folded, form=wider)
    return _unfold(result, size, *_fold_place(form, arrays[2], index)), 0


def without(shape: Shape, axis: int | None) -> Shape:
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


for _p, _name in (
    (output_p, "output"),
    (input_grad_p, "input_grad"),
    (kernel_grad_p, "kernel_grad"),
):
    _arrays = PROJECTIONS[_name]
    ad.defbilinear(_p, *(_transpose_in(array, _arrays) for array in _arrays[:2]))
    batching.primitive_batchers[_p] = functools.partial(_batch_projection, _p, _arrays)
