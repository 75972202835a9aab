"""The two kernels of the fused lowering: the layer's operations as ONNX Runtime's own operators.

Only the ONNX exporter can run these; torch has no kernel for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dst.export.model.layer import Kernels

DOMAIN = "com.microsoft"


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """``com.microsoft.LinearAttention``; arguments and results as ``delta_rule``."""
    batch, items, heads, width = v.shape
    packed = (batch, items, heads * width)
    out, after = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::LinearAttention",
        (q.flatten(2), k.flatten(2), v.flatten(2), state, g, b),
        attrs={
            "q_num_heads": heads,
            "kv_num_heads": heads,
            "update_rule": "gated_delta",
            "scale": 1.0,  # the default, 0, would mean 1/sqrt(K)
        },
        dtypes=(v.dtype, state.dtype),
        shapes=(packed, tuple(state.shape)),
        version=1,
    )
    return out.unflatten(-1, (heads, width)), after


FUSED = Kernels(delta_rule=linear_attention)
