"""What jax's types say about device meshes: all that the core knows of `shard_map` and sharding.

Inside `jax.shard_map` a type tells along which mesh axes a value varies. Operands of one operation
must agree, and a cast that makes a shared value vary is what turns, transposed, into the sum of its
gradients over the devices: without it a kernel's gradient would silently be one device's alone.
With explicit axes a type also tells how an array is sharded; only batches are kept sharded here.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.core import ShapedArray
from jax.interpreters import mlir
from jax.sharding import NamedSharding, PartitionSpec


def _varying(aval: Any) -> frozenset[Any]:
    """The manual mesh axes a type varies along; jax has renamed the attribute over time."""
    manual = getattr(aval, "manual_axis_type", None)
    return getattr(aval, "vma", frozenset()) if manual is None else manual.varying


def agree(operands: tuple[Array, ...], batched: tuple[bool, ...]) -> tuple[Array, ...]:
    """The operands, each cast to vary along every mesh axis that any of them varies along.

    Of explicit shardings only that of a first axis which is a batch is kept: gradients then have
    the types of what they are gradients of, see `result_type`.
    """
    pairs = zip(operands, batched, strict=True)
    operands = tuple(_sharded_by_batch(operand, kept) for operand, kept in pairs)
    varying = [_varying(jax.typeof(operand)) for operand in operands]
    together = frozenset[Any]().union(*varying)
    return tuple(
        lax.pcast(operand, tuple(together - own), to="varying") if together - own else operand
        for operand, own in zip(operands, varying, strict=True)
    )


def _sharded_by_batch(operand: Array, batched: bool) -> Array:
    sharding = jax.typeof(operand).sharding
    if not any(sharding.spec[1 if batched else 0 :]):
        return operand
    kept = sharding.spec[0] if batched else None
    spec = PartitionSpec(kept, *(None,) * (operand.ndim - 1))
    return jax.sharding.reshard(operand, NamedSharding(sharding.mesh, spec))


def result_type(operand: ShapedArray, shape: Any, dtype: Any, batched: bool) -> ShapedArray:
    """The type of a result that varies as `operand` does.

    Of an explicit sharding it keeps that of the first axis if `batched`, and nothing else: what the
    devices hold beyond that is the compiler's to choose.
    """
    mesh = operand.sharding.mesh
    if mesh.empty:
        return operand.update(shape=shape, dtype=dtype, weak_type=False)
    kept = operand.sharding.spec[:1] if batched else ()
    sharding = NamedSharding(mesh, PartitionSpec(*kept, *(None,) * (len(shape) - len(kept))))
    return operand.update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding)


def reshape(x: Array, shape: Any) -> Array:
    """`x.reshape(shape)`, at which an explicit sharding of the first axis stays with the first."""
    sharding = jax.typeof(x).sharding
    if not any(sharding.spec):
        return x.reshape(shape)
    spec = PartitionSpec(sharding.spec[0], *(None,) * (len(shape) - 1))
    return lax.reshape(x, shape, out_sharding=NamedSharding(sharding.mesh, spec))


def devices(ctx: Any) -> int:
    """How many devices the partitioner will split a program over that is being lowered.

    Inside a fully manual `shard_map` there is nothing left to split. Where jax does not say, many.
    """
    axes = ctx.module_context.axis_context
    manual = getattr(axes, "manual_axes", None)
    if manual is not None:
        return 1 if set(manual) == set(axes.mesh.axis_names) else axes.mesh.size
    return getattr(axes, "num_devices", None) or 2


def is_portable(ctx: Any) -> bool:
    """Whether a program is written down: by `jax.export`, or in jax's cache of compiled programs.
    Where jax does not say, yes."""
    parameters = getattr(ctx.module_context, "lowering_parameters", None)
    return getattr(parameters, "for_export", True) or is_cached()


def is_cached() -> bool:
    """Whether jax writes what it compiles to a folder, or reads it from there."""
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    return bool(folder) and getattr(jax.config, "jax_enable_compilation_cache", True)


def lower(function: Callable[..., Array], ctx: Any, *operands: Any) -> Any:
    """Lower a function of the operands by what it is traced to: on plain types, with shape and
    dtype alone, as the mesh has been dealt with."""
    rule = mlir.lower_fun(function, multiple_results=False)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        plain = [ShapedArray(aval.shape, aval.dtype) for aval in ctx.avals_in]
        return rule(ctx.replace(avals_in=plain), *operands)
