"""The algorithms, one file each, and the register they stand in.

An algorithm is a name and a function for each map that it can compute. The maps are the
projections of the convolution form (`output`, `input_grad`, `kernel_grad`) and the window maps of
the pools (`window_max`, `window_argmax`, `window_sum`, `window_spread`, `pick`, `place`, `unfold`,
`fold`). Each function takes the static `Problem` and the operands, and returns the result in the
shape and dtype that the form says; operands and result are never empty. No algorithm defines a
derivative: the maps are each other's transposes, see `jaxconv._primitives` and `_window_maps`.

To add one: write a file here that ends in an `Algorithm`, list it in `REGISTER` below, and give it
a row in `jaxconv._choice.TABLE`. The tests run every algorithm of the register through every case.
"""

from . import (
    adaptive,
    axes,
    batches,
    columns,
    direct,
    eigen,
    fft,
    grouped,
    groups,
    kn2row,
    matmul,
    onednn,
    patches,
    phases,
    reduce_window,
    shift,
    slices,
    taps,
    turned,
    whole,
    winners,
    winograd,
)
from ._algorithm import Algorithm as Algorithm

REGISTER: dict[str, Algorithm] = {
    module.ALGORITHM.name: module.ALGORITHM
    for module in (
        direct,
        onednn,
        eigen,
        matmul,
        shift,
        fft,
        winograd,
        patches,
        kn2row,
        taps,
        phases,
        grouped,
        groups,
        turned,
        batches,
        adaptive,
        columns,
        axes,
        slices,
        whole,
        winners,
        reduce_window,
    )
}


def algorithms() -> tuple[str, ...]:
    """The names that the argument `algorithm` takes besides `"auto"`.

    `"direct"`, always there, is `jax.lax.conv_general_dilated` and its transposes.

    >>> "direct" in algorithms()
    True
    """
    return tuple(name for name, algorithm in REGISTER.items() if "output" in algorithm.maps)
