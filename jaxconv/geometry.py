"""Sizes, receptive fields, costs and summaries: what is known before a number is looked at.

Here are names alone: of single operations, which are integers only (`_sizes`), and of whole
networks (`_layer_summary`), whose algorithms the table chooses.
"""

from ._layer_summary import summary as summary
from ._layers import AdaptiveAvgPool as AdaptiveAvgPool
from ._layers import AvgPool as AvgPool
from ._layers import BatchNorm as BatchNorm
from ._layers import Conv as Conv
from ._layers import ConvTranspose as ConvTranspose
from ._layers import Dense as Dense
from ._layers import Flatten as Flatten
from ._layers import MaxPool as MaxPool
from ._layers import Residual as Residual
from ._sizes import ConvCost as ConvCost
from ._sizes import ReceptiveField as ReceptiveField
from ._sizes import conv_cost as conv_cost
from ._sizes import conv_output_shape as conv_output_shape
from ._sizes import conv_transpose_output_shape as conv_transpose_output_shape
from ._sizes import pool_output_shape as pool_output_shape
from ._sizes import receptive_field as receptive_field
from ._summary import Row as Row
from ._summary import Summary as Summary
