"""The malformed bundles and states of the conformance suite, each an edit of a good one."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from xxhash import xxh3_128

Fields = dict[str, Any]
Case = dict[str, Any]
Change = Callable[[Fields], None]


def canonical(fields: object) -> bytes:
    """Spell JSON in its canonical form."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def sealed(fields: Fields) -> bytes:
    """Return a manifest with the right `bundle_id`; `state_hash` stays."""
    rest = {name: value for name, value in fields.items() if name != "bundle_id"}
    return canonical({**rest, "bundle_id": hashlib.sha256(canonical(rest)).hexdigest()})


# --- bundles -------------------------------------------------------------------------------------

FILE_EDITS: list[tuple[str, str, str, list[Case]]] = [
    ("no-manifest", "level", "file-missing", [{"edit": "remove", "file": "manifest.json"}]),
    ("no-graph", "level", "file-missing", [{"edit": "remove", "file": "step.onnx"}]),
    ("more", "level", "file-unlisted", [{"edit": "append", "file": "notes.txt", "hex": "00"}]),
    ("longer", "level", "file-size", [{"edit": "append", "file": "step.onnx", "hex": "00"}]),
    ("shorter", "level", "file-size", [{"edit": "truncate", "file": "step.onnx", "size": 40}]),
    ("flipped", "level", "file-hash", [{"edit": "flip", "file": "step.onnx", "at": 33, "bit": 2}]),
    ("link", "level", "file-is-link", [{"edit": "link", "file": "x.bin", "to": "step.onnx"}]),
    ("folder", "level", "file-not-regular", [{"edit": "folder", "file": "sub"}]),
    ("pipe", "level", "file-not-regular", [{"edit": "pipe", "file": "pipe"}]),
    (
        "cut",
        "level",
        "manifest-invalid",
        [{"edit": "truncate", "file": "manifest.json", "size": 99}],
    ),
    (
        "flipped-id",
        "level",
        "bundle-id",
        [{"edit": "flip", "file": "manifest.json", "at": 14, "bit": 0}],
    ),
    (
        "newline",
        "level",
        "manifest-not-canonical",
        [{"edit": "append", "file": "manifest.json", "hex": "0a"}],
    ),
]
"""Name, good bundle, code, edits: what can be wrong with files."""


def _at(path: str, value: object) -> Change:
    """Set the field at a path such as `contract.chunk.nominal_t`; `None` in its place removes."""
    *parents, last = path.split(".")

    def change(fields: Fields) -> None:
        place: Any = fields
        for name in parents:
            place = place[int(name)] if isinstance(place, list) else place[name]
        if value is ...:
            del place[last]
        elif isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return change


