"""Weights on large pages: the same results, no memory that was not in use, told in the report."""

import ctypes
import mmap
import platform
import sys
from pathlib import Path

import pytest

from dst.runtime import Session
from dst.runtime.execution import huge_pages
from dst.runtime.execution.huge_pages import SIZE, collapse, full_blocks

LARGE = int(SIZE.read_text("ascii")) if sys.platform == "linux" and SIZE.exists() else 1 << 21


def can_collapse() -> bool:
    if sys.platform != "linux" or not SIZE.exists():
        return False
    version = tuple(int(part) for part in platform.release().split(".")[:2])
    return version >= (6, 1) and "[never]" not in SIZE.with_name("enabled").read_text("ascii")


def test_results_are_the_same_and_the_report_tells_the_bytes() -> None:
    plain, huge = (Session.open("text", chunk_sizes=[32], huge_pages=on) for on in (False, True))
    items = b"def main() -> None:\n" * 20
    outputs = [s.stream().advance(items)["logits"].tobytes() for s in (plain, huge)]
    assert outputs[0] == outputs[1]
    assert plain.report().huge_pages_bytes == 0
    moved = huge.report().huge_pages_bytes
    assert moved % LARGE == 0
    assert (moved > 4 << 20) == can_collapse()  # 11 MB of weights are packed


@pytest.mark.skipif(not can_collapse(), reason="needs Linux 6.1 with transparent huge pages")
def test_only_blocks_whose_every_page_is_in_use_are_moved() -> None:
    before = full_blocks()
    held = mmap.mmap(-1, 4 * LARGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(held))
    first = -(-address // LARGE) * LARGE
    held[first - address : first - address + LARGE] = b"x" * LARGE  # one block, and no more
    held[first - address + LARGE] = 1  # of the next one a single byte
    mine = {b for b in full_blocks() - before if address <= b < address + 4 * LARGE}
    assert mine == {first}
    assert collapse(mine) == LARGE
    assert held[first - address : first - address + LARGE] == b"x" * LARGE


def test_a_system_without_large_pages_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huge_pages, "SIZE", tmp_path / "missing")
    assert full_blocks() == set()
    assert collapse(()) == 0
    session = Session.open("text", chunk_sizes=[1], huge_pages=True)
    assert session.report().huge_pages_bytes == 0
