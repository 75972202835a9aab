"""The arena: the state tensors of a contract in, one aligned block of memory with views out.

Shape letters: `B` batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract, Fill, State

ALIGNMENT = 64

Array = npt.NDArray[np.generic]
Block = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one state tensor lies in an arena: `start` bytes in, `size` bytes long."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the state tensors lie in an arena: in contract order, each at a multiple of 64 bytes.

    Attributes:
        places: one per state tensor.
        state_bytes: the size of the arena, padding included.
    """

    places: tuple[Place, ...]
    state_bytes: int

    @staticmethod
    def of(contract: Contract, batch: int = 1) -> "Layout":
        """Lay out the state of `batch` streams."""
        places: list[Place] = []
        end = 0
        for state in contract.state:
            dtype = np.dtype(state.dtype)
            shape = sized(state.shape, 0, batch)
            size = math.prod(shape) * dtype.itemsize
            places.append(Place(state.input, dtype, shape, end, size))
            end += -(-size // ALIGNMENT) * ALIGNMENT
        return Layout(tuple(places), end)

    def block(self) -> Block:
        """Make a zeroed block of `state_bytes` bytes whose address is a multiple of 64."""
        return self._aligned(np.zeros(self.state_bytes + ALIGNMENT, np.uint8))

    def rooms(self, count: int) -> list[Block]:
        """Make blocks to be written to: their tensors hold anything, the padding between is zero.

        They lie side by side in one piece of memory, which costs less than several: where streams
        come and go, the allocator hands one piece out again, but gives several back to the system.
        """
        size = self.state_bytes
        whole = self._aligned(np.empty(count * size + ALIGNMENT, np.uint8), count)
        blocks = [whole[i * size : (i + 1) * size] for i in range(count)]
        ends = [*(place.start for place in self.places[1:]), size][: len(self.places)]
        for place, end in zip(self.places, ends, strict=True):
            if place.start + place.size < end:
                for block in blocks:
                    block[place.start + place.size : end] = 0
        return blocks

    def _aligned(self, memory: Block, count: int = 1) -> Block:
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + count * self.state_bytes]

    def views(self, block: Block) -> dict[str, Array]:
        """Return the state tensors as views into a block, by name."""
        return {
            p.name: block[p.start : p.start + p.size].view(p.dtype).reshape(p.shape)
            for p in self.places
        }

    def initial(self, contract: Contract, stored: Mapping[str, Array]) -> Block:
        """Make a block that holds the contract's initial state in every batch row."""
        block = self.block()
        for state, view in zip(contract.state, self.views(block).values(), strict=True):
            _start(state, view, stored)
        return block

    def bad_tensor(self, block: Block) -> str | None:
        """Name the first float tensor that holds a NaN or an infinity, or None."""
        for name, view in self.views(block).items():
            if view.dtype.kind == "f" and not np.isfinite(view).all():
                return name
        return None


def _start(state: State, view: Array, stored: Mapping[str, Array]) -> None:
    if state.input in stored:
        view[...] = stored[state.input]
    elif isinstance(state.init, Fill):
        view[...] = np.asarray(state.init.value).astype(view.dtype)


class Arena(Protocol):
    """One state of a stream, where the graphs can reach it."""

    values: tuple[ort.OrtValue, ...]

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""

    def write(self, block: Block) -> None:
        """Copy the state from a host block."""

    def fill(self, tensors: Mapping[str, Array]) -> None:
        """Copy the state from tensors by name, in the layout's dtypes and shapes."""

    def tensors(self) -> Mapping[str, Array]:
        """Return the state by name: views that are valid until the next change."""

    def room(self) -> Mapping[str, Array]:
        """Return the memory of the state by name, to be written to; nothing if it is elsewhere."""

    def finite(self) -> bool:
        """Say whether every float in the state is finite."""


class HostArena:
    """An arena in host memory: the graphs read and write the very block this class holds."""

    __slots__ = ("_block", "_runs", "_views", "values")

    def __init__(self, layout: Layout, block: Block) -> None:
        self._block = block
        self._views = layout.views(self._block)
        self.values: tuple[ort.OrtValue, ...] = tuple(
            ort.OrtValue.ortvalue_from_numpy(view) for view in self._views.values()
        )
        self._runs = _float_runs(layout, self._block)

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""
        np.copyto(block, self._block)

    def write(self, block: Block) -> None:
        """Copy the state from a host block."""
        np.copyto(self._block, block)

    def fill(self, tensors: Mapping[str, Array]) -> None:
        """Copy the state from tensors by name."""
        for name, view in self._views.items():
            if tensors[name] is not view:  # it may have been read into `room`
                np.copyto(view, tensors[name])

    def tensors(self) -> Mapping[str, Array]:
        """View the state by name."""
        return self._views

    def room(self) -> Mapping[str, Array]:
        """View the state by name, to be written to."""
        return self._views

    def finite(self) -> bool:
        """Say whether every float in the state is finite; allocates nothing of its size."""
        return all(
            math.isfinite(np.maximum.reduce(run)) and math.isfinite(np.minimum.reduce(run))
            for run in self._runs
        )


class DeviceArena:
    """An arena in the memory of a device: it crosses to the host only to be read or written.

    The block this class holds is where the host looks at it.
    """

    __slots__ = ("_block", "_layout", "values")

    def __init__(self, layout: Layout, block: Block, device: str, number: int = 0) -> None:
        self._layout, self._block = layout, block
        self.values: tuple[ort.OrtValue, ...] = tuple(
            ort.OrtValue.ortvalue_from_shape_and_type(p.shape, p.dtype.type, device, number)
            for p in layout.places
        )
        block[...] = 0
        self.write(block)

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""
        for value, view in zip(self.values, self._layout.views(block).values(), strict=True):
            np.copyto(view, value.numpy())

    def write(self, block: Block) -> None:
        """Copy the state from a host block."""
        for value, view in zip(self.values, self._layout.views(block).values(), strict=True):
            value.update_inplace(view)

    def fill(self, tensors: Mapping[str, Array]) -> None:
        """Copy the state from tensors by name."""
        for value, place in zip(self.values, self._layout.places, strict=True):
            value.update_inplace(np.ascontiguousarray(tensors[place.name]))

    def tensors(self) -> Mapping[str, Array]:
        """Copy the state to the host."""
        self.read(self._block)
        return self._layout.views(self._block)

    def room(self) -> Mapping[str, Array]:
        """Return nothing: the host cannot write there."""
        return {}

    def finite(self) -> bool:
        """Say whether every float in the state is finite; copies it to the host."""
        self.read(self._block)
        return self._layout.bad_tensor(self._block) is None


def _float_runs(layout: Layout, block: Block) -> list[npt.NDArray[np.floating]]:
    """Flat views over neighbouring tensors of one float dtype; the padding between is zero."""
    runs: list[npt.NDArray[np.floating]] = []
    start = 0
    for i, place in enumerate(layout.places):
        following = layout.places[i + 1] if i + 1 < len(layout.places) else None
        if following is not None and following.dtype == place.dtype:
            continue
        end = following.start if following is not None else layout.state_bytes
        if place.dtype.kind == "f" and end > start:
            runs.append(block[start:end].view(place.dtype))
        start = end
    return runs
