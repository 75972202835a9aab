"""Predict the bytes that a session and its streams hold, and measure what this process holds.

Shape letters: `B` batch, `T` items per chunk.
"""

import ctypes
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Features, Manifest, item_shape, normalised_in, window
from dst.runtime.execution.buffers import Layout


class Memory(msgspec.Struct, frozen=True):
    """What a session and its streams hold, in bytes, apart from ONNX Runtime's own work space.

    Attributes:
        graphs: open graphs; each keeps its own copy of the weights.
        streams: live streams.
        weights_bytes: weights of all open graphs.
        state_bytes: two states per stream.
        guard_bytes: per stream, the last good state and a copy of the state to undo a call.
        waiting_bytes: per stream the items that wait for their chunk, the lookback, and the inputs
            that the stream was given.
        scratch_bytes: chunk and output buffers of every chunk size, per stream.
    """

    graphs: int
    streams: int
    weights_bytes: int
    state_bytes: int
    guard_bytes: int
    waiting_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        streams = self.state_bytes + self.guard_bytes + self.waiting_bytes + self.scratch_bytes
        return self.weights_bytes + streams


def predict(manifest: Manifest, graphs: int, streams: int, chunk_sizes: Sequence[int]) -> Memory:
    """Predict the bytes held by `graphs` open graphs and `streams` streams.

    Args:
        manifest: what runs.
        graphs: how many graphs are open.
        streams: how many streams are live.
        chunk_sizes: the T each stream uses.

    Examples:
        >>> from dst.runtime import open_bundle
        >>> manifest = open_bundle("text").manifest
        >>> one, ten = (predict(manifest, 1, n, [32]).total_bytes for n in (1, 10))
        >>> ten < 10 * one  # the weights are shared
        True
    """
    state_bytes = Layout.of(manifest.contract).state_bytes
    scratch = sum(_buffers(manifest, t) for t in chunk_sizes)
    return Memory(
        graphs=graphs,
        streams=streams,
        weights_bytes=graphs * manifest.weights_bytes,
        state_bytes=2 * state_bytes * streams,
        guard_bytes=2 * state_bytes * streams,
        waiting_bytes=_waiting(manifest) * streams,
        scratch_bytes=scratch * streams,
    )


def _waiting(manifest: Manifest) -> int:
    """Bytes of one stream's three pending buffers, four copies of the lookback, and its inputs."""
    chunk = manifest.contract.chunk
    item = math.prod(item_shape(chunk))
    given = sum(
        math.prod(sized(g.shape, 0)) * np.dtype(g.dtype).itemsize
        for g in manifest.contract.stream_inputs
    )
    rows = 3 * (chunk.nominal_t + chunk.lookahead) + 4 * chunk.lookback
    return rows * item * np.dtype(chunk.dtype).itemsize + given


def _buffers(manifest: Manifest, t: int) -> int:
    """Bytes of one stream's buffers for T = `t`: the chunk, once more normalised, the outputs."""
    chunk = manifest.contract.chunk
    values = math.prod(sized(chunk.shape, window(chunk, t)))
    total = values * np.dtype(chunk.dtype).itemsize
    if isinstance(chunk.content, Features) and chunk.content.normalisation is not None:
        total *= 2
        if (wide := normalised_in(chunk)) != chunk.dtype:
            total += values * np.dtype(wide).itemsize
    for output in manifest.contract.outputs:
        total += math.prod(sized(output.shape, t)) * np.dtype(output.dtype).itemsize
    return total


def rss_bytes() -> int:
    """Return the resident memory of this process now, in bytes.

    Raises:
        OSError: the platform does not tell.
    """
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return _windows()[2]
    import subprocess  # slow to import

    listed = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        raise OSError(f"ps does not tell the resident memory: {listed.stderr.strip()}")
    return int(listed.stdout) * 1024


def peak_rss_bytes() -> int:
    """Return the most resident memory this process ever held, in bytes.

    Raises:
        OSError: the platform does not tell.
    """
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    if sys.platform == "win32":
        return _windows()[1]
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def give_back_freed() -> None:
    """Give memory that was freed in this process back to the system.

    Opening a graph copies its weights between formats, and glibc keeps what that frees: up to
    twice the weights, for good. Other C libraries give it back by themselves.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def _windows() -> list[int]:
    """Ask Windows: in PROCESS_MEMORY_COUNTERS the peak is the first size_t, then what is now."""
    counters = (ctypes.c_size_t * 10)()  # 2 x DWORD fill the first; 9 size_t follow
    windll = getattr(ctypes, "windll")  # noqa: B009 - exists on Windows only
    process = ctypes.c_void_p(windll.kernel32.GetCurrentProcess())
    size = ctypes.sizeof(counters)
    if not windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), size):
        raise OSError("Windows does not tell the resident memory")
    return list(counters)