STD = "contract.chunk.content.normalisation.std"
CHANGES: list[tuple[str, str, str, Change]] = [
    ("other-format", "level", "format-version", _at("format", "bundle")),
    ("format-1", "level", "format-version", _at("format_version", 1)),
    ("format-3", "level", "format-version", _at("format_version", 3)),
    ("format-text", "level", "manifest-invalid", _at("format_version", "2")),
    ("unknown-field", "level", "manifest-invalid", _at("colour", "red")),
    ("missing-field", "level", "manifest-invalid", _at("contract.chunk.dtype", ...)),
    ("unknown-dtype", "level", "manifest-invalid", _at("contract.chunk.dtype", "float8")),
    ("text-for-number", "level", "manifest-invalid", _at("contract.chunk.nominal_t", "4")),
    ("fraction-for-integer", "level", "manifest-invalid", _at("contract.chunk.nominal_t", 4.0)),
    ("upper-case-hash", "level", "manifest-invalid", _at("model_id", "A" * 64)),
    ("unknown-kind", "level", "manifest-invalid", _at("contract.chunk.content.kind", "sounds")),
    ("long-name", "level", "manifest-invalid", _at("name", "n" * 201)),
    ("t-zero", "level", "manifest-invalid", _at("contract.chunk.allowed_t.0", 0)),
    ("axes-17", "level", "manifest-invalid", _at("contract.state.0.shape", ["B", *[1] * 16])),
    ("default-told", "level", "manifest-not-canonical", _at("contract.chunk.tail", "exact")),
    ("null-told", "level", "manifest-not-canonical", _at("recipe", None)),
    (
        "integer-for-number",
        "level",
        "manifest-not-canonical",
        _at("contract.chunk.content.sample_rate_hz", 100),
    ),
    ("other-state-hash", "level", "state-hash", _at("state_hash", "0" * 64)),
    ("no-t", "level", "contract", _at("contract.chunk.shape", ["B", 4, 2])),
    ("t-in-state", "level", "contract", _at("contract.state.0.shape", ["B", "T"])),
    ("unknown-letter", "level", "contract", _at("contract.state.0.shape", ["B", "X"])),
    ("negative-axis", "level", "contract", _at("contract.state.0.shape", ["B", -2])),
    ("nominal-not-allowed", "level", "contract", _at("contract.chunk.nominal_t", 2)),
    ("falling-t", "level", "contract", _at("contract.chunk.allowed_t", [4, 3, 1])),
    ("exact-without-one", "level", "contract", _at("contract.chunk.allowed_t", [3, 4])),
    ("exact-not-causal", "level", "contract", _at("contract.chunk.causal", False)),
    ("exact-look-ahead", "level", "contract", _at("contract.chunk.lookahead", 1)),
    ("pad-without-value", "level", "contract", _at("contract.chunk.tail", "pad")),
    ("fill-without-lookback", "level", "contract", _at("contract.chunk.lookback_fill", 0.5)),
    ("same-input", "level", "contract", _at("contract.chunk.input", "cell/0.c")),
    ("same-output", "level", "contract", _at("contract.outputs.1.name", "head/y")),
    ("std-zero", "level", "contract", _at(STD, [0.5, 0.0])),
    ("std-zero-in-float32", "level", "contract", _at(f"{STD}.1", 1e-46)),
    ("std-zero-in-half", "half", "contract", _at(f"{STD}.1", 1e-46)),
    ("short-mean", "level", "contract", _at("contract.chunk.content.normalisation.mean", [1.0])),
    ("one-name", "level", "contract", _at("contract.chunk.content.names", ["left"])),
    ("rate-zero", "level", "contract", _at("contract.chunk.content.sample_rate_hz", 0.0)),
    ("graph-not-listed", "level", "contract", _at("graphs.0.file", "other.onnx")),
    ("no-graphs", "level", "contract", _at("graphs", [])),
    ("t-not-covered", "level", "contract", _at("graphs.0.allowed_t", [1, 3])),
    ("fill-too-large", "half", "contract", _at("contract.state.0.init.value", 1e5)),
    ("fill-not-whole", "tokens", "contract", _at("contract.state.1.init.value", 0.5)),
    ("init-not-listed", "tokens", "contract", _at("files", {"step.onnx": None})),
    ("vocabulary-255", "refuse", "contract", _at("contract.chunk.content.vocabulary", 255)),
    ("constant-too-short", "given", "contract", _at("contract.constants.1.values", [0.5])),
    ("constant-not-whole", "given", "contract", _at("contract.constants.0.values", [0.5])),
    ("stored-elsewhere", "tokens", "init-tensors", _at("contract.state.0.init.tensor", "h1")),
    ("stored-shape", "tokens", "init-tensors", _at("contract.state.0.shape", ["B", 5])),
    ("nul-in-name", "level", "manifest-invalid", _at("contract.outputs.1.name", "a\0b")),
    ("nul-in-input", "level", "manifest-invalid", _at("contract.chunk.input", "in/x\0")),
    ("proto-output", "level", "manifest-invalid", _at("contract.outputs.1.name", "__proto__")),
    ("proto-input", "level", "manifest-invalid", _at("contract.chunk.input", "__proto__")),
    ("huge-state", "level", "file-too-large", _at("contract.state.0.shape", ["B", 2**30])),
    ("huge-init", "tokens", "file-too-large", _at("files.init.safetensors.size", 2**31)),
    ("graph-has-other-state", "level", "graph", _at("contract.state.0.shape", ["B", 3])),
    ("given-without-batch", "given", "graph", _at("contract.stream_inputs.0.shape", [2])),
    ("graph-has-other-name", "level", "graph", _at("contract.outputs.1.name", "top")),
    ("graph-has-other-dtype", "level", "graph", _at("contract.outputs.1.dtype", "float64")),
]
"""Name, good bundle, code, what changes in its manifest."""

NAMES = [
    "../step.onnx",
    "a/b",
    "nul.bin",
    "COM1",
    ".hidden",
    "end.",
    "Manifest.json",
    "é",
    "x" * 129,
]
"""File names that a bundle may not list."""

INIT_SIZES = [
    ("init-offset-tiny", "[1,4]", "[1e-320,16]"),
    ("init-offset-fraction", "[1,4]", "[0,16.5]"),
    ("init-offset-negative", "[1,4]", "[-1,15]"),
    ("init-shape-fraction", "[1,4.5]", "[0,16]"),
]
"""Name, shape and offsets of the initial state, which hold what is no whole number."""

_STATE_CHANGES = {"init-tensors", "graph", "file-too-large"}


