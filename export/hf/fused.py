"""The gated rule as ONNX Runtime's own operator; only the ONNX exporter can run it."""

from __future__ import annotations

import torch
from torch import Tensor


def gated_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """``com.microsoft.LinearAttention``; arguments and results as ``gated_rule``."""
    batch, items, heads, value = v.shape
    out, after = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        (q.flatten(2), k.flatten(2), v.flatten(2), state, g),
        attrs={
            "q_num_heads": heads,
            "kv_num_heads": heads,
            "update_rule": "gated",
            "scale": 1.0,  # the default, 0, would mean 1/sqrt(K)
        },
        dtypes=(v.dtype, state.dtype),
        shapes=((batch, items, heads * value), tuple(state.shape)),
        version=1,
    )
    return out.unflatten(-1, (heads, value)), after
