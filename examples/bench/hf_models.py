"""Measure bundles of Hugging Face models: graphs, error and speed of each family.

    python examples/bench/hf_models.py [FAMILY ...]

The models have random weights, 2 layers and a width of 256. Times are medians of interleaved rounds
on one thread: microseconds per token of the bundle at T = 1 and T = 16, of the plain lowering where
the bundle has another one, and of transformers itself reading 1,024 tokens at once in torch.

Shape letters: T items per chunk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers as hf

from dst.export import export_bundle
from dst.export.hf import from_pretrained
from dst.export.hf.step import whole_run
from dst.runtime import Session
from dst.runtime.execution.providers import Lowering
from dst.runtime.golden import relative_error

WIDTH, LAYERS, VOCABULARY, TOKENS, ROUNDS = 256, 2, 2048, 1024, 40

SHARED = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}
CONFIGS: dict[str, Callable[[], object]] = {
    "mamba": lambda: hf.MambaConfig(**SHARED),
    "falcon_mamba": lambda: hf.FalconMambaConfig(**SHARED),
    "mamba2": lambda: hf.Mamba2Config(**SHARED, num_heads=8, head_dim=64, n_groups=1),
    "rwkv": lambda: hf.RwkvConfig(**SHARED),
    "xlstm": lambda: hf.xLSTMConfig(**SHARED, embedding_dim=WIDTH, num_blocks=LAYERS, num_heads=4),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        **SHARED,
        num_attention_heads=4,
        head_dim=64,
        intermediate_size=1536,
        attention_window_size=128,
        block_types=["recurrent", "attention"],
    ),
    "lfm2": lambda: hf.Lfm2Config(
        **SHARED,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=1024,
        layer_types=["conv"] * LAYERS,
    ),
    "qwen3_next": lambda: hf.Qwen3NextConfig(
        **SHARED,
        **HEADS,
        intermediate_size=1024,
        layer_types=["linear_attention"] * LAYERS,
        num_experts=0,
        linear_num_key_heads=4,
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
    ),
}


def measure(family: str, folder: Path) -> str:
    """Export one family and return its row of the table."""
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(CONFIGS[family]()).float().eval()
    model.save_pretrained(str(folder / "source"))
    step = from_pretrained(folder / "source", t=(1, 16))
    ids = np.random.default_rng(0).integers(0, VOCABULARY, TOKENS)
    began = time.perf_counter()
    manifest = export_bundle(step, folder / "bundle", data=ids, certify_steps=10)
    took = time.perf_counter() - began
    expected = whole_run(step.model, torch.from_numpy(ids)[None]).numpy()
    lowerings: list[Lowering] = sorted({g.lowering for g in manifest.graphs})
    streams = {
        (lowering, t): Session.open(folder / "bundle", chunk_sizes=[t], lowering=lowering).stream()
        for lowering in lowerings
        for t in (1, 16)
    }
    best: Lowering = "fused" if "fused" in lowerings else "portable"
    error = 0.0
    for t in (1, 16):
        fresh = Session.open(folder / "bundle", lowering=best).stream()
        parts = [fresh.step(ids[None, at : at + t])["logits"] for at in range(0, TOKENS, t)]
        error = max(error, relative_error(np.concatenate(parts, 1), expected))
    times: dict[tuple[Lowering, int], list[float]] = {key: [] for key in streams}
    whole: list[float] = []
    for number in range(ROUNDS):
        for (lowering, t), stream in streams.items():
            chunk = np.ascontiguousarray(ids[None, :t])
            since = time.perf_counter()
            for _ in range(64 // t):
                stream.step(chunk, copy=False)
            times[lowering, t].append((time.perf_counter() - since) / 64)
        if number < 3:
            since = time.perf_counter()
            whole_run(step.model, torch.from_numpy(ids)[None])
            whole.append((time.perf_counter() - since) / TOKENS)

    def us(seconds: list[float]) -> str:
        return f"{1e6 * median(seconds):.0f}"

    plain = [us(times["portable", t]) if best == "fused" else "" for t in (1, 16)]
    graphs = ", ".join(g.file for g in manifest.graphs)
    return (
        f"| {family} | {graphs} | {error:.1e} | {us(times[best, 1])} | {us(times[best, 16])} | "
        f"{plain[0]} | {plain[1]} | {us(whole)} | {took:.0f} s |"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="All of them by default.")
    families = parser.parse_args().families or list(CONFIGS)
    torch.set_num_threads(1)
    print(f"transformers {hf.__version__}; microseconds per token, one thread")
    print(
        "| family | graphs | error | T=1 | T=16 | plain T=1 | plain T=16 | torch, whole | export |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for family in families:
        with tempfile.TemporaryDirectory() as folder:
            print(measure(family, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
