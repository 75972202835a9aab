"""Memory: a manifest in, the bytes a session will hold out; and what the process holds now.

Shape letters: `B` batch, `T` items per chunk.
"""

import ctypes
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dst.runtime.manifest import Manifest
from dst.runtime.state import Layout, sized


@dataclass(frozen=True, slots=True)
class Memory:
    """What a session and its streams hold, in bytes, apart from ONNX Runtime's own work space.

    Attributes:
        graphs: open graphs; each keeps its own copy of the weights.
        streams: live streams.
        weights_bytes: weights of all open graphs.
        state_bytes: two arenas per stream.
        guard_bytes: per stream the last good state and room to undo a call, as large again.
        scratch_bytes: chunk and output buffers of every chunk size, per stream.
    """

    graphs: int
    streams: int
    weights_bytes: int
    state_bytes: int
    guard_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum of all parts."""
        return self.weights_bytes + self.state_bytes + self.guard_bytes + self.scratch_bytes


def predict(manifest: Manifest, graphs: int, streams: int, chunk_sizes: Sequence[int]) -> Memory:
    """Predict the bytes held by `graphs` open graphs and `streams` streams.

    Args:
        manifest: what runs.
        graphs: how many graphs are open.
        streams: how many streams are live.
        chunk_sizes: the T each stream uses.
    """
    state_bytes = Layout.of(manifest.contract).state_bytes
    scratch = sum(_buffers(manifest, t) for t in chunk_sizes)
    return Memory(
        graphs=graphs,
        streams=streams,
        weights_bytes=graphs * manifest.weights_bytes,
        state_bytes=2 * state_bytes * streams,
        guard_bytes=2 * state_bytes * streams,
        scratch_bytes=scratch * streams,
    )


def _buffers(manifest: Manifest, t: int) -> int:
    """Bytes of one stream's buffers for T = `t`: the chunk, the outputs, a mask per output."""
    contract = manifest.contract
    chunk = contract.chunk
    total = math.prod(sized(chunk.shape, t + chunk.lookback)) * np.dtype(chunk.dtype).itemsize
    for output in contract.outputs:
        total += math.prod(sized(output.shape, t)) * (np.dtype(output.dtype).itemsize + 1)
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
        return _rss_windows()
    listed = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        raise OSError(f"ps does not tell the resident memory: {listed.stderr.strip()}")
    return int(listed.stdout) * 1024


def _rss_windows() -> int:
    """Ask Windows for the working set: the second size_t of PROCESS_MEMORY_COUNTERS."""
    counters = (ctypes.c_size_t * 10)()  # 2 x DWORD fill the first; 9 size_t follow
    windll = getattr(ctypes, "windll")  # noqa: B009 - exists on Windows only
    process = ctypes.c_void_p(windll.kernel32.GetCurrentProcess())
    size = ctypes.sizeof(counters)
    if not windll.psapi.GetProcessMemoryInfo(process, ctypes.byref(counters), size):
        raise OSError("Windows does not tell the resident memory")
    return int(counters[2])
