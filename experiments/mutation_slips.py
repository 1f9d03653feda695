"""The slips that `mutations.py` makes: what is broken, how, and the test that must see it."""

from typing import NamedTuple


class Slip(NamedTuple):
    """One deliberate error.

    Attributes:
        what: the error in words.
        file: the file it is made in.
        old: text that occurs there exactly once.
        new: what it becomes.
        test: the test that must fail.
    """

    what: str
    file: str
    old: str
    new: str
    test: str


DIRECT = "jaxconv/_algorithms/direct.py"
REDUCE = "jaxconv/_algorithms/reduce_window.py"
COLUMNS = "jaxconv/_algorithms/columns.py"
ADAPTIVE = "jaxconv/_algorithms/adaptive.py"
PRIMITIVES = "jaxconv/_primitives.py"
WINDOWS = "jaxconv/_window_maps.py"
GEOMETRY = "jaxconv/_geometry.py"
POOL = "jaxconv/_pool.py"
PLAN = "jaxconv/_pool_plan.py"

CORE = [
    Slip(
        "padding: low and high side exchanged in the forward pass",
        DIRECT,
        "        padding=geometry.padding,\n",
        "        padding=tuple(pair[::-1] for pair in geometry.padding),\n",
        "tests/test_values.py::test_conv_equals_loops[asymmetric]",
    ),
    Slip(
        "rotation: the input gradient does not turn the kernel",
        DIRECT,
        "lax.rev(_swap_channels(problem.form, w), dims.rhs_spec[2:])",
        "_swap_channels(problem.form, w)",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[plain-2d]",
    ),
    Slip(
        "padding off by one in the input gradient",
        DIRECT,
        "padding.append((reach - low, geometry.spatial[axis] - dilated + low))",
        "padding.append((reach - low + 1, geometry.spatial[axis] - dilated + low - 1))",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[padding]",
    ),
    Slip(
        "stride and dilation not exchanged in the kernel gradient",
        DIRECT,
        "window_strides=geometry.dilation,\n        rhs_dilation=geometry.stride,",
        "window_strides=geometry.stride,\n        rhs_dilation=geometry.dilation,",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[dilation-stride]",
    ),
    Slip(
        "padding of the kernel gradient: all of the tail is read",
        DIRECT,
        "padding.append((low, read - geometry.spatial[axis] - low))",
        "padding.append(geometry.padding[axis])",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[unused-tail]",
    ),
    Slip(
        "group order: input channels in front of groups in the input gradient",
        DIRECT,
        "return jnp.moveaxis(split, out_axis, in_axis).reshape(shape)",
        "return jnp.moveaxis(split, out_axis, in_axis + 1).reshape(shape)",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[groups]",
    ),
    Slip(
        "group order: images in front of groups in the kernel gradient",
        DIRECT,
        "return jnp.moveaxis(split, axis, 0).reshape(shape)\n\n\ndef _convolve",
        "return jnp.moveaxis(split, axis, 1).reshape(shape)\n\n\ndef _convolve",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[groups]",
    ),
    Slip(
        "groups together in float64: zeros times NaN",
        DIRECT,
        'return problem.platform == "cpu" and accumulate not in (np.float32, np.complex64)',
        "return False",
        "tests/test_values.py::test_non_finite_values_reach_their_readers_alone",
    ),
    Slip(
        "negative padding: of a dilated input too little of the gap is padded again",
        DIRECT,
        "pairs.append((low + cut_low * step, high + cut_high * step))",
        "pairs.append((low + cut_low, high + cut_high))",
        "tests/test_gradients.py::test_gradients_equal_the_forms_projections[negative-strided]",
    ),
    Slip(
        "half precision summed in half precision",
        "jaxconv/_arrays.py",
        "return np.dtype(np.float32) if dtype in HALF else np.dtype(dtype)",
        "return np.dtype(dtype)",
        "tests/test_windows.py::test_fold_sums_half_precision_in_float32",
    ),
    Slip(
        "vmap over kernels folds into input channels, over images into output channels",
        PRIMITIVES,
        '    frozenset("wy"): "o",\n    frozenset("xw"): "i",',
        '    frozenset("wy"): "i",\n    frozenset("xw"): "o",',
        "tests/test_transforms.py::test_vmap_over_every_axis",
    ),
    Slip(
        "vmap ignores groups: a mapped axis outside of the blocks",
        PRIMITIVES,
        'return layout.channel_axis, 1 if index == "g" else groups',
        "return layout.channel_axis, 1",
        "tests/test_transforms.py::test_vmap_over_every_axis",
    ),
    Slip(
        "tie rule: the last winner in place of the first",
        REDUCE,
        "(value > best_value)",
        "(value >= best_value)",
        "tests/test_gradients.py::test_max_pools_derivative_goes_to_the_first_winner",
    ),
    Slip(
        "NaN rule: the last NaN wins",
        REDUCE,
        "((value != value) & (best_value == best_value))",
        "(value != value)",
        "tests/test_gradients.py::test_max_pools_derivative_goes_to_the_first_winner",
    ),
    Slip(
        "a window whose elements are all -inf has no winner",
        REDUCE,
        "wins = above | (best_at < 0)",
        "wins = above",
        "tests/test_gradients.py::test_max_pools_derivative_goes_to_the_first_winner",
    ),
    Slip(
        "sign: the maximum's derivative is negated",
        WINDOWS,
        "    return pick_p.bind(tangent, winner, form=form)",
        "    return -pick_p.bind(tangent, winner, form=form)",
        "tests/test_gradients.py::test_pools[plain-2d-max_pool]",
    ),
    Slip(
        "padding side in up() of a mean",
        REDUCE,
        "config.append((reach - low, geometry.spatial[axis] - dilated + low, s - 1))",
        "config.append((low, geometry.spatial[axis] - dilated + reach - low, s - 1))",
        "tests/test_gradients.py::test_pools[asymmetric-avg_pool]",
    ),
    Slip(
        "stride not re-inserted in up() of a mean",
        REDUCE,
        "dilated + low, s - 1))",
        "dilated + low + (geometry.output[axis] - 1) * (s - 1), 0))",
        "tests/test_gradients.py::test_pools[stride-over-window-avg_pool]",
    ),
    Slip(
        "an odd remainder of 'same' on the low side",
        GEOMETRY,
        'return (less, more) if name == "same" else (more, less)',
        'return (more, less) if name == "same" else (less, more)',
        "tests/test_values.py::test_conv_equals_loops[same-even]",
    ),
    Slip(
        "'causal' looks ahead",
        GEOMETRY,
        '"causal": (reach, 0)}[name]',
        '"causal": (0, reach)}[name]',
        "tests/test_values.py::test_conv_equals_loops[causal]",
    ),
    Slip(
        "output_padding on the low side",
        GEOMETRY,
        "(low, high - extra) for (low, high), extra",
        "(low - extra, high) for (low, high), extra",
        "tests/test_values.py::test_conv_transpose_is_the_forms_projection[output-padding]",
    ),
    Slip(
        "ceil mode keeps a window that starts in the high padding",
        GEOMETRY,
        "if (outputs - 1) * s >= n + low:",
        "if (outputs - 1) * s > n + low:",
        "tests/test_values.py::test_max_pool_and_indices_equal_loops[ceil-drops]",
    ),
    Slip(
        "adaptive windows end one too early",
        GEOMETRY,
        "(i * n // m, -(-(i + 1) * n // m))",
        "(i * n // m, (i + 1) * n // m)",
        "tests/test_windows.py::test_adaptive_pools_equal_loops_in_both_layouts",
    ),
    Slip(
        "adaptive mean: up() spreads over the wrong partition",
        GEOMETRY,
        "return Partition(self.output, self.spatial)",
        "return Partition(self.output, self.spatial[::-1])",
        "tests/test_windows.py::test_derivatives_of_adaptive_pools",
    ),
    Slip(
        "adaptive mean counts the last element of short windows twice",
        ADAPTIVE,
        "jnp.where(inside, read, zero).sum(axis=axis + 2)",
        "read.sum(axis=axis + 2)",
        "tests/test_windows.py::test_adaptive_pools_equal_loops_in_both_layouts",
    ),
    Slip(
        "sum in place of mean: padding counted where it must not be",
        PLAN,
        "if count_include_pad else (max(0, -low), min(n, n + high))",
        "if not count_include_pad else (max(0, -low), min(n, n + high))",
        "tests/test_values.py::test_avg_pool_equals_loops[overlap-not-counted]",
    ),
    Slip(
        "positions of winners not moved to the whole plane where ceil mode crops",
        PLAN,
        "        if self.geometry.spatial == self.spatial:\n            return index",
        "        if True:\n            return index",
        "tests/test_values.py::test_max_pool_and_indices_equal_loops[ceil-crops-2d]",
    ),
    Slip(
        "unfold ignores dilation",
        COLUMNS,
        "lax.slice_in_dim(x, a * d, a * d + length, s, at)",
        "lax.slice_in_dim(x, a, a + length, s, at)",
        "tests/test_windows.py::test_unfold_equals_loops_in_both_layouts[dilation]",
    ),
    Slip(
        "unfold of long windows: stride and dilation exchanged",
        COLUMNS,
        "jnp.arange(k)[:, None] * d + jnp.arange(outputs)[None] * s",
        "jnp.arange(k)[:, None] * s + jnp.arange(outputs)[None] * d",
        "tests/test_windows.py::test_columns_of_long_windows",
    ),
    Slip(
        "channels-last columns: taps and windows exchanged",
        "jaxconv/_columns.py",
        "columns = _mesh.reshape(columns, (rows, places, taps, depth)).swapaxes(1, 2)",
        "columns = _mesh.reshape(columns, (rows, taps, places, depth))",
        "tests/test_windows.py::test_fold_is_the_adjoint_of_the_loops_in_both_layouts[plain-2d]",
    ),
    Slip(
        "unpooling keeps the first of repeated indices",
        "jaxconv/_unpool.py",
        "last = jnp.full(plane, -1, np.int32).at[nowhere].max(number",
        "last = jnp.full(plane, 2**30, np.int32).at[nowhere].min(number",
        "tests/test_windows.py::test_repeated_indices_keep_the_last_value_and_its_derivative",
    ),
    Slip(
        "p-norm: the root forgotten",
        POOL,
        "lambda total: total ** (1 / p)",
        "lambda total: total",
        "tests/test_windows.py::test_lp_pool_equals_loops[plain-2d-2.0]",
    ),
    Slip(
        "p-norm: odd powers keep the sign",
        POOL,
        "x if p % 2 == 0 else _magnitude(x)",
        "x",
        "tests/test_windows.py::test_lp_pool_equals_loops[plain-2d-3]",
    ),
    Slip(
        "correlate does not conjugate",
        "jaxconv/_signal.py",
        "k = k.conj() if correlation else k",
        "k = k",
        "tests/test_signal.py",
    ),
    Slip(
        "convolve does not flip",
        "jaxconv/_signal.py",
        "kernel = kernel if correlation else jnp.flip(kernel)",
        "kernel = kernel",
        "tests/test_signal.py",
    ),
    Slip(
        "circular padding wraps before it crops",
        "jaxconv/_pad.py",
        'return jnp.pad(_crop(x, config), added, mode="wrap")',
        'return _crop(jnp.pad(x, added, mode="wrap"), config)',
        "tests/test_values.py::test_conv_equals_the_form_and_the_reference[circular-crop]",
    ),
    Slip(
        "bias per pair: the mean over input channels in place of the sum",
        "jaxconv/_conv.py",
        "bias = bias.sum(axis=1, dtype=y.dtype)",
        "bias = bias.mean(axis=1, dtype=y.dtype)",
        "tests/test_values.py::test_bias_for_each_pair_of_channels_is_summed_over_the_inputs",
    ),
]  # fmt: skip

SLIPS: list[Slip] = [*CORE]
