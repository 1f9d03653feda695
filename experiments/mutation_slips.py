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
FORMS = "jaxconv/_closed_forms.py"

CORE = [
    Slip(
        "padding: low and high side exchanged in the forward pass",
        DIRECT,
        "        padding=geometry.padding,\n",
        "        padding=tuple(pair[::-1] for pair in geometry.padding),\n",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-asymmetric-first]",
    ),
    Slip(
        "rotation: the input gradient does not turn the kernel",
        DIRECT,
        "lax.rev(_swap_channels(problem.form, w), dims.rhs_spec[2:])",
        "_swap_channels(problem.form, w)",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-plain-2d-first]",
    ),
    Slip(
        "padding off by one in the input gradient",
        DIRECT,
        "padding.append((reach - low, geometry.spatial[axis] - dilated + low))",
        "padding.append((reach - low + 1, geometry.spatial[axis] - dilated + low - 1))",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-padding-first]",
    ),
    Slip(
        "stride and dilation not exchanged in the kernel gradient",
        DIRECT,
        "window_strides=geometry.dilation,\n        rhs_dilation=geometry.stride,",
        "window_strides=geometry.stride,\n        rhs_dilation=geometry.dilation,",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-dilation-stride-first]",
    ),
    Slip(
        "padding of the kernel gradient: all of the tail is read",
        DIRECT,
        "padding.append((low, geometry.read[axis] - geometry.spatial[axis] - low))",
        "padding.append(geometry.padding[axis])",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-unused-tail-first]",
    ),
    Slip(
        "group order: input channels in front of groups in the input gradient",
        DIRECT,
        "return jnp.moveaxis(split, out_axis, in_axis).reshape(shape)",
        "return jnp.moveaxis(split, out_axis, in_axis + 1).reshape(shape)",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-groups-first]",
    ),
    Slip(
        "group order: images in front of groups in the kernel gradient",
        DIRECT,
        "stacked(x, form.geometry.groups, form.layout.channel_axis), 0, 2)",
        "stacked(x, form.geometry.groups, form.layout.channel_axis).swapaxes(0, 1), 0, 2)",
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-groups-first]",
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
        "tests/test_algorithms.py::test_projections_equal_the_form[direct-over-padded-first]",
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
        "tests/test_algorithms.py::test_window_maps_equal_the_oracle[reduce_window-overlap-first]",
    ),
    Slip(
        "NaN rule: the last NaN wins",
        REDUCE,
        "((value != value) & (best_value == best_value))",
        "(value != value)",
        "tests/test_algorithms.py::test_window_maps_equal_the_oracle[reduce_window-overlap-first]",
    ),
    Slip(
        "a window whose elements are all -inf has no winner",
        REDUCE,
        "wins = above | (best_at < 0)",
        "wins = above",
        "tests/test_algorithms.py::test_window_maps_equal_the_oracle[reduce_window-overlap-first]",
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
        "tests/test_algorithms.py::test_window_maps_equal_the_oracle[reduce_window-asymmetric-first]",
    ),
    Slip(
        "stride not re-inserted in up() of a mean",
        REDUCE,
        "dilated + low, s - 1))",
        "dilated + low + (geometry.output[axis] - 1) * (s - 1), 0))",
        "tests/test_algorithms.py::test_window_maps_equal_the_oracle[reduce_window-stride-over-window-first]",
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
        "tests/test_signal.py::test_correlate_conjugates_and_convolve_does_not",
    ),
    Slip(
        "convolve does not flip",
        "jaxconv/_signal.py",
        "kernel = kernel if correlation else jnp.flip(kernel)",
        "kernel = kernel",
        "tests/test_signal.py::test_convolution_flips_the_kernel",
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
]

