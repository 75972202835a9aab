"""The text of the shipped model: CPython 3.11's standard library in, a split in two out.

Modules are ranked by the SHA-256 of their path; the first that add up to a million bytes are held
out whole. Files over 200,000 bytes (two, one of them generated) are never held out.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import sysconfig
from pathlib import Path

HELD_OUT_BYTES = 1_000_000
LARGEST_HELD_OUT = 200_000
SKIPPED = {"site-packages", "__pycache__", "test", "tests", "idle_test"}


def modules() -> dict[str, bytes]:
    """Read every module of the standard library but tests, by relative path, in order.

    Raises:
        SystemExit: this is not Python 3.11, so the split would be another one.
    """
    if sys.version_info[:2] != (3, 11):
        raise SystemExit("corpus: the split is defined on Python 3.11; run this with python3.11")
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, bytes] = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        if not SKIPPED.intersection(parts) and not parts[0].startswith("config-"):
            found["/".join(parts)] = path.read_bytes()
    return dict(sorted(found.items()))


def split() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return training modules and held-out modules, each by path, in order."""
    everything = modules()
    held_out: dict[str, bytes] = {}
    for path in sorted(everything, key=lambda p: hashlib.sha256(p.encode()).hexdigest()):
        if sum(map(len, held_out.values())) >= HELD_OUT_BYTES:
            break
        if len(everything[path]) <= LARGEST_HELD_OUT:
            held_out[path] = everything[path]
    training = {path: text for path, text in everything.items() if path not in held_out}
    return training, dict(sorted(held_out.items()))


if __name__ == "__main__":
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    training, held_out = split()
    print(f"{len(training)} modules, {sum(map(len, training.values())):,} bytes to train on")
    print(f"{len(held_out)} modules, {sum(map(len, held_out.values())):,} bytes held out:")
    print("\n".join(held_out))
