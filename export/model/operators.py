"""Parts of a layer as ONNX Runtime's own operators, which its CPU kernels run fastest.

Only the ONNX exporter can run these functions: torch has no kernels for the operators. Each does
what the function of plain torch operations does that it stands for.

Shape letters: B batch, T items, H memories, K key width, V value width; A attention heads, d their
width, W window.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.model.attention import Frame

LANES = 32
"""Key and value widths are padded to a multiple of this: for others ONNX Runtime's CPU kernel takes
several times as long (``examples/bench/kernel_widths.py``)."""
FAST_SIZE = 4096
"""Without AVX512 or NEON that kernel is a plain loop for memories of fewer values than this;
those of at least half as many are padded up to it."""


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``delta_rule`` as ``com.microsoft.LinearAttention``; same arguments and results.

    Key and value widths are padded to what its kernel is fast for on every CPU.
    """
    key, value = q.shape[-1], v.shape[-1]
    wide_key, wide_value = key + -key % LANES, value + -value % LANES
    if FAST_SIZE // 2 <= wide_key * wide_value < FAST_SIZE:
        wide_value = -(-FAST_SIZE // wide_key)
    more_key, more_value = wide_key - key, wide_value - value
    if more_key:
        q, k = F.pad(q, (0, more_key)), F.pad(k, (0, more_key))
    if more_value:
        v = F.pad(v, (0, more_value))
    if more_key or more_value:
        state = F.pad(state, (0, more_value, 0, more_key))
    out, after = attention_operator("gated_delta", (q, k, v), state, g, b)
    return out[..., :value], after[:, :, :key, :value]


def attention_operator(
    rule: str, qkv: tuple[Tensor, Tensor, Tensor], state: Tensor, *gates: Tensor
) -> tuple[Tensor, Tensor]:
    """Write ``com.microsoft.LinearAttention`` into the graph; only the ONNX exporter can run it.

    Args:
        rule: How it updates the state: ``gated``, or ``gated_delta``.
        qkv: Queries and keys ``[B, T, H, K]``, values ``[B, T, H, V]``.
        state: ``[B, H, K, V]``.
        gates: Log decay ``[B, T, H]``, and write strength ``[B, T, H]`` where the rule has one.

    Returns:
        Outputs ``[B, T, H, V]`` and the next state.
    """
    v = qkv[2]
    batch, items, heads, value = v.shape
    out, after = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::LinearAttention",
        (*(part.flatten(2) for part in qkv), state, *gates),
        attrs={
            "q_num_heads": heads,
            "kv_num_heads": heads,
            "update_rule": rule,
            "scale": 1.0,  # the default, 0, would mean 1/sqrt(K)
        },
        dtypes=(v.dtype, state.dtype),
        shapes=((batch, items, heads * value), tuple(state.shape)),
        version=1,
    )
    return out.unflatten(-1, (heads, value)), after


def window_attention_operator(q: Tensor, keys: Tensor, values: Tensor, frame: Frame) -> Tensor:
    """Run ``window_attention`` with ``com.microsoft.RotaryEmbedding`` and ONNX's ``Attention``.

    Same arguments and result; T is at most ``max_chunk``.
    """
    window = keys.shape[2] - q.shape[2]
    return F.scaled_dot_product_attention(
        _rotate(q, frame, window), _rotate(keys, frame, 0), values, frame.bias
    )


def _rotate(x: Tensor, frame: Frame, start: int) -> Tensor:
    """Turn ``x [B, A, T, d]`` by the angles from row ``start`` of the tables on."""
    (turned,) = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::RotaryEmbedding",
        (x, torch.tensor([start]), frame.cos, frame.sin),
        attrs={"interleaved": 0},
        dtypes=(x.dtype,),
        shapes=(tuple(x.shape),),
        version=1,
    )
    return turned


def convolve_one(x: Tensor, past: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``causal_conv`` on single items (T = 1) as ``com.microsoft.CausalConvWithState``.

    For more items the operator is slower than the shifted products of ``causal_conv``.
    """
    line = x.transpose(1, 2)  # (B, P, 1)
    mixed, after = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::CausalConvWithState",
        (line, weight[:, None], None, past),
        attrs={"activation": "silu", "ndim": 1},
        dtypes=(x.dtype, x.dtype),
        shapes=(tuple(line.shape), tuple(past.shape)),
        version=1,
    )
    return mixed.transpose(1, 2), after
