"""The kernel of the fused lowering: the delta rule as ONNX Runtime's own operator.

Only the ONNX exporter can run it; torch has no kernel for it. The convolution stays as shifted
products: ``com.microsoft.CausalConvWithState`` made the whole step slower at every T above 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.model.layer import Kernels

LANES = 32
"""Key and value widths are padded to a multiple of this: for other widths ONNX Runtime 1.31's CPU
kernel takes several times as long (``examples/bench/kernel_widths.py``)."""


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """``com.microsoft.LinearAttention``; arguments and results as ``delta_rule``."""
    batch, items, heads, value = v.shape
    key = q.shape[-1]
    more_key, more_value = -key % LANES, -value % LANES
    if more_key:
        q, k = F.pad(q, (0, more_key)), F.pad(k, (0, more_key))
    if more_value:
        v = F.pad(v, (0, more_value))
    if more_key or more_value:
        state = F.pad(state, (0, more_value, 0, more_key))
    out, after = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        (q.flatten(2), k.flatten(2), v.flatten(2), state, g, b),
        attrs={
            "q_num_heads": heads,
            "kv_num_heads": heads,
            "update_rule": "gated_delta",
            "scale": 1.0,  # the default, 0, would mean 1/sqrt(K)
        },
        dtypes=(v.dtype, state.dtype),
        shapes=((batch, items, heads * (value + more_value)), tuple(state.shape)),
        version=1,
    )
    out = out.unflatten(-1, (heads, value + more_value))
    return out[..., :value], after[:, :, :key, :value]


FUSED = Kernels(delta_rule=linear_attention)
