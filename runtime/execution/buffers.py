"""Hold tensors where graphs read and write them: in the memory of the host or of a device.

Shape letters: `B` batch, `T` items per chunk.
"""

import itertools
import math
from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract, Fill

ALIGNMENT = 64
PIECE = 8192  # values; a longer product would make BLAS call for its threads

CAPTURE = "enable_cuda_graph"
_GRAPH_ID = "gpu_graph_id"
_ids = itertools.count(1)  # ONNX Runtime keeps 0 for itself

Array = npt.NDArray[np.generic]
Block = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Values = Mapping[str, ort.OrtValue]


class Place(msgspec.Struct, frozen=True):
    """Where one state tensor lies in a block: `start` bytes in, `size` bytes long."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    start: int
    size: int


class Layout(msgspec.Struct, frozen=True):
    """How the state tensors lie in one block: in contract order, each at a multiple of 64 bytes.

    Attributes:
        places: one per state tensor.
        state_bytes: the size of the block, padding included.
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
        memory = np.zeros(self.state_bytes + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        return memory[start : start + self.state_bytes]

    def blocks(self, count: int) -> list[Block]:
        """Make blocks that hold anything, to be written to.

        They lie side by side in one piece of memory, which costs less than several: where streams
        come and go, the allocator hands one piece out again, but gives several back to the system.
        """
        size = self.state_bytes
        memory = np.empty(count * size + ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % ALIGNMENT
        return [memory[first + i * size : first + (i + 1) * size] for i in range(count)]

    def views(self, block: Block) -> dict[str, Array]:
        """Return the state tensors as views into a block, by name."""
        # a third of the cost of a slice, a view and a reshape
        return {p.name: np.ndarray(p.shape, p.dtype, block.data, p.start) for p in self.places}

    def initial(self, contract: Contract, stored: Mapping[str, Array]) -> dict[str, Array]:
        """Return the contract's initial state by name, the same in every batch row.

        Args:
            contract: says how each tensor starts.
            stored: the tensors that start at values of a file, by name.
        """
        views = self.views(self.block())
        for state, view in zip(contract.state, views.values(), strict=True):
            if state.input in stored:
                view[...] = stored[state.input]
            elif isinstance(state.init, Fill):
                view[...] = np.asarray(state.init.value).astype(view.dtype)
        return views


# --- finite values --------------------------------------------------------------------------


def pieces(array: Array) -> list[Floats]:
    """View an array of floats as flat pieces for `finite`; one that is not contiguous stays whole.

    Anything but floats has no pieces: it holds neither NaN nor infinity.
    """
    if array.dtype.kind != "f":
        return []
    if not array.flags.c_contiguous:
        return [cast(Floats, array)]
    flat = cast(Floats, array.reshape(-1))
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def finite(pieces: list[Floats]) -> bool:
    """Say whether every value is finite, at the least cost.

    A NaN or an infinity shows in the sum of squares. So does an overflow of that sum, and then
    the values are looked at one by one. `vdot` alone gives no floating-point warnings.

    Examples:
        >>> finite(pieces(np.ones(3))), finite(pieces(np.array([1.0, np.inf])))
        (True, False)
    """
    for piece in pieces:
        if not isfinite(np.vdot(piece, piece)) and not np.isfinite(piece).all():
            return False
    return True


# --- memory that graphs reach ---------------------------------------------------------------


class Device(NamedTuple):
    """A device with memory of its own: its kind, `cuda` or `dml`, and which one of that kind."""

    kind: str
    number: int = 0


class Buffers:
    """Tensors on the host, and the values by which a graph reads or writes them.

    On the host a value is the memory of its array. On a device it has memory of its own, at an
    address that never changes, and `push` and `pull` copy: ONNX Runtime copies a host value to
    the device when it is bound, and never again.

    Attributes:
        arrays: the tensors on the host, by name.
        copies: whether `push` and `pull` have anything to do.
    """

    __slots__ = ("_device", "_values", "arrays", "copies")

    def __init__(self, arrays: Mapping[str, Array], device: Device | None = None) -> None:
        """Take contiguous arrays by name; without a device their values are of the host."""
        self.arrays = arrays
        self.copies = device is not None
        self._device = device
        self._values: dict[str, ort.OrtValue] | None = None

    @property
    def values(self) -> Values:
        """The values that graphs are bound to, by name; made when they are first asked for."""
        if self._values is None:
            self._values = {name: self._value(array) for name, array in self.arrays.items()}
        return self._values

    def push(self) -> None:
        """Copy what the arrays hold to the device."""
        if self.copies:
            for name, value in self.values.items():
                value.update_inplace(np.ascontiguousarray(self.arrays[name]))

    def pull(self) -> None:
        """Copy what the device holds to the arrays."""
        if self.copies:
            for name, value in self.values.items():
                np.copyto(self.arrays[name], value.numpy())

    def _value(self, array: Array) -> ort.OrtValue:
        if self._device is None:
            return ort.OrtValue.ortvalue_from_numpy(array)
        value = ort.OrtValue.ortvalue_from_shape_and_type(
            array.shape, array.dtype.type, *self._device
        )
        value.update_inplace(array)
        return value


class StateBuffers(Buffers):
    """One state of a stream: a block of its own, or the rows of tensors that it shares."""

    __slots__ = ("_block", "_floats", "_layout")

    def __init__(
        self, layout: Layout, state: Block | Mapping[str, Array], device: Device | None = None
    ) -> None:
        """Take a block, or the tensors in the shapes of the layout, which need not be contiguous.

        Only a state in a block has values to bind.
        """
        block = state if isinstance(state, np.ndarray) else None
        super().__init__(state if isinstance(state, Mapping) else layout.views(state), device)
        self._layout = layout
        self._block = block
        self._floats = [piece for array in self.arrays.values() for piece in pieces(array)]

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""
        self.pull()
        if self._block is not None:  # one copy costs less than one per tensor
            np.copyto(block, self._block)
            return
        for view, array in zip(
            self._layout.views(block).values(), self.arrays.values(), strict=True
        ):
            np.copyto(view, array)

    def write(self, block: Block) -> None:
        """Copy the state from a host block."""
        if self._block is None:
            self.fill(self._layout.views(block))
            return
        np.copyto(self._block, block)
        self.push()

    def fill(self, tensors: Mapping[str, Array]) -> None:
        """Copy the state from tensors by name, in the layout's dtypes and shapes."""
        for name, array in self.arrays.items():
            if tensors[name] is not array:  # it may have been read into `arrays`
                np.copyto(array, tensors[name])
        self.push()

    def tensors(self) -> Mapping[str, Array]:
        """Return the state by name: views that are valid until the next change."""
        self.pull()
        return self.arrays

    def finite(self) -> bool:
        """Say whether every float in the state is finite; makes no array of its size."""
        self.pull()
        return finite(self._floats)

    def bad_tensor(self) -> str | None:
        """Name the first tensor that holds a NaN or an infinity, or None."""
        for name, array in self.tensors().items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return name
        return None


# --- CUDA graphs ----------------------------------------------------------------------------


def capture_options(provider_options: Mapping[str, str]) -> ort.RunOptions | None:
    """Return the options under which one binding is captured as a CUDA graph, None without capture.

    A captured graph replays the addresses it was captured with, so every binding needs an
    identity of its own. Capturing runs the step several times; since a binding reads one state
    and writes the other, each run gives the same, and the stream does not advance.
    """
    if provider_options.get(CAPTURE, "0") in ("0", "false", "False"):
        return None
    options = ort.RunOptions()
    options.add_run_config_entry(_GRAPH_ID, str(next(_ids)))
    return options


def uncaptured(options: ort.RunOptions) -> None:
    """Have a run with these options neither capture nor replay: a replay could not be stopped."""
    options.add_run_config_entry(_GRAPH_ID, "-1")
