"""Write llama.cpp models with random weights, of as many parameters as ours, as GGUF files.

    PYTHONPATH=…/llama.cpp/gguf-py python gguf_models.py SIZE FOLDER

It runs in an environment of its own that has the packages `gguf` needs. Three families have a
memory of fixed size in llama.cpp: the LFM2 hybrid (short convolutions, and attention over a sliding
window), Mamba and RWKV-7. Beside each file stands a JSON file with what a step costs.

Shape letters: `D` width, `F` width of the feed-forward layer, `V` vocabulary, `L` layers.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import gguf  # type: ignore[import-not-found]  # comes inside the source of llama.cpp
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CONTEXT = 1 << 17
MAMBA_STATE, MAMBA_TAPS, LFM2_TAPS = 16, 4, 3


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes of one size in the three families.

    Attributes:
        vocabulary: of all three.
        width: of all three.
        lfm2: one letter per layer, `c` for a convolution and `a` for attention; F; heads; heads of
            keys and values; window.
        mamba: layers.
        rwkv7: layers; F; width of a head.
    """

    vocabulary: int
    width: int
    lfm2: tuple[str, int, int, int, int]
    mamba: int
    rwkv7: tuple[int, int, int]


SIZES = {
    "tiny": Shapes(256, 64, ("ca", 160, 4, 4, 64), 3, (2, 128, 32)),
    "text": Shapes(256, 256, ("ccac", 576, 8, 8, 64), 6, (3, 1152, 64)),
    "130m": Shapes(50304, 768, ("ccaccaccaccaccac", 1536, 12, 4, 256), 24, (12, 3072, 64)),
}


@dataclass(slots=True)
class Writer:
    """A GGUF file that is being written; counts the parameters.

    Attributes:
        path: where it goes.
        family: llama.cpp's name of the architecture.
        total: all parameters.
        looked_up: those of a table that is only looked up in, never multiplied with.
        head: those that only the logits need.
    """

    path: Path
    family: str
    out: "gguf.GGUFWriter" = field(init=False)
    total: int = 0
    looked_up: int = 0
    head: int = 0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.out = gguf.GGUFWriter(str(self.path), self.family)
        self.out.add_name(self.path.stem)
        self.out.add_context_length(CONTEXT)
        self.out.add_file_type(0)

    def add(self, name: str, array: Array) -> None:
        self.out.add_tensor(name, array)
        self.total += array.size

    def weight(self, name: str, *shape: int, std: float = 0.02) -> None:
        self.add(name, self.random.standard_normal(shape, dtype=np.float32) * np.float32(std))

    def fixed(self, name: str, value: float, *shape: int) -> None:
        self.add(name, np.full(shape, value, np.float32))

    def vocabulary(self, size: int, width: int, tied: bool) -> None:
        """Add the table, and a head of its own where it is not tied to the table."""
        self.out.add_vocab_size(size)
        self.out.add_tokenizer_model("none")
        self.weight("token_embd.weight", size, width)
        self.head = size * width
        if not tied:
            self.looked_up = size * width
            self.weight("output.weight", size, width)

    def close(self) -> None:
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()
        counts = {
            "parameters": self.total,
            "parameters_read": self.total - self.looked_up,
            "parameters_of_head": self.head,
        }
        self.path.with_suffix(".json").write_text(json.dumps(counts), "utf-8")


def lfm2(path: Path, shapes: Shapes) -> None:
    """A hybrid like LFM2; the head is tied to the table, and attention sees a sliding window."""
    layers, inner, heads, kv_heads, window = shapes.lfm2
    d, head = shapes.width, shapes.width // heads
    w = Writer(path, "lfm2")
    w.out.add_embedding_length(d)
    w.out.add_block_count(len(layers))
    w.out.add_feed_forward_length(inner)
    w.out.add_head_count(heads)
    w.out.add_head_count_kv([kv_heads if kind == "a" else 0 for kind in layers])
    w.out.add_rope_freq_base(1e6)
    w.out.add_layer_norm_rms_eps(1e-5)
    w.out.add_shortconv_l_cache(LFM2_TAPS)
    w.out.add_sliding_window(window)
    w.vocabulary(shapes.vocabulary, d, tied=True)
    w.fixed("token_embd_norm.weight", 1, d)
    for number, kind in enumerate(layers):
        p = f"blk.{number}."
        w.fixed(p + "attn_norm.weight", 1, d)
        w.fixed(p + "ffn_norm.weight", 1, d)
        w.weight(p + "ffn_gate.weight", inner, d)
        w.weight(p + "ffn_up.weight", inner, d)
        w.weight(p + "ffn_down.weight", d, inner)
        if kind == "a":
            w.weight(p + "attn_q.weight", d, d)
            w.weight(p + "attn_k.weight", kv_heads * head, d)
            w.weight(p + "attn_v.weight", kv_heads * head, d)
            w.weight(p + "attn_output.weight", d, d)
            w.fixed(p + "attn_q_norm.weight", 1, head)
            w.fixed(p + "attn_k_norm.weight", 1, head)
        else:
            w.weight(p + "shortconv.conv.weight", d, LFM2_TAPS, std=0.3)
            w.weight(p + "shortconv.in_proj.weight", 3 * d, d)
            w.weight(p + "shortconv.out_proj.weight", d, d)
    w.close()