def bundle_cases(manifests: Mapping[str, Fields]) -> tuple[list[Case], dict[str, bytes]]:
    """Return the cases, and the manifests that they put in the place of good ones."""
    cases = [
        {"name": name, "bundle": bundle, "edits": edits, "code": code}
        for name, bundle, code, edits in FILE_EDITS
    ]
    put: dict[str, bytes] = {}

    def add(name: str, bundle: str, code: str, data: bytes) -> None:
        put[f"{name}.json"] = data
        edit = {"edit": "put", "file": "manifest.json", "from": f"{name}.json"}
        case: Case = {"name": name, "bundle": bundle, "edits": [edit], "code": code}
        cases.append({**case, "after": "step"} if code == "graph" else case)

    for name, bundle, code, change in CHANGES:
        fields = json.loads(json.dumps(manifests[bundle]))
        if name == "init-not-listed":
            del fields["files"]["init.safetensors"]
        elif name == "huge-init":
            fields["files"]["init.safetensors"]["size"] = 2**31
        else:
            change(fields)
        if code in _STATE_CHANGES:
            fields["state_hash"] = state_hash(fields)
        add(name, bundle, code, sealed(fields))
    for number, listed in enumerate(NAMES):
        fields = json.loads(json.dumps(manifests["level"]))
        fields["files"][listed] = {"sha256": "0" * 64, "size": 0}
        add(f"name-{number}", "level", "path-outside", sealed(fields))
    for name, shape, offsets in INIT_SIZES:
        fields = json.loads(json.dumps(manifests["tokens"]))
        text = f'{{"h0":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}'.encode()
        data = len(text).to_bytes(8, "little") + text + bytes(16)
        told = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        fields["files"]["init.safetensors"] = told
        add(name, "tokens", "tensors-unreadable", sealed(fields))
        put[f"{name}.init"] = data
        edit = {"edit": "put", "file": "init.safetensors", "from": f"{name}.init"}
        cases[-1] = {**cases[-1], "edits": [*cases[-1]["edits"], edit]}
    good = sealed(manifests["level"])
    add("not-json", "level", "manifest-invalid", b"bundle")
    add("list", "level", "manifest-invalid", b"[]")
    add("not-utf-8", "level", "manifest-invalid", good.replace(b'"level"', b'"lev\xff"'))
    add("byte-order-mark", "level", "manifest-invalid", b"\xef\xbb\xbf" + good)
    add("spaces", "level", "manifest-not-canonical", good.replace(b":", b": ", 1))
    add("escapes", "level", "manifest-not-canonical", good.replace(b'"level"', b'"l\\u0065vel"'))
    add("long-number", "level", "manifest-not-canonical", good.replace(b"100.0", b"1e2"))
    add(
        "twice", "level", "manifest-not-canonical", good.replace(b'"name"', b'"name":"x","name"', 1)
    )
    add("deep", "level", "manifest-invalid", b"[" * 100_00)
    add("altered", "level", "bundle-id", good.replace(b'"left"', b'"Left"'))
    return cases, put


def state_hash(fields: Fields) -> str:
    """Return the hash of the state's layout, as FORMAT.md says."""
    full = [
        {
            "batch_axis": state["shape"].index("B"),
            "dtype": state["dtype"],
            "init": state.get("init", {"kind": "zeros"}),
            "input": state["input"],
            "output": state["output"],
            "role": state.get("role", "memory"),
            "shape": state["shape"],
        }
        for state in fields["contract"]["state"]
    ]
    return hashlib.sha256(canonical(full)).hexdigest()


# --- saved states --------------------------------------------------------------------------------

_SUM = re.compile(rb'(?<="checksum":")[0-9a-f]{32}')


def summed(data: bytes) -> bytes:
    """Return a saved state with the right checksum."""
    blank = _SUM.sub(b"0" * 32, data, count=1)
    return _SUM.sub(xxh3_128(blank).hexdigest().encode(), blank, count=1)


def swapped(data: bytes, old: bytes, new: bytes) -> bytes:
    """Replace a part of the header by one of the same length or shorter, and sum again."""
    assert data.count(old) >= 1
    assert len(new) <= len(old)
    size = 8 + int.from_bytes(data[:8], "little")
    head = data[8:size].replace(old, new, 1)
    return summed(data[:8] + head + b" " * (size - 8 - len(head)) + data[size:])


def retold(
    data: bytes, metadata: Mapping[str, str], tensors: Mapping[str, Fields] | None = None
) -> bytes:
    """Return a saved state that tells other metadata, or describes tensors by further fields."""
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    header["__metadata__"].update(metadata)
    for name, fields in (tensors or {}).items():
        header[name].update(fields)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return summed(len(text).to_bytes(8, "little") + text + data[size:])


