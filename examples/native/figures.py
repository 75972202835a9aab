"""Tables of what was measured, printed and put into a page: nobody copies a figure by hand."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

Row = tuple[str, ...]
FLAGS = ("avx2", "fma", "avx_vnni", "avx512_vnni")


def machine() -> str:
    """The class of this machine: what its kernels may use, and ONNX Runtime's version."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8").splitlines() if about.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line[:10] == "model name"), "?")
    flags = next((line.split() for line in lines if line[:5] == "flags"), [])
    has = [f"{'' if flag in flags else 'no '}{flag.upper().replace('_', '-')}" for flag in FLAGS]
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    cpu = f"{platform.machine()}, {model}, {', '.join(has)}"
    return f"{cpu}; ONNX Runtime {ort.__version__}; {load}"


def table(heads: Sequence[str], rows: Sequence[Row]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_figures(name: str, text: str, page: Path | None) -> None:
    """Print figures; where a page is given, replace what stands between its marks of that name."""
    print(text)
    if page is None:
        return
    start, end = f"<!-- {name}: written by its script -->", f"<!-- end of {name} -->"
    before, mark, rest = page.read_text("utf-8").partition(start)
    _, found, after = rest.partition(end)
    if not (mark and found):
        raise ValueError(f"{page}: has no marks `{start}` and `{end}`")
    page.write_text(f"{before}{start}\n{text}\n{end}{after}", "utf-8")
