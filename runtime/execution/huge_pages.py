"""Put the weights of a graph on large pages of memory, on Linux.

The processor looks up where every page of memory lies. With pages of 4 KiB a single step, which
reads each weight once, waits for these look-ups wherever the weights do not fit the caches; pages
of 2 MiB need few of them. Linux 6.1 and newer can move memory that is in use onto such pages: the
bytes stay as they are, and so does every result.
"""

import ctypes
import mmap
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MADV_COLLAPSE = 25
SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
Range = tuple[int, int]
"""Addresses: the first byte, and the first one behind."""


def private_memory() -> list[Range]:
    """List what this process has asked for and may write, which no file lies behind; in order."""
    if sys.platform != "linux":
        return []
    found: list[Range] = []
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        place, mode, _, _, inode, *name = line.split(maxsplit=5)
        if mode == "rw-p" and inode == "0" and not (name and name[0].startswith("[stack")):
            first, behind = (int(part, 16) for part in place.split("-"))
            found.append((first, behind))
    return found


def appeared(before: Sequence[Range], now: Sequence[Range]) -> Iterator[Range]:
    """Yield what of `now` was not there before; both are in order.

    Examples:
        >>> list(appeared([(0, 2), (4, 5)], [(0, 3), (4, 8)]))
        [(2, 3), (5, 8)]
    """
    for first, behind in now:
        for old, end in before:
            if end <= first or old >= behind:
                continue
            if old > first:
                yield first, old
            first = end
        if first < behind:
            yield first, behind


def collapse(ranges: Iterator[Range]) -> int:
    """Move these ranges onto large pages where every small page in one is in use.

    No memory is taken that was not in use before.

    Returns:
        The bytes that were moved; 0 where the system has no large pages or cannot do it.
    """
    if sys.platform != "linux" or not SIZE.exists():
        return 0
    large = int(SIZE.read_text("ascii"))
    libc = ctypes.CDLL(None, use_errno=True)
    used = (ctypes.c_ubyte * (large // mmap.PAGESIZE))()
    moved = 0
    for first, behind in ranges:
        for place in range(-(-first // large) * large, behind - large + 1, large):
            where, size = ctypes.c_void_p(place), ctypes.c_size_t(large)
            if libc.mincore(where, size, used) or not all(page & 1 for page in used):
                continue
            moved += large * (libc.madvise(where, size, MADV_COLLAPSE) == 0)
    return moved
