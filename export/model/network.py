"""The DST-GD network: an embedding, a stack of layers that carry a state, and a head.

Shape letters: B batch, T items, D width, W window; the state tensors are named in ``LayerState``.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from dst.export.model.attention import Window
from dst.export.model.config import Config
from dst.export.model.contract import contract_of
from dst.export.model.heads import head_for
from dst.export.model.layer import TAPS, DeltaRule, Layer, LayerState, rms_norm
from dst.export.model.recurrence import delta_rule, linear_attention
from dst.export.step import Step

State = dict[str, Tensor]
"""``S.i``, ``conv.i``, ``Kc.i``, ``Vc.i`` for each layer i, and one ``ok [B, W]``; all float32."""


class Network(Step):
    """Gated-delta layers between an embedding and a head.

    The result of a call depends on the chunk and the state alone: no position, no count of steps.
    How a stream is cut into chunks does not matter beyond float rounding.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.contract = contract_of(config)
        self.head = head_for(config.items, config.width)
        self.window = Window(config.window, config.max_chunk, config.attention_width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        c = config
        start = torch.zeros(c.layers, c.heads, c.key, c.value)
        self.start = nn.Parameter(start) if c.learned_start else None
        self.out_norm = nn.Parameter(torch.ones(config.width))
        self.delta_rule: DeltaRule = delta_rule

    @property
    def half_life_items(self) -> float | None:
        """Items after which a written value has faded to a half if nothing forgets it sooner."""
        alpha_max = self.config.alpha_max
        return None if alpha_max == 1.0 else math.log(0.5) / math.log(alpha_max)

    def fused(self) -> Network:
        """The same network, sharing every parameter, with ONNX Runtime's own operators."""
        other = copy.copy(self)
        other.delta_rule = linear_attention
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
        return state

    def forward(self, chunk: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        """Take one step.

        Args:
            chunk: ``[B, T]`` int64 for tokens, ``[B, T, F]`` float32 for features.
            state: As ``initial_state`` gives it.

        Returns:
            The head's outputs, each with axes ``[B, T, ...]``, and the next state.
        """
        items, window = chunk.shape[1], self.config.window
        if items > self.config.max_chunk and items % window:  # long training input, in two parts
            cut = items - items % window
            first, state = self(chunk[:, :cut], state)
            second, state = self(chunk[:, cut:], state)
            return {name: torch.cat([t, second[name]], 1) for name, t in first.items()}, state
        x = self.head.encode(chunk)  # (B, T, D)
        ok = torch.cat([state["ok"], torch.ones_like(x[:, :, 0])], 1)  # (B, W+T)
        frame = self.window.frame(ok)
        following: State = {}
        for i, layer in enumerate(self.layers):
            before = LayerState(*(state[f"{name}.{i}"] for name in LayerState._fields))
            x, after = layer(x, before, frame, self.delta_rule)
            following |= {f"{name}.{i}": t for name, t in after._asdict().items()}
        following["ok"] = ok[:, items:]
        return self.head.decode(rms_norm(x, self.out_norm)), following
