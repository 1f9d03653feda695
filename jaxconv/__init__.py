"""jaxconv: convolution and pooling for JAX, with torch's semantics and exact derivatives.

Functions at the top level, all pure and jit-compiled; `filters`, `geometry`, `gradients`,
`reference` and `verify` are modules. `docs`: each function's own docstring. Needs jax and jaxtyping
alone.
"""

from . import filters as filters
from . import geometry as geometry
from . import gradients as gradients
from . import reference as reference
from . import verify as verify
from ._accelerate import accelerate as accelerate
from ._adaptive import adaptive_avg_pool as adaptive_avg_pool
from ._adaptive import adaptive_max_pool as adaptive_max_pool
from ._algorithms import algorithms as algorithms
from ._columns import fold as fold
from ._columns import unfold as unfold
from ._conv import conv as conv
from ._conv import conv_transpose as conv_transpose
from ._explain import explain as explain
from ._notes import corr2d as corr2d
from ._notes import corr2d_multi_in as corr2d_multi_in
from ._notes import corr2d_multi_in_out as corr2d_multi_in_out
from ._notes import corr2d_multi_in_out_1x1 as corr2d_multi_in_out_1x1
from ._notes import pool2d as pool2d
from ._pool import avg_pool as avg_pool
from ._pool import lp_pool as lp_pool
from ._pool import max_pool as max_pool
from ._pool import min_pool as min_pool
from ._signal import convolve as convolve
from ._signal import correlate as correlate
from ._unpool import max_unpool as max_unpool