CLOSED_FORMS = [
    Slip(
        "kernel gradient: stride and dilation not exchanged",
        FORMS,
        "stride=geometry.dilation,",
        "stride=geometry.stride,",
        "tests/test_closed_forms.py::test_conv_gradients[stride-first]",
    ),
    Slip(
        "kernel gradient: padding sides exchanged",
        FORMS,
        "padding.append((low, read - unpadded.spatial[axis] - low))",
        "padding.append((read - unpadded.spatial[axis] - low, low))",
        "tests/test_closed_forms.py::test_conv_gradients[stride-first]",
    ),
    Slip(
        "kernel gradient: the unread tail not cropped",
        FORMS,
        "read = (geometry.output[axis] - 1) * geometry.stride[axis] + geometry.extent[axis]",
        "read = unpadded.padded[axis]",
        "tests/test_closed_forms.py::test_conv_gradients[stride-first]",
    ),
    Slip(
        "kernel gradient: group order",
        FORMS,
        "images = x.reshape(n, groups, channels // groups, *sizes).swapaxes(0, 2)",
        "images = x.reshape(n, channels // groups, groups, *sizes).swapaxes(1, 2).swapaxes(0, 2)",
        "tests/test_closed_forms.py::test_conv_gradients[groups-first]",
    ),
    Slip(
        "kernel gradient: sign",
        FORMS,
        "        ).swapaxes(0, 1)\n",
        "        ).swapaxes(0, 1) * -1\n",
        "tests/test_closed_forms.py::test_conv_gradients[1x1-first]",
    ),
    Slip(
        "kernel gradient: conjugated",
        FORMS,
        "delta.swapaxes(0, 1),",
        "delta.swapaxes(0, 1).conj(),",
        "tests/test_closed_forms.py::test_floats_and_complex_keep_their_dtype[all-2d-complex64]",
    ),
    Slip(
        "kernel gradient: padding mode ignored",
        FORMS,
        "x = _pad.pad(x, Layout(layout.rank, False), geometry.padding, options.mode)",
        'x = _pad.pad(x, Layout(layout.rank, False), geometry.padding, "zeros")',
        "tests/test_closed_forms.py::test_conv_gradients[reflect-even-first]",
    ),
    Slip(
        "kernel gradient turned: convolution in place of correlation",
        FORMS,
        "return jnp.moveaxis(dw, (0, 1), layout.kernel_axes)",
        "return jnp.flip(jnp.moveaxis(dw, (0, 1), layout.kernel_axes))",
        "tests/test_closed_forms.py::test_conv_gradients[plain-1d-first]",
    ),
    Slip(
        "input gradient: kernel not rotated",
        FORMS,
        "rot180 = jnp.flip(kernel, range(2, kernel.ndim))",
        "rot180 = kernel",
        "tests/test_closed_forms.py::test_conv_gradients[plain-1d-first]",
    ),
    Slip(
        "input gradient: stride not re-inserted",
        FORMS,
        "*((0, 0, s - 1) for s in geometry.stride)]",
        "*((0, (s - 1) * (k - 1), 0) for s, k in zip(geometry.stride, m, strict=True))]",
        "tests/test_closed_forms.py::test_conv_gradients[stride-first]",
    ),
    Slip(
        "input gradient: group order",
        FORMS,
        "rot180.reshape(groups, c_o // groups, c_i, *window).swapaxes(1, 2)",
        "rot180.reshape(c_o // groups, groups, c_i, *window).swapaxes(0, 1).swapaxes(1, 2)",
        "tests/test_closed_forms.py::test_conv_gradients[groups-first]",
    ),
    Slip(
        "input gradient: padding sides exchanged",
        FORMS,
        "padding.append((reach - low, spatial[axis] + low - length))",
        "padding.append((spatial[axis] + low - length, reach - low))",
        "tests/test_closed_forms.py::test_conv_gradients[stride-first]",
    ),
    Slip(
        "input gradient: dilation forgotten",
        FORMS,
        "reach = geometry.extent[axis] - 1",
        "reach = geometry.window[axis] - 1",
        "tests/test_closed_forms.py::test_conv_gradients[full-first]",
    ),
    Slip(
        "input gradient: reflect repeats the edge",
        FORMS,
        "places = ((1, n - 1 - before), (n - 1 - after, 1))",
        "places = ((0, n - before), (n - after, 0))",
        "tests/test_closed_forms.py::test_conv_gradients[reflect-even-first]",
    ),
    Slip(
        "input gradient: replicate's sides exchanged",
        FORMS,
        "places = ((0, n - 1), (n - 1, 0))",
        "places = ((n - 1, 0), (0, n - 1))",
        "tests/test_closed_forms.py::test_conv_gradients[replicate-even-first]",
    ),
    Slip(
        "input gradient: circular's sides exchanged",
        FORMS,
        "places = ((n - before, 0), (0, n - after))",
        "places = ((0, n - before), (n - after, 0))",
        "tests/test_closed_forms.py::test_conv_gradients[circular-even-first]",
    ),
    Slip(
        "input gradient: reflect not mirrored",
        FORMS,
        "head, tail = jnp.flip(head, at), jnp.flip(tail, at)",
        "head, tail = head, tail",
        "tests/test_closed_forms.py::test_conv_gradients[reflect-even-first]",
    ),
    Slip(
        "bias gradient: mean in place of sum",
        FORMS,
        "return delta.sum(others, dtype=",
        "return delta.mean(others, dtype=",
        "tests/test_closed_forms.py::test_conv_gradients[1x1-first]",
    ),
    Slip(
        "up() of a maximum: no winner sent to the last element",
        FORMS,
        "index = jnp.where(index < 0, size, index)",
        "index = jnp.where(index < 0, -1, index)",
        "tests/test_closed_forms.py::test_max_pool_gradient[only-padding-first]",
    ),
    Slip(
        "up() of a maximum: errors that meet overwrite each other",
        FORMS,
        '.at[winner].add(wide, mode="drop")',
        '.at[winner].set(wide, mode="drop")',
        "tests/test_closed_forms.py::test_max_pool_gradient[no-batch-first]",
    ),
    Slip(
        "up() of a maximum: ceil mode lost",
        FORMS,
        'names = ("stride", "padding", "dilation", "ceil_mode")',
        'names = ("stride", "padding", "dilation")',
        "tests/test_closed_forms.py::test_max_pool_gradient[ceil-first]",
    ),
    Slip(
        "up() of a mean: padding always counted",
        FORMS,
        "factors = counts(planned, layout, count_include_pad) if divisor is None else [divisor]",
        "factors = counts(planned, layout, True) if divisor is None else [divisor]",
        "tests/test_closed_forms.py::test_avg_pool_gradient[overlap-first]",
    ),
    Slip(
        "up() of a mean: sum in place of mean",
        FORMS,
        "shares = jnp.where(count == 0, 0, delta / jnp.where(count == 0, 1, count))",
        "shares = delta",
        "tests/test_closed_forms.py::test_avg_pool_gradient[plain-1d-first]",
    ),
    Slip(
        "up() of a mean: ceil mode's crop put back at the wrong end",
        FORMS,
        "*((0, size - left) for size, left in cropped)]",
        "*((size - left, 0) for size, left in cropped)]",
        "tests/test_closed_forms.py::test_avg_pool_gradient[ceil-crops-first]",
    ),
    Slip(
        "up() of a mean: window transposed",
        FORMS,
        "ones = jnp.ones((1, 1, *call.window), delta.dtype)",
        "ones = jnp.ones((1, 1, *call.window[::-1]), delta.dtype)",
        "tests/test_closed_forms.py::test_avg_pool_gradient[plain-2d-first]",
    ),
]

