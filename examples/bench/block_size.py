"""Nothing in; how the chunk form's rounding error grows with its block out.

    python examples/bench/block_size.py

The hardest input there is: all keys are the same and each write has strength 1.98, nearly a
reflection. The chunk form in float32 is compared with the item-by-item recurrence in float64,
max|d|/rms over several seeds.
"""

from __future__ import annotations

import argparse

import torch

from dst.export.model import recurrence

ITEMS, SEEDS, HEADS, K, V = 256, 8, 3, 32, 48


def worst(block: int) -> float:
    """The largest error of outputs and state over all seeds, max|d|/rms."""
    recurrence.BLOCK = block
    errors = []
    for seed in range(SEEDS):
        random = torch.Generator().manual_seed(seed)
        q, key = (
            torch.nn.functional.normalize(torch.randn(1, n, HEADS, K, generator=random), dim=-1)
            for n in (ITEMS, 1)
        )
        v = torch.randn(1, ITEMS, HEADS, V, generator=random)
        state = torch.randn(1, HEADS, K, V, generator=random)
        g, b = torch.full((1, ITEMS, HEADS), -1e-4), torch.full((1, ITEMS, HEADS), 1.98)
        inputs = (q, key.expand(-1, ITEMS, -1, -1).contiguous(), v, g, b, state)
        found = recurrence.delta_rule(*inputs)
        exact = recurrence.delta_rule_sequential(*(x.double() for x in inputs))
        for x, y in zip(found, exact, strict=True):
            errors.append(((x - y).abs().max() / y.square().mean().sqrt()).item())
    return max(errors)


def main() -> None:
    """Print one line per block size."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print(f"identical keys, strength 1.98, {ITEMS} items, {SEEDS} seeds: max|d|/rms")
    for block in (8, 16, 32, 64):
        print(f"  block {block:>3}  {worst(block):.1e}")


if __name__ == "__main__":
    main()