def mamba(path: Path, shapes: Shapes) -> None:
    """Mamba, with twice the width inside; the head is tied to the table."""
    d, inner, n = shapes.width, 2 * shapes.width, MAMBA_STATE
    rank = -(-d // 16)
    w = Writer(path, "mamba")
    w.out.add_embedding_length(d)
    w.out.add_feed_forward_length(0)
    w.out.add_head_count(0)
    w.out.add_block_count(shapes.mamba)
    w.out.add_ssm_conv_kernel(MAMBA_TAPS)
    w.out.add_ssm_inner_size(inner)
    w.out.add_ssm_state_size(n)
    w.out.add_ssm_time_step_rank(rank)
    w.out.add_layer_norm_rms_eps(1e-5)
    w.out.add_ssm_dt_b_c_rms(False)
    w.vocabulary(shapes.vocabulary, d, tied=True)
    w.fixed("output_norm.weight", 1, d)
    for number in range(shapes.mamba):
        p = f"blk.{number}."
        w.fixed(p + "attn_norm.weight", 1, d)
        w.weight(p + "ssm_in.weight", 2 * inner, d)
        w.weight(p + "ssm_conv1d.weight", inner, MAMBA_TAPS, std=0.3)
        w.fixed(p + "ssm_conv1d.bias", 0, inner)
        w.weight(p + "ssm_x.weight", rank + 2 * n, inner)
        w.weight(p + "ssm_dt.weight", inner, rank)
        w.fixed(p + "ssm_dt.bias", -3, inner)
        w.add(p + "ssm_a", -np.tile(np.arange(1, n + 1, dtype=np.float32), (inner, 1)))
        w.fixed(p + "ssm_d", 1, inner)
        w.weight(p + "ssm_out.weight", d, inner)
    w.close()


def rwkv7(path: Path, shapes: Shapes) -> None:
    """RWKV-7, whose table is only looked up in: its head is as large again."""
    layers, inner, head = shapes.rwkv7
    d = shapes.width

    def rank(exponent: float, factor: float) -> int:
        """The width of a low-rank part, as RWKV-7 chooses it."""
        return 32 * max(1, round(float(d**exponent) * factor / 32))

    decay, rate, mix, gate = rank(0.5, 1.8), rank(0.5, 1.8), rank(0.5, 1.3), rank(0.8, 0.6)
    w = Writer(path, "rwkv7")
    w.out.add_embedding_length(d)
    w.out.add_block_count(layers)
    w.out.add_layer_norm_eps(1e-5)
    w.out.add_wkv_head_size(head)
    w.out.add_decay_lora_rank(decay)
    w.out.add_iclr_lora_rank(rate)
    w.out.add_value_residual_mix_lora_rank(mix)
    w.out.add_gate_lora_rank(gate)
    w.out.add_feed_forward_length(inner)
    w.out.add_head_count(0)
    w.out.add_token_shift_count(2)
    w.vocabulary(shapes.vocabulary, d, tied=False)
    for norm in ("token_embd_norm", "output_norm"):
        w.fixed(norm + ".weight", 1, d)
        w.fixed(norm + ".bias", 0, d)
    for number in range(layers):
        p = f"blk.{number}."
        for norm in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            w.fixed(f"{p}{norm}.weight", 1, d)
            w.fixed(f"{p}{norm}.bias", 0, d)
        for letter, width in (("w", decay), ("a", rate), ("v", mix if number else rate)):
            w.fixed(f"{p}time_mix_{letter}0.weight", 0, d)
            w.weight(f"{p}time_mix_{letter}1.weight", width, d)
            w.weight(f"{p}time_mix_{letter}2.weight", d, width)
        w.weight(p + "time_mix_g1.weight", gate, d)
        w.weight(p + "time_mix_g2.weight", d, gate)
        w.weight(p + "time_mix_lerp_fused.weight", 6, 1, 1, d, std=0.1)
        for name in ("k_k", "k_a", "r_k"):
            w.weight(f"{p}time_mix_{name}.weight", d, std=0.1)
        for name in ("key", "value", "receptance", "output"):
            w.weight(f"{p}time_mix_{name}.weight", d, d)
        w.weight(p + "channel_mix_lerp_k.weight", 1, 1, d, std=0.1)
        w.weight(p + "channel_mix_key.weight", inner, d)
        w.weight(p + "channel_mix_value.weight", d, inner)
    w.close()


FAMILIES = {"lfm2": lfm2, "mamba": mamba, "rwkv7": rwkv7}


def main() -> None:
    size, folder = sys.argv[1], Path(sys.argv[2])
    for family, write in FAMILIES.items():
        path = folder / f"{size}-{family}-f32.gguf"
        part = path.with_suffix(".part")
        write(part, SIZES[size])
        part.with_suffix(".json").replace(path.with_suffix(".json"))
        part.replace(path)


if __name__ == "__main__":
    main()
