"""Devices: a step's buffers on the host in, values where its graph wants them out, and the copies.

ONNX Runtime copies a host value to the device when it is bound, and never again: what changes from
step to step must be a value on the device that is written to before each run.
"""

import itertools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

Array = npt.NDArray[np.generic]

CAPTURE = "enable_cuda_graph"
_GRAPH_ID = "gpu_graph_id"
_ids = itertools.count(1)  # ONNX Runtime keeps 0 for itself


class Bridge(Protocol):
    """The chunk and the outputs of one step, where the graph reads and writes them.

    Attributes:
        feed: the chunk's value.
        outputs: the outputs' values by name.
        copies: whether `push` and `pull` have anything to do.
    """

    feed: ort.OrtValue
    outputs: dict[str, ort.OrtValue]
    copies: bool

    def push(self) -> None:
        """Copy the chunk to where the graph reads it."""

    def pull(self) -> None:
        """Copy the outputs from where the graph wrote them."""


class HostBridge:
    """On the host the graph reads and writes the caller's own arrays; nothing is copied."""

    __slots__ = ("copies", "feed", "outputs")

    def __init__(self, chunk: Array, outputs: Mapping[str, Array]) -> None:
        self.copies = False
        self.feed = ort.OrtValue.ortvalue_from_numpy(chunk)
        self.outputs = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in outputs.items()}

    def push(self) -> None:
        """Do nothing: the graph reads the caller's chunk."""

    def pull(self) -> None:
        """Do nothing: the graph has written the caller's outputs."""


class DeviceBridge:
    """On a device the graph has values of its own, at addresses that never change."""

    __slots__ = ("_arrays", "_chunk", "copies", "feed", "outputs")

    def __init__(
        self, chunk: Array, outputs: Mapping[str, Array], device: str, number: int
    ) -> None:
        """Make the values.

        Args:
            chunk: what the graph is fed.
            outputs: what it answers, by name.
            device: `cuda` or `dml`.
            number: which device of that kind.
        """
        self.copies = True
        self._chunk = chunk
        self._arrays = dict(outputs)

        def value(array: Array) -> ort.OrtValue:
            kind = array.dtype.type
            return ort.OrtValue.ortvalue_from_shape_and_type(array.shape, kind, device, number)

        self.feed = value(chunk)
        self.feed.update_inplace(chunk)
        self.outputs = {name: value(array) for name, array in outputs.items()}

    def push(self) -> None:
        """Copy the chunk to the device."""
        self.feed.update_inplace(self._chunk)

    def pull(self) -> None:
        """Copy the outputs from the device."""
        for name, array in self._arrays.items():
            np.copyto(array, self.outputs[name].numpy())


def capture_options(provider_options: Mapping[str, str]) -> ort.RunOptions | None:
    """Return the options under which one binding is captured as a CUDA graph, None without capture.

    A captured graph replays the addresses it was captured with, so every binding needs an
    identity of its own. Capturing runs the step several times; since a binding reads one arena
    and writes the other, each run gives the same, and the state does not advance.
    """
    if provider_options.get(CAPTURE, "0") in ("0", "false", "False"):
        return None
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, str(next(_ids)))
    return options


def uncaptured(options: ort.RunOptions) -> None:
    """Have a run with these options neither capture nor replay: a replay could not be stopped."""
    options.add_run_config_entry(_GRAPH_ID, "-1")
