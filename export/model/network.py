"""The DST-GD network: an embedding, a stack of layers that carry a state, and a head; its contract.

Shape letters: B batch, T items, D width, W window; the state tensors are named in ``LayerState``.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from dst.export.model.attention import Window, window_attention
from dst.export.model.config import Config, Gaussian, Quantiles, Tokens
from dst.export.model.contexts import CONTEXTS, RECENT, Seen, look, tables_state
from dst.export.model.heads import head_for
from dst.export.model.layer import TAPS, Forms, Layer, LayerState, causal_conv, rms_norm
from dst.export.model.operators import convolve_one, linear_attention, window_attention_operator
from dst.export.model.recurrence import delta_rule
from dst.export.step import Step
from dst.runtime.bundle import manifest as m

State = dict[str, Tensor]
"""``S.i``, ``conv.i``, ``Kc.i``, ``Vc.i`` for each layer i, and one ``ok [B, W]``; all float32.
With context tables, those of ``contexts`` besides."""


class Network(Step):
    """Gated-delta layers between an embedding and a head.

    The result of a call depends on the chunk and the state alone: no position, no count of steps.
    How a stream is cut into chunks does not matter beyond float rounding.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.contract = _contract(config)
        self.head = head_for(config.items, config.width)
        self.window = Window(config.window, config.max_chunk, config.attention_width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        c = config
        start = torch.zeros(c.layers, c.heads, c.key, c.value)
        self.start = nn.Parameter(start) if c.learned_start else None
        self.out_norm = nn.Parameter(torch.ones(config.width))
        self.forms = Forms(causal_conv, delta_rule, window_attention)

    @property
    def half_life_items(self) -> float | None:
        """Items after which a written value has faded to a half if nothing forgets it sooner."""
        alpha_max = self.config.alpha_max
        return None if alpha_max == 1.0 else math.log(0.5) / math.log(alpha_max)

    def fused(self) -> Network:
        """The same network, sharing every parameter, with ONNX Runtime's own operators."""
        other = copy.copy(self)
        other.forms = Forms(causal_conv, linear_attention, window_attention_operator)
        other.answers = True
        return other

    def single(self) -> Network:
        """The same network for T = 1, sharing every parameter, with ONNX Runtime's operators."""
        other = copy.copy(self)
        other.forms = Forms(convolve_one, linear_attention, window_attention_operator)
        return other

    def initial_state(self, batch: int) -> State:
        """The state before the first item: no cached key exists, memories are zero or learned."""
        c = self.config
        weight = self.out_norm
        state: State = {}
        for i in range(c.layers):
            cache = (batch, c.attention_heads, c.window, c.attention_width)
            shape = (batch, c.heads, c.key, c.value)
            learned = None if self.start is None else self.start[i].expand(shape)
            state[f"S.{i}"] = weight.new_zeros(shape) if learned is None else learned
            state[f"conv.{i}"] = weight.new_zeros(batch, c.memory_channels, TAPS - 1)
            state[f"Kc.{i}"] = weight.new_zeros(cache)
            state[f"Vc.{i}"] = weight.new_zeros(cache)
        state["ok"] = weight.new_zeros(batch, c.window)
        if c.context_bits is not None:
            state |= tables_state(batch, c.context_bits)
        return state

    def forward(
        self, chunk: Tensor, state: State, answers: Tensor | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """Take one step.

        Args:
            chunk: ``[B, T]`` int64 for tokens, ``[B, T, F]`` float32 for features.
            state: As ``initial_state`` gives it.
            answers: Items of the chunk to answer for, int64 ``[A]``; None for all.

        Returns:
            The head's outputs, each with axes ``[B, T, ...]`` or ``[B, A, ...]``, and the next
            state.
        """
        items, window = chunk.shape[1], self.config.window
        if items > self.config.max_chunk and items % window:  # long training input, in two parts
            cut = items - items % window
            first, state = self(chunk[:, :cut], state)
            second, state = self(chunk[:, cut:], state)
            return {name: torch.cat([t, second[name]], 1) for name, t in first.items()}, state
        following: State = {}
        seen: Seen | None = None
        if self.config.context_bits is not None:
            seen, following = look(chunk, state)
        x = self.head.encode(chunk, seen)  # (B, T, D)
        ok = torch.cat([state["ok"], torch.ones_like(x[:, :, 0])], 1)  # (B, W+T)
        frame = self.window.frame(ok)
        for i, layer in enumerate(self.layers):
            before = LayerState(*(state[f"{name}.{i}"] for name in LayerState._fields))
            x, after = layer(x, before, frame, self.forms)
            following |= {f"{name}.{i}": t for name, t in after._asdict().items()}
        following["ok"] = ok[:, items:]
        if answers is not None:
            x = x.index_select(1, answers)
            if seen is not None:
                seen = Seen(*(part.index_select(1, answers) for part in seen))
        return self.head.decode(rms_norm(x, self.out_norm), seen), following


def _contract(config: Config) -> m.Contract:
    """Describe the step of a network: every power of two up to ``max_chunk`` is an allowed T."""
    sizes = tuple(2**i for i in range(config.max_chunk.bit_length()) if 2**i <= config.max_chunk)
    return m.Contract(
        chunk=_chunk(config, sizes),
        constants=(),
        outputs=_outputs(config.items),
        state=_state(config),
    )


def _chunk(config: Config, sizes: tuple[int, ...]) -> m.Chunk:
    items = config.items
    if isinstance(items, Tokens):
        content: m.Tokens | m.Features = m.Tokens(
            vocabulary=items.vocabulary, tokenizer="bytes" if items.vocabulary == 256 else "none"
        )
        shape: m.Shape = ("B", "T")
    else:
        content = m.Features(
            names=items.features, sample_rate_hz=items.sample_rate_hz, normalisation=None
        )
        shape = ("B", "T", len(items.features))
    return m.Chunk(
        input="chunk",
        dtype="int64" if isinstance(items, Tokens) else "float32",
        shape=shape,
        nominal_t=min(config.nominal_chunk, sizes[-1]),
        allowed_t=sizes,
        content=content,
        lookback=0,
        lookback_fill=None,
        tail="exact",
        pad_value=None,
    )


def _outputs(items: Tokens | Gaussian | Quantiles) -> tuple[m.Output, ...]:
    def output(name: str, *rest: int, levels: tuple[float, ...] = ()) -> m.Output:
        meaning = {"logits": "logits", "quantiles": "quantiles"}.get(name, "gaussian")
        return m.Output(
            name=name,
            dtype="float32",
            shape=("B", "T", *rest),
            meaning=meaning,  # type: ignore[arg-type]
            levels=levels,
        )

    match items:
        case Tokens():
            return (output("logits", items.vocabulary),)
        case Gaussian():
            return (output("mean", len(items.features)), output("log_std", len(items.features)))
        case Quantiles():
            shape = (len(items.features), len(items.levels))
            return (output("quantiles", *shape, levels=items.levels),)


def _state(c: Config) -> tuple[m.State, ...]:
    cache = (c.attention_heads, c.window, c.attention_width)
    found: list[m.State] = []

    def add(
        name: str, role: str, *rest: int, learned: bool = False, dtype: str = "float32"
    ) -> None:
        found.append(
            m.State(
                input=name,
                output=f"next.{name}",
                dtype=dtype,  # type: ignore[arg-type]
                shape=("B", *rest),
                init=m.Stored(tensor=name) if learned else m.Zeros(),
                role=role,  # type: ignore[arg-type]
            )
        )

    for i in range(c.layers):
        add(f"S.{i}", "memory", c.heads, c.key, c.value, learned=c.learned_start)
        add(f"conv.{i}", "conv", c.memory_channels, TAPS - 1)
        add(f"Kc.{i}", "window", *cache)
        add(f"Vc.{i}", "window", *cache)
    add("ok", "window", c.window)
    if c.context_bits is not None:
        add("tables", "memory", CONTEXTS, 1 << c.context_bits, dtype="int32")
        add("recent", "window", RECENT, dtype="int32")
        add("line", "counter", 3, dtype="int64")
    return tuple(found)
