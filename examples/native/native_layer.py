"""Write a network as the flat file that layer.cpp reads, and run layer.cpp through ctypes."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from torch import Tensor

from dst.export.model import Config, Network
from dst.export.model.layer import Layer

Floats = npt.NDArray[np.float32]
Numbers = Mapping[str, npt.NDArray[np.generic]]
TAPS_BEFORE = 3
"""Columns of the convolution's state."""


def int8_weights(bundle: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Whole numbers and scales of an `int8-rows` bundle, by the names its graph gives them."""
    graph = onnx.load(bundle / "any_t1.onnx").graph
    ends = (".int8", ".scale", ".scales")
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name.endswith(ends)}


def write_network(path: Path, network: Network, numbers: Numbers) -> None:
    """Write sizes, then every tensor in the order in which layer.cpp reads it."""
    c = network.config
    sizes = (c.width, c.layers, c.heads, c.key, c.value, c.attention_heads, c.attention_width)
    with path.open("wb") as file:
        vocabulary = len(numbers["head.embedding.weight.int8"])
        np.array((*sizes, c.window, c.hidden, vocabulary), np.int32).tofile(file)
        highest = math.log(c.alpha_max)
        np.array((highest, c.beta_max), np.float32).tofile(file)
        for i, layer in enumerate(cast("list[Layer]", list(network.layers))):
            _floats(file, layer.mix_norm)
            _product(file, f"layers.{i}.mix_in.weight", numbers)
            _floats(file, layer.gates.weight)  # (2H, D)
            _floats(file, layer.conv.T)  # (4, P)
            _floats(file, -layer.A_log.exp(), layer.dt_bias)
            _floats(file, layer.head_norm, layer.q_norm, layer.k_norm)
            _product(file, f"layers.{i}.mix_out.weight", numbers)
            _floats(file, layer.feed_norm)
            _product(file, f"layers.{i}.feed_in.weight", numbers)
            _product(file, f"layers.{i}.feed_out.weight", numbers)
        _floats(file, network.out_norm)
        _product(file, "head.out.weight", numbers)
        np.ascontiguousarray(numbers["head.embedding.weight.int8"]).tofile(file)
        np.ascontiguousarray(numbers["head.embedding.weight.scales"]).tofile(file)


def _floats(file: BinaryIO, *tensors: Tensor) -> None:
    for tensor in tensors:
        np.ascontiguousarray(tensor.detach().numpy(), np.float32).tofile(file)


def _product(file: BinaryIO, name: str, numbers: Numbers) -> None:
    """An int8 weight (K, N) and its scales (N,)."""
    np.ascontiguousarray(numbers[f"{name}.int8"]).tofile(file)
    np.ascontiguousarray(numbers[f"{name}.scale"]).tofile(file)


class NativeNetwork:
    """One live stream in C++.

    Raises:
        RuntimeError: the file is missing or too short.
    """

    def __init__(self, library: Path, file: Path, config: Config) -> None:
        self._library = ctypes.CDLL(str(library.resolve()))
        self._library.native_open.restype = ctypes.c_void_p
        handle = self._library.native_open(str(file).encode())
        if not handle:
            raise RuntimeError(f"{file}: cannot be read as a network")
        self._handle = ctypes.c_void_p(handle)
        self.logits = np.zeros(256, np.float32)
        c = config
        layer = c.heads * c.key * c.value + TAPS_BEFORE * c.memory_channels
        layer += 2 * c.local_channels * c.window
        self._state = np.zeros(c.layers * layer, np.float32)
        # made once: converting arguments would cost as much as a small layer
        self._out = self.logits.ctypes.data_as(ctypes.c_void_p)
        self._state_out = self._state.ctypes.data_as(ctypes.c_void_p)

    def reset(self) -> None:
        self._library.native_reset(self._handle)

    def run(self, token: int) -> None:
        """Take a step; the logits lie in `logits`."""
        if self._library.native_step(self._handle, ctypes.c_int64(token), self._out):
            raise ValueError(f"token {token} is outside the vocabulary")

    def step(self, token: int) -> tuple[Floats, Floats]:
        """Take a step; the logits, and the state in the contract's order and layouts."""
        self.run(token)
        self._library.native_state(self._handle, self._state_out)
        return self.logits.copy(), self._state.copy()

    def products(self) -> None:
        """The int8 products of a step and nothing else."""
        self._library.native_products(self._handle, self._out)

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self._library.native_close(self._handle)