def state_cases(states: Mapping[str, bytes]) -> tuple[list[Case], dict[str, bytes]]:
    """Return the cases, and the states that they put in the place of good ones."""
    tokens, level = states["tokens"], states["level"]
    cases: list[Case] = []
    put: dict[str, bytes] = {}

    def edit(name: str, code: str, kind: str, **more: object) -> None:
        edits = [{"edit": kind, "file": "state", **more}]
        cases.append(
            {"name": name, "state": "tokens", "bundle": "tokens", "edits": edits, "code": code}
        )

    def add(name: str, code: str, data: bytes, bundle: str = "tokens", **more: object) -> None:
        put[f"{name}.state"] = data
        edits = [{"edit": "put", "file": "state", "from": f"{name}.state"}]
        cases.append({"name": name, "bundle": bundle, "edits": edits, "code": code, **more})

    edit("empty", "state-header", "truncate", size=0)
    edit("short", "state-header", "truncate", size=20)
    edit("cut-in-header", "state-checksum", "truncate", size=200)
    edit("cut-in-tensors", "state-checksum", "truncate", size=len(tokens) - 1)
    edit("longer", "state-checksum", "append", hex="00")
    edit("flipped-length", "state-checksum", "flip", at=0, bit=0)
    edit("flipped-opening", "state-header", "flip", at=12, bit=0)
    edit("flipped-sum", "state-checksum", "flip", at=40, bit=0)
    edit("flipped-header", "state-checksum", "flip", at=300, bit=1)
    edit("flipped-tensor", "state-checksum", "flip", at=len(tokens) - 3, bit=7)
    add("version-3", "state-version", swapped(tokens, b'"version":"2"', b'"version":"3"'))
    new = {"pending": {"dtype": "F33"}}
    add("version-3-of-other-tensors", "state-version", retold(tokens, {"version": "3"}, new))
    add("fourth-field", "state-header", retold(tokens, {}, {"pending": {"unit": "V"}}))
    add("items-2-63", "state-header", retold(tokens, {"items_consumed": str(2**63)}))
    add("draws-2-63", "state-header", retold(tokens, {"draws": str(2**63)}))
    add("seed-2-64", "state-header", retold(tokens, {"seed": str(2**64)}))
    add("nul-in-precision", "state-header", retold(tokens, {"precision": "a\0"}))
    add(
        "proto-constant", "state-header", retold(tokens, {"constants": '{"__proto__":"int8 [] 1"}'})
    )
    add("other-format", "state-header", swapped(tokens, b'"dst-state"', b'"dst-store"'))
    add("seed-sign", "state-header", swapped(tokens, b'"seed":"1', b'"seed":"-'))
    add("draws-zero", "state-header", swapped(tokens, b'"draws":"5"', b'"draws":""'))
    add("unknown-tensor", "state-header", swapped(tokens, b'"pending"', b'"bending"'))
    add("unknown-dtype", "state-header", swapped(tokens, b'"F32"', b'"F33"'))
    add("other-dtype", "state-tensors", swapped(tokens, b'"F32"', b'"I32"'))
    add("gap", "state-header", swapped(tokens, b'"data_offsets":[0,', b'"data_offsets":[1,'))
    add("other-name", "state-tensors", swapped(tokens, b'"state/h"', b'"state/g"'))
    add("other-shape", "state-tensors", swapped(tokens, b'"shape":[1,4]', b'"shape":[4,1]'))
    add("bad-pending", "state-tensors", _with(tokens, "pending", b"\x63"))
    add("infinite", "state-not-finite", _with(level, "state/cell/0.c", b"\0\0\x80\x7f"), "level")
    add("infinite-item", "state-tensors", _with(level, "pending", b"\0\0\x80\x7f"), "level")
    add("other-model", "other-model", tokens, "plain")
    add("other-precision", "other-precision", tokens, "int8")
    ours = re.search(rb'"state_hash":"([0-9a-f]{64})"', tokens)
    assert ours is not None
    add("other-layout", "other-state-layout", swapped(tokens, ours[1], b"0" * 64))
    rate = swapped(states["given"], rb"int64 [] 16000", rb"int64 [] 16001")
    add("other-constant", "other-constant", rate, "given")
    add("no-state", "state-header", b'{"not":"a state"}' * 4)
    return cases, put


def _with(data: bytes, tensor: str, value: bytes) -> bytes:
    """Overwrite the first bytes of a tensor, and sum again."""
    size = 8 + int.from_bytes(data[:8], "little")
    at = size + json.loads(data[8:size])[tensor]["data_offsets"][0]
    return summed(data[:at] + value + data[at + len(value) :])
