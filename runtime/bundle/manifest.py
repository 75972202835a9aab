"""The manifest: canonical JSON bytes in, frozen structs out, and back.

The structs are those of `dst.runtime.bundle.schema`, given again here under one roof.
"""

import hashlib
import json

import msgspec

from dst.runtime.bundle.schema import (
    FORMAT,
    FORMAT_VERSION,
    Certificate,
    Chunk,
    Constant,
    Contract,
    Curve,
    DType,
    Features,
    FileEntry,
    Fill,
    Gate,
    Golden,
    Graph,
    Horizon,
    Manifest,
    Normalisation,
    Output,
    Producer,
    Quality,
    Shape,
    State,
    Stored,
    StreamInput,
    Tokens,
    Zeros,
    item_shape,
    window,
)
from dst.runtime.bundle.validation import check
from dst.runtime.errors import BundleError, shown

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Certificate",
    "Chunk",
    "Constant",
    "Contract",
    "Curve",
    "DType",
    "Features",
    "FileEntry",
    "Fill",
    "Gate",
    "Golden",
    "Graph",
    "Horizon",
    "Manifest",
    "Normalisation",
    "Output",
    "Producer",
    "Quality",
    "Shape",
    "State",
    "Stored",
    "StreamInput",
    "Tokens",
    "Zeros",
    "bundle_id",
    "canonical",
    "claimed_files",
    "decode",
    "encode",
    "item_shape",
    "seal",
    "state_hash",
    "window",
]


class _Version(msgspec.Struct):
    format: str
    format_version: int


class _Claim(msgspec.Struct):
    format: str
    files: dict[str, object]


def canonical(value: object) -> bytes:
    """Encode JSON values as canonical bytes.

    Keys sorted by code point, no white space, UTF-8 without escapes beyond those JSON
    demands, integers in decimal, floats in Python's shortest form that reads back the same.

    Raises:
        BundleError: `manifest-invalid`: a NaN, an infinity, or text that is not valid Unicode.
    """
    try:
        text = json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8")
    except (ValueError, TypeError) as error:
        raise BundleError(
            f"manifest: cannot be written as canonical JSON: {error}", code="manifest-invalid"
        ) from None


def encode(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest, as they stand in manifest.json.

    Raises:
        BundleError: `manifest-invalid`: a value has no canonical form (NaN, infinity).
    """
    return canonical(_fields(manifest))


def _fields(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as JSON values, without the later fields that hold their default.

    Bundles written before those fields existed keep their bytes, and so their ids.
    """
    fields: dict[str, object] = msgspec.to_builtins(manifest)
    contract = msgspec.to_builtins(manifest.contract)
    fields["contract"] = contract
    for part, name, default in (
        (contract["chunk"], "lookahead", 0),
        (contract["chunk"], "causal", True),
        (contract, "stream_inputs", ()),
    ):
        if part[name] == default:
            del part[name]
    return fields


def state_hash(contract: Contract) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of `contract.state`."""
    return hashlib.sha256(canonical(msgspec.to_builtins(contract.state))).hexdigest()


def bundle_id(manifest: Manifest) -> str:
    """Return the SHA-256 (hex) of the canonical manifest without its `bundle_id` field."""
    fields = _fields(manifest)
    del fields["bundle_id"]
    return hashlib.sha256(canonical(fields)).hexdigest()


def seal(manifest: Manifest) -> Manifest:
    """Fill in `state_hash` and `bundle_id` of a manifest that is otherwise complete.

    The result has been read back by `decode`, so whatever is sealed also opens.

    Raises:
        BundleError: `manifest-invalid`: the manifest breaks the format (a subclass names the
            clause).
    """
    try:  # so that 16000 in a field of float is written as it is read: 16000.0
        manifest = msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    except (msgspec.ValidationError, TypeError) as error:
        raise BundleError(
            f"manifest: {shown(error)}; give plain Python values", code="manifest-invalid"
        ) from None
    hashed = msgspec.structs.replace(manifest, state_hash=state_hash(manifest.contract))
    return decode(encode(msgspec.structs.replace(hashed, bundle_id=bundle_id(hashed))))


def decode(data: bytes) -> Manifest:
    """Read the bytes of manifest.json and check every rule that needs no other file.

    Raises:
        BundleError: `manifest-invalid`: not JSON, or a field is missing, unknown or of the wrong
            type.
        BundleError: `format-version`: another format, or a version this runtime does not read.
        BundleError: `manifest-not-canonical`: the bytes are not canonical.
        BundleError: `bundle-id`: `bundle_id` does not belong to these bytes.
        BundleError: `state-hash`: `state_hash` does not belong to the contract.
        BundleError: `contract`: fields contradict each other.
    """
    try:
        version = msgspec.json.decode(data, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json: {shown(error)}", code="manifest-invalid") from None
    if (version.format, version.format_version) != (FORMAT, FORMAT_VERSION):
        raise BundleError(
            f"manifest.json: format {version.format!r} version {version.format_version}; "
            f"this runtime reads {FORMAT!r} version {FORMAT_VERSION}",
            code="format-version",
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json: {shown(error)}", code="manifest-invalid") from None
    if encode(manifest) != data:
        raise BundleError(
            "manifest.json: the bytes are not the canonical encoding of what they say; "
            "write it with dst.runtime, not by hand",
            code="manifest-not-canonical",
        )
    if (right := bundle_id(manifest)) != manifest.bundle_id:
        raise BundleError(
            f"manifest.json: bundle_id is {shown(manifest.bundle_id[:16])}…, "
            f"the bytes hash to {right[:16]}…: the manifest was altered",
            code="bundle-id",
        )
    if (right := state_hash(manifest.contract)) != manifest.state_hash:
        raise BundleError(
            f"manifest.json: state_hash is {shown(manifest.state_hash[:16])}…, "
            f"the contract's state tensors hash to {right[:16]}…",
            code="state-hash",
        )
    check(manifest)
    return manifest


def claimed_files(data: bytes) -> frozenset[str] | None:
    """Return the names that a manifest of any version lists, or None if it is no manifest.

    Nothing else is checked: an outdated or altered bundle is still somebody's bundle.
    """
    try:
        claim = msgspec.json.decode(data, type=_Claim)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return frozenset(claim.files) if claim.format == FORMAT else None
