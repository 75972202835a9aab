"""Mutate bundles and states, and compare by which codes Python and another runtime refuse them.

    python -m tests.conformance.compare PROGRAM COUNT [SEED]

The program is `codes` of runtime/native/tests. A mutation changes one place of a manifest or of a
header and makes the hashes right again, so that it reaches the rules behind them.
"""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conformance.malformed import sealed, state_hash, summed
from tests.conformance.runner import ROOT

from dst.runtime import DstError, Session, Stream

VALUES: list[object] = [
    *(None, True, False, 0, 1, -1, 2, 4, 7, 255, 256, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63),
    *(2**64, -(2**63), 0.0, -0.0, 0.5, 1.0, -1.5, 1e-5, 1e16, 1e22, 1e300, 65504.0, 65520.0, 1e39),
    *("", "B", "T", "A", "x", "é", "x" * 200, "x" * 201, "exact", "pad", "refuse", "none", "bytes"),
    *("zeros", "float32", "float16", "int64", "bool", "ai.onnx", "1.2", "1.2.3.4", "0" * 64),
    *("a\tb\x01", 'quote " and \\', [], {}, [1], ["B"], ["B", "T"], ["B", 4], {"kind": "zeros"}),
    *({"kind": "fill", "value": 2.0}, {"kind": "stored", "tensor": "h0"}, [0.5, 0.5], [1, 2, 4]),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in JSON values that can be changed: what holds it, and its key."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in places(value[key])]


def mutated(draw: random.Random, fields: Any) -> Any:
    """Return a copy with one to three places changed, removed, added or swapped."""
    fields = json.loads(json.dumps(fields))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        holder, key = draw.choice(places(fields))
        kind = draw.random()
        if kind < 0.6:
            holder[key] = draw.choice(VALUES)
        elif kind < 0.75:
            del holder[key]
        elif kind < 0.9:
            other, place = draw.choice(places(fields))
            holder[key] = json.loads(json.dumps(other[place]))
        elif isinstance(holder, list):
            holder.insert(key, draw.choice(VALUES))
        else:
            holder[draw.choice(["levels", "batch", "answers", "tail", "names", "extra"])] = (
                draw.choice(VALUES)
            )
    return fields


def python_code(bundle: Path, state: Path | None = None) -> str:
    """Return the code of the Python runtime; empty where it refuses nothing."""
    try:
        session = Session.open(bundle)
        if state is not None:
            Stream.load(session, state, allow_precision=True)
    except DstError as error:
        return error.code
    return ""


def other_codes(program: str, *words: object) -> list[str]:
    """Return what the program prints."""
    done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def mutated_bundle(draw: random.Random, to: Path) -> None:
    """Write a bundle with a changed manifest, whose hashes are right."""
    shutil.copytree(draw.choice(sorted((ROOT / "bundles").iterdir())), to)
    fields = mutated(draw, json.loads((to / "manifest.json").read_bytes()))
    if draw.random() < 0.9:
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            fields["state_hash"] = state_hash(fields)
    data = sealed(fields) if isinstance(fields, dict) else json.dumps(fields).encode()
    if draw.random() < 0.05:
        data = data.replace(b":", b": ", 1)
    (to / "manifest.json").write_bytes(data)


def mutated_state(draw: random.Random, good: bytes, to: Path) -> None:
    """Write a state with a changed header, whose checksum is right."""
    size = 8 + int.from_bytes(good[:8], "little")
    header = json.loads(good[8:size])
    opening = {key: header["__metadata__"][key] for key in ("checksum", "format", "version")}
    fields = mutated(draw, header)
    metadata = fields.get("__metadata__") if isinstance(fields, dict) else None
    if isinstance(metadata, dict) and draw.random() < 0.9:
        metadata = {**opening, **metadata}
        fields = {"__metadata__": metadata, **{k: v for k, v in fields.items() if k[0:1] != "_"}}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    to.write_bytes(summed(len(text).to_bytes(8, "little") + text + good[size:]))


def main(program: str, count: int, seed: int = 0) -> None:
    """Compare that many bundles and as many states; exit with 1 where a code differs."""
    draw = random.Random(seed)
    different = 0
    refused: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        bundles = [work / f"bundle{n}" for n in range(count)]
        for path in bundles:
            mutated_bundle(draw, path)
        name = draw.choice(["tokens", "given", "lookback"])
        bundle = ROOT / "bundles" / name
        good = (ROOT / f"states/python/{name}.state").read_bytes()
        states = [work / f"{n}.state" for n in range(count)]
        for path in states:
            mutated_state(draw, good, path)
        pairs = list(zip(bundles, other_codes(program, "bundles", *bundles), strict=True))
        pairs += zip(states, other_codes(program, "states", bundle, *states), strict=True)
        for path, code in pairs:
            ours = python_code(path) if path.is_dir() else python_code(bundle, path)
            refused[ours] = refused.get(ours, 0) + 1
            if ours != code:
                different += 1
                file = path / "manifest.json" if path.is_dir() else path
                print(f"Python says {ours!r}, the other {code!r}: {file.read_bytes()[:1500]!r}")
    print(f"{len(pairs)} compared, {different} differ; codes: {dict(sorted(refused.items()))}")
    sys.exit(different > 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:]))