ALGORITHMS = "jaxconv/_algorithms/"
PROJECTED = "tests/test_algorithms.py::test_projections_equal_the_form"
LARGER = "tests/test_algorithms.py::test_larger_projections_equal_the_form"
MAPPED = "tests/test_algorithms.py::test_window_maps_equal_the_oracle"

FAST = [
    Slip(
        "shift: taps of the input gradient in forward order",
        ALGORITHMS + "shift.py",
        "tuple((reach - j, 1) for j in",
        "tuple((j, 1) for j in",
        f"{PROJECTED}[shift-padding-first]",
    ),
    Slip(
        "a strided gradient's first window off by one",
        ALGORITHMS + "_frame.py",
        "first, last = low // s,",
        "first, last = -(-low // s),",
        f"{LARGER}[line-strided-first]",
    ),
    Slip(
        "shift: a row of the kernel gradient's loop read twice",
        ALGORITHMS + "_rows.py",
        "y = _part(y, at, number * rows, rows)",
        "y = _part(y, at, number * 0, rows)",
        f"{LARGER}[many-rows-first]",
    ),
    Slip(
        "shift: an image of those added up together left out",
        ALGORITHMS + "_rows.py",
        "images = (0, image, n // together, together)",
        "images = (0, 0, n // together, together)",
        f"{LARGER}[volume-first]",
    ),
    Slip(
        "shift: lines that do not reach into the next",
        ALGORITHMS + "_rows.py",
        "(at, begin + line * length * step, length, step)",
        "(at, line * length * step, length, step)",
        f"{LARGER}[line-first]",
    ),
    Slip(
        "residues taken from the array's first element, not the frame's",
        ALGORITHMS + "_frame.py",
        "missing = max(0, -((start + residue) // stride))",
        "missing = max(0, -(start // stride))",
        f"{LARGER}[line-strided-first]",
    ),
    Slip(
        "patches: rows of a block read without the stride",
        ALGORITHMS + "patches.py",
        "taken(x, block, first, block.row * s,",
        "taken(x, block, first, block.row,",
        f"{LARGER}[blocks-first]",
    ),
    Slip(
        "patches: the block's rows of y not taken",
        ALGORITHMS + "patches.py",
        "apart(products, patches, taken(y, block, 2))",
        "apart(products, patches, taken(y, block, 2, 0))",
        f"{LARGER}[few-blocks-first]",
    ),
    Slip(
        "patches: the block's rows of y not taken where channels are last",
        ALGORITHMS + "patches.py",
        "return patches, taken(y, block, 1)",
        "return patches, taken(y, block, 1, 0)",
        f"{LARGER}[blocks-first]",
    ),
    Slip(
        "patches: a kernel gradient not turned back where patches are the wider factor",
        ALGORITHMS + "patches.py",
        "return apart(jnp.transpose, sums) if wider else sums",
        "return sums",
        f"{LARGER}[blocks-first]",
    ),
    Slip(
        "kn2row: taps of errors and of windows exchanged",
        ALGORITHMS + "kn2row.py",
        "order = (*range(here, here + axes), *range(here), w.ndim - 1)",
        "order = (*range(here - 1), *range(here, here + axes), here - 1, w.ndim - 1)",
        f"{LARGER}[row-volume-first]",
    ),
    Slip(
        "kn2row: rows of taps added up without their shift",
        ALGORITHMS + "kn2row.py",
        "(1 + n, a * geometry.dilation[n], counts[n], 1)",
        "(1 + n, 0, counts[n], 1)",
        f"{LARGER}[row-blocks-first]",
    ),
    Slip(
        "kn2row: planes of few results added up as if nothing were dilated",
        ALGORITHMS + "kn2row.py",
        "(first + axis, a * d, m, 1)",
        "(first + axis, a, m, 1)",
        f"{LARGER}[few-results-first]",
    ),
    Slip(
        "kn2row: errors of a kernel gradient shifted the other way",
        ALGORITHMS + "kn2row.py",
        "(1 + at, r - a * d, n, 1)",
        "(1 + at, a * d, n, 1)",
        f"{LARGER}[row-blocks-first]",
    ),
    Slip(
        "kn2row: blocks without the rows that they share",
        ALGORITHMS + "kn2row.py",
        "taken(x, block, axis, block.row, block.rows + geometry.extent[0] - 1)",
        "taken(x, block, axis, 0, block.rows + geometry.extent[0] - 1)",
        f"{LARGER}[one-row-blocks-first]",
    ),
    Slip(
        "grouped: an input gradient without exchanging a group's channels",
        ALGORITHMS + "_frame.py",
        "jnp.swapaxes(stacked(turned, geometry.groups, out_axis), out_axis + 1, in_axis + 1)",
        "stacked(turned, geometry.groups, out_axis)",
        f"{LARGER}[slim-groups-first]",
    ),
    Slip(
        "eigen: the rows that nobody asked for come first",
        ALGORITHMS + "eigen.py",
        "(low, high + missing[axis])",
        "(low + missing[axis], high)",
        f"{LARGER}[one-row-more-first]",
    ),
    Slip(
        "onednn: low and high padding exchanged",
        ALGORITHMS + "_library.py",
        "low, high = zip(*padding, strict=True)",
        "high, low = zip(*padding, strict=True)",
        "tests/test_algorithms.py::test_projections_equal_the_form[onednn-asymmetric-first]",
    ),
    Slip(
        "onednn: negative padding crops the other end",
        ALGORITHMS + "onednn.py",
        "frames.append((first - low, ",
        "frames.append((last - high, ",
        "tests/test_algorithms.py::test_projections_equal_the_form[onednn-negative-first]",
    ),
    Slip(
        "onednn: also in programs that are written down",
        ALGORITHMS + "_library.py",
        "problem.static and not problem.portable and is_there()",
        "problem.static and is_there()",
        "tests/test_onednn.py::test_programs_for_this_machine_have_it_and_no_others",
    ),
    Slip(
        "onednn: channels on their own with dilation are not refused",
        ALGORITHMS + "onednn.py",
        "(geometry.rank == 1 or max(geometry.dilation) > 1)",
        "geometry.rank == 1",
        "tests/test_onednn.py::test_what_it_may_have_no_kernel_for_is_refused",
    ),
    Slip(
        "batches: a kernel gradient rounded after each part of the batch",
        ALGORITHMS + "batches.py",
        'dtypes = (form.dtype("x"), sum_dtype(problem), form.dtype("y"))',
        'dtypes = (form.dtype("x"), form.dtype("w"), form.dtype("y"))',
        "tests/test_algorithms.py::test_kernel_gradients_of_parts_of_a_batch_are_rounded_once",
    ),
    Slip(
        "winograd: errors of the first rows for every block of tiles",
        ALGORITHMS + "winograd.py",
        "taken(y, part, 1, 2 * part.row, 2 * part.rows)",
        "taken(y, part, 1, 0, 2 * part.rows)",
        f"{LARGER}[bands-first]",
    ),
    Slip(
        "winograd: each band of tiles begins with the first row",
        ALGORITHMS + "winograd.py",
        "Frame(1, 2 * part.row - above,",
        "Frame(1, -above,",
        f"{LARGER}[bands-first]",
    ),
    Slip(
        "winograd: a sign in the outputs' matrix",
        ALGORITHMS + "winograd.py",
        "A = ((1, 0), (1, 1), (1, -1), (0, -1))",
        "A = ((1, 0), (1, 1), (1, -1), (0, 1))",
        f"{PROJECTED}[winograd-padding-first]",
    ),
    Slip(
        "winograd: a sign in the inputs' matrix",
        ALGORITHMS + "winograd.py",
        "(0, -1, 1, 0), (0, 1, 0, -1))",
        "(0, 1, 1, 0), (0, 1, 0, -1))",
        f"{PROJECTED}[winograd-padding-first]",
    ),
    Slip(
        "fft: convolution in place of correlation",
        ALGORITHMS + "fft.py",
        "w_hat = jnp.conj(_kernel_spectrum(problem, w, groups))",
        "w_hat = _kernel_spectrum(problem, w, groups)",
        f"{PROJECTED}[fft-plain-1d-first]",
    ),
    Slip(
        "fft: taps not set apart by the dilation",
        ALGORITHMS + "fft.py",
        "gaps = [(0, 0, d - 1) for d",
        "gaps = [(0, 0, d - d) for d",
        f"{PROJECTED}[fft-dilation-first]",
    ),
    Slip(
        "residues counted from the input instead of the padding",
        ALGORITHMS + "_frame.py",
        "low % s, n)",
        "low, n)",
        f"{LARGER}[stride-twice-first]",
    ),
    Slip(
        "matmul: gaps of a strided input gradient not put back",
        ALGORITHMS + "matmul.py",
        "(s if k == 1 else",
        "(1 if k == 1 else",
        f"{LARGER}[long-rows-first]",
    ),
    Slip(
        "taps: dilation forgotten",
        ALGORITHMS + "taps.py",
        "grid.T * np.asarray(geometry.dilation, np.int32)",
        "grid.T * 1",
        f"{PROJECTED}[taps-dilation-first]",
    ),
    Slip(
        "groups: kernels split along the input channels",
        ALGORITHMS + "groups.py",
        "return layout.kernel_axes[0]",
        "return layout.kernel_axes[1]",
        f"{PROJECTED}[groups-groups-first]",
    ),
    Slip(
        "slices: a sum's second part over the end of the first",
        ALGORITHMS + "slices.py",
        "offset += size * d",
        "offset += size",
        f"{MAPPED}[slices-long-dilated-first]",
    ),
    Slip(
        "slices: one residue too many has the longer window",
        ALGORITHMS + "slices.py",
        "residue < full",
        "residue <= full",
        f"{MAPPED}[slices-long-window-first]",
    ),
    Slip(
        "winners: the last of equals in place of the first",
        ALGORITHMS + "winners.py",
        "above = (value > best)",
        "above = (value >= best)",
        f"{MAPPED}[winners-overlap-first]",
    ),
    Slip(
        "winners: padding may win",
        ALGORITHMS + "winners.py",
        "first * np.int32(d * plane)",
        "first * np.int32(0 * plane)",
        f"{MAPPED}[winners-asymmetric-first]",
    ),
]

