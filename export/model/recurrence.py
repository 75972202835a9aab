"""The gated delta rule: a matrix memory that each item reads, corrects and lets fade.

Shape letters: B batch, T items, H memories, K key width, V value width, N blocks of C items.

    S_t = e^{g_t} S_{t-1} + k_t b_t (v_t - e^{g_t} S_{t-1}^T k_t)^T        o_t = S_t^T q_t

``delta_rule_sequential`` is this equation, item by item. ``delta_rule`` is the same map in chunk
form (Yang et al. 2024, Gated Delta Networks): within a block of C items the rank-one updates
are gathered by one triangular inverse, so that everything is a matrix product. ONNX Runtime's own
operator for it is in ``dst.export.model.operators``.
"""

import torch
from torch import Tensor

BLOCK = 16
"""Items per block of the chunk form; its rounding error grows with the block
(``examples/bench/block_size.py``)."""


def delta_rule_sequential(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recurrence item by item; the reference every other form is held to.

    Args:
        q: Queries, unit length, ``[B, T, H, K]``.
        k: Keys, unit length, ``[B, T, H, K]``.
        v: Values, ``[B, T, H, V]``.
        g: Log decay, at most 0, ``[B, T, H]``.
        b: Write strength, ``[B, T, H]``.
        state: ``[B, H, K, V]``.

    Returns:
        Outputs ``[B, T, H, V]`` and the next state ``[B, H, K, V]``, in the inputs' dtype.
    """
    outputs = []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, None, None].exp()  # (B, H, K, V)
        recalled = torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        change = b[:, t, :, None] * (v[:, t] - recalled)  # (B, H, V)
        state = state + k[:, t, :, :, None] * change[:, :, None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, 1), state


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in chunk form; arguments and results as ``delta_rule_sequential``.

    Whole blocks of ``BLOCK`` items are prepared together; what is left over makes one short block.
    """
    items = q.shape[1]
    whole = items - items % BLOCK
    inputs = (q, k, v, g, b)
    if whole in (0, items):
        return _equal_blocks(inputs, state, min(items, BLOCK))
    head, state = _equal_blocks(tuple(x[:, :whole] for x in inputs), state, BLOCK)
    tail, state = _equal_blocks(tuple(x[:, whole:] for x in inputs), state, items - whole)
    return torch.cat([head, tail], 1), state


def _equal_blocks(inputs: tuple[Tensor, ...], state: Tensor, size: int) -> tuple[Tensor, Tensor]:
    q, k, v, g, b = inputs
    q, k, v = (_blocks(x, size) for x in (q, k, v))  # (B, H, N, C, K or V)
    g, b = (_blocks(x[..., None], size) for x in (g, b))  # (B, H, N, C, 1)
    lower = torch.ones(size, size, dtype=q.dtype, device=q.device).tril()  # tril1
    strict = lower.tril(-1)

    # Log decay between two items, sum of g over (j, i]: as a product of one-signed terms, never as
    # a difference of running sums, which would cancel where a block forgets strongly.
    between = lower @ (g * strict)  # (B, H, N, C, C)
    since_start = (lower @ g).exp()  # (B, H, N, C, 1), e^G
    decay = between.exp() * lower  # L; above the diagonal `between` is 0, so exp is safe
    until_end = decay[..., -1:, :].transpose(-1, -2)  # (B, H, N, C, 1), e^{G_C - G}

    inverse = _inverse_unit_lower((b * k) @ k.transpose(-1, -2) * decay * strict)
    written = inverse @ (b * v)  # (B, H, N, C, V)
    erased = inverse @ (b * since_start * k)  # (B, H, N, C, K)
    kept = k * until_end
    block_decay = since_start[..., -1:, :]  # (B, H, N, 1, 1)

    states, updates = [state[:, :, None]], []
    for n in range(q.shape[2]):
        this = slice(n, n + 1)
        updates.append(written[:, :, this] - erased[:, :, this] @ states[n])  # U
        gathered = kept[:, :, this].transpose(-1, -2) @ updates[n]
        states.append(block_decay[:, :, this] * states[n] + gathered)  # (B, H, 1, K, V)
    before, update = torch.cat(states[:-1], 2), torch.cat(updates, 2)
    out = (since_start * q) @ before + (q @ k.transpose(-1, -2) * decay) @ update
    return out.permute(0, 2, 3, 1, 4).flatten(1, 2), states[-1].squeeze(2)


def _blocks(x: Tensor, size: int) -> Tensor:
    """``[B, T, H, X]`` -> ``[B, H, N, C, X]``."""
    cut: Tensor = x.unflatten(1, (x.shape[1] // size, size))
    return cut.permute(0, 3, 1, 2, 4)


def _inverse_unit_lower(m: Tensor) -> Tensor:
    """``(I + m)^-1`` for strictly lower triangular ``m [..., C, C]``, by merging diagonal blocks.

    Each round joins neighbouring blocks of size 1, 2, 4, ...: the lower left corner of a joined
    inverse is ``-B^-1 m_21 A^-1``. Never the Neumann product of powers of ``m``: with correlated
    keys its float32 error explodes.
    """
    if m.requires_grad:  # the same value, but the backward pass is two products, not all rounds
        fixed = m.detach()
        inverse = _inverse_unit_lower(fixed)
        return inverse - inverse @ (m - fixed) @ inverse
    size = m.shape[-1]
    inverse = torch.eye(size, dtype=m.dtype, device=m.device)
    index = torch.arange(size, device=m.device)
    half = 1
    while half < size:
        same_pair = index[:, None] // (2 * half) == index // (2 * half)
        other_half = index[:, None] // half > index // half
        corner = m * (same_pair & other_half).to(m.dtype)
        # in the first round the inverse is I, so the product is the corner itself
        inverse = inverse - (corner if half == 1 else inverse @ corner @ inverse)
        half *= 2
    return inverse.expand_as(m)
