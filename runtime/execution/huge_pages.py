"""Put the weights of a graph on large pages of memory, on Linux.

The processor looks up where every page of memory lies. With pages of 4 KiB a single step, which
reads each weight once, waits for these look-ups wherever the weights do not fit the caches; pages
of 2 MiB need few of them. Linux 6.1 and newer can move memory that is in use onto such pages: the
bytes stay as they are, and so does every result. Whatever the system refuses is left as it is.
"""

import ctypes
import mmap
import sys
from collections.abc import Collection
from pathlib import Path

MADV_COLLAPSE = 25
SIZE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
LARGEST_RANGE = 1 << 34
"""Bytes; a longer range was reserved and is hardly in use, and looking at it takes long."""


def full_blocks() -> set[int]:
    """Find the blocks of this process's memory that would make one large page each.

    Returns:
        The addresses of those in which every small page is in use (read ones count too), which
        may be written, belong to no file and are shared with nobody; none where the system has no
        large pages.
    """
    try:
        return _full_blocks() if sys.platform == "linux" else set()
    except (OSError, ValueError, AttributeError):  # no large pages, or nothing that tells of them
        return set()


def _full_blocks() -> set[int]:
    large = int(SIZE.read_text("ascii"))
    ranges = Path("/proc/self/maps").read_text("utf-8", "replace").splitlines()
    if large < mmap.PAGESIZE:
        return set()
    libc = ctypes.CDLL(None, use_errno=True)
    pages = large // mmap.PAGESIZE
    used = bytes(pages * [1])
    found = set()
    for line in ranges:
        place, mode, _, _, inode, *name = line.split(maxsplit=5)
        first, behind = (int(part, 16) for part in place.split("-"))
        first, behind = -(-first // large) * large, behind // large * large
        ours = mode == "rw-p" and inode == "0" and not (name and name[0].startswith("[stack"))
        if not ours or not 0 < behind - first <= LARGEST_RANGE:
            continue
        state = ctypes.create_string_buffer((behind - first) // mmap.PAGESIZE)
        size = ctypes.c_size_t(behind - first)
        if libc.mincore(ctypes.c_void_p(first), size, state):  # another thread gave it back
            continue
        # bit 0 says that a page is in use; the others are reserved
        bits = state.raw.translate(_LOWEST_BIT)
        for number in range((behind - first) // large):
            if bits[number * pages : (number + 1) * pages] == used:
                found.add(first + number * large)
    return found


def collapse(blocks: Collection[int]) -> int:
    """Move blocks, as `full_blocks` gives them, onto large pages.

    Returns:
        The bytes that were moved; 0 where the system cannot do it.
    """
    if not blocks or sys.platform != "linux":
        return 0
    large = int(SIZE.read_text("ascii"))
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_size_t(large)
    moved = 0
    for block in sorted(blocks):
        moved += large * (int(libc.madvise(ctypes.c_void_p(block), size, MADV_COLLAPSE)) == 0)
    return moved


_LOWEST_BIT = bytes(byte & 1 for byte in range(256))