VIEWS = "jaxconv/_views.py"
BY_FLAX = "jaxconv/_flax.py"
OF_LAX = "tests/test_accelerate.py::test_convolutions_are_laxs"
OF_WINDOWS = "tests/test_accelerate.py::test_windows_are_laxs"
OF_GRADIENTS = "tests/test_accelerate.py::test_their_derivatives_and_maps_are_laxs"

ANYWHERE = [
    Slip(
        "views: a dilated image's kernel is not turned around",
        VIEWS,
        "w = lax.rev(rhs.transpose(w_spec), range(2, rhs.ndim))",
        "w = rhs.transpose(w_spec)",
        f"{OF_LAX}[lhs dilated]",
    ),
    Slip(
        "views: padding of a dilated image counted without the kernel's dilation",
        VIEWS,
        "(k - 1) * d - before for before, k, d in axes",
        "(k - 1) - before for before, k, d in axes",
        f"{OF_LAX}[both dilated]",
    ),
    Slip(
        "views: channels of groups exchanged across groups",
        VIEWS,
        "    apart = w.reshape(groups, outputs // groups, inputs, *window)\n",
        "    apart = w.reshape(1, outputs, inputs, *window)\n",
        f"{OF_LAX}[feature groups, lhs dilated]",
    ),
    Slip(
        "views: a transposed convolution's kernel gradient is not turned back",
        VIEWS,
        "return _back(lax.rev(w, range(2, w.ndim)), (features, batch, *space))",
        "return _back(w, (features, batch, *space))",
        f"{OF_LAX}[batch groups, lhs dilated]",
    ),
    Slip(
        "views: a kernel gradient's stride and dilation exchanged",
        VIEWS,
        "_geometry(*sizes, call.d, call.low, call.u, call.batches)",
        "_geometry(*sizes, call.u, call.low, call.d, call.batches)",
        f"{OF_LAX}[batch groups last]",
    ),
    Slip(
        "views: a result in lax's order of axes, not in the caller's",
        VIEWS,
        "    return array.transpose(np.argsort(axes))\n",
        "    return array.transpose(axes)\n",
        f"{OF_LAX}[odd orders]",
    ),
    Slip(
        "views: a minimum without turning the order around",
        VIEWS,
        'turn = turned if name == "min" else _as_it_is',
        "turn = _as_it_is",
        f"{OF_WINDOWS}[float32-min-2x2 s2]",
    ),
    Slip(
        "views: windows of nothing but padding are taken",
        VIEWS,
        "if any(max(pair) >= e for pair, e in zip(pairs, geometry.extent, strict=True)):",
        "if False:",
        f"{OF_GRADIENTS}[max-windows of padding]",
    ),
    Slip(
        "views: a minimum's gradient goes to the greatest",
        VIEWS,
        'turn = _as_it_is if params["select_prim"] is lax.ge_p else turned',
        "turn = _as_it_is",
        f"{OF_GRADIENTS}[min-3x3 s2 same]",
    ),
    Slip(
        "accelerate: what was there before is not put back",
        "jaxconv/_lax.py",
        "            by_platform[PLATFORM][primitive] = entry\n",
        "            pass\n",
        "tests/test_accelerate.py::test_off_is_lax_itself_again",
    ),
    Slip(
        "accelerate: what has been compiled is kept",
        "jaxconv/_accelerate.py",
        "        jax.clear_caches()\n",
        "",
        "tests/test_accelerate.py::test_libraries_take_it[by_linen]",
    ),
    Slip(
        "accelerate: jaxconv's own use of lax is accelerated, too",
        "jaxconv/_lax.py",
        "    if not replaced():\n        return function(*operands)\n",
        "    if True:\n        return function(*operands)\n",
        "tests/test_accelerate.py::test_direct_stays_laxs",
    ),
    Slip(
        "modules: Flax's ConvTranspose calls lax",
        BY_FLAX,
        "in_place_of_lax(inspect.unwrap(method), conv_transpose=ours)",
        "in_place_of_lax(inspect.unwrap(method))",
        "tests/test_modules.py::test_modules_compute_by_jaxconv[jaxconv.linen]",
    ),
    Slip(
        "modules: a kernel of torch's keeps its inputs and outputs where they are",
        BY_FLAX,
        "np.moveaxis(np.asarray(weight), (0, 1), (-1, -2))",
        "np.moveaxis(np.asarray(weight), (0, 1), (-2, -1))",
        "tests/test_modules.py::test_torch_conv_moves_over[last-True-1-2]",
    ),
    Slip(
        "modules: groups of a transposed kernel are one",
        BY_FLAX,
        "reshape(*window, a, groups, channels // groups)",
        "reshape(*window, a, channels // groups, groups).swapaxes(-1, -2)",
        "tests/test_modules.py::test_torch_conv_transpose_moves_over[last-False-2-2]",
    ),
    Slip(
        "half precision: negative numbers ranked the wrong way round",
        ALGORITHMS + "_frame.py",
        "    ranks = jnp.where(bits < 0, ~size, bits)\n",
        "    ranks = jnp.where(bits < 0, bits, bits)\n",
        f"{OF_WINDOWS}[bfloat16-max-2x2 s2]",
    ),
    Slip(
        "whole planes: the last of equals wins",
        ALGORITHMS + "whole.py",
        "lax.broadcasted_iota(np.int32, line.shape, 1), np.int32(plane))",
        "plane - 1 - lax.broadcasted_iota(np.int32, line.shape, 1), np.int32(plane))",
        f"{MAPPED}[whole-whole-plane-first]",
    ),
]

SLIPS: list[Slip] = [*CORE, *CLOSED_FORMS, *FAST, *ANYWHERE]
