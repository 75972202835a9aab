"""Turn the bytes of manifest.json into frozen structs and back.

A manifest has one spelling only, so that its hash names the bundle.
"""

import hashlib
import json
from functools import cache
from typing import cast

import msgspec

from dst.runtime.bundle.manifest import FORMAT, FORMAT_VERSION, Contract, Manifest
from dst.runtime.bundle.validation import check, check_contract
from dst.runtime.errors import BundleError, shown


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

    Examples:
        >>> canonical({"b": 1e-05, "a": [True, None]})
        b'{"a":[true,null],"b":1e-05}'
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

    A field that holds its default is left out.

    Raises:
        BundleError: `manifest-invalid`: a value has no canonical form (NaN, infinity).
    """
    return canonical(_fields(manifest))


_PLAIN = {str, int, float, bool, type(None)}


def _fields(manifest: Manifest) -> dict[str, object]:
    fields = cast(dict[str, object], _sparse(manifest))
    return {"format": manifest.format, "format_version": manifest.format_version, **fields}


def _sparse(value: object) -> object:
    """Return JSON values of structs, without the fields that hold their default."""
    if isinstance(value, tuple):  # no call for each of thousands of numbers
        return list(value) if _PLAIN.issuperset(map(type, value)) else [*map(_sparse, value)]
    if isinstance(value, dict):
        for each in value.values():  # nor for the curves of every tensor
            numbers = type(each) is tuple and _PLAIN.issuperset(map(type, each))
            if not numbers and type(each) not in _PLAIN:
                return {key: _sparse(each) for key, each in value.items()}
        return value
    if not isinstance(value, msgspec.Struct):
        return value
    kind, defaults = type(value), _defaults(type(value))
    fields: dict[str, object] = {}
    if (tag := kind.__struct_config__.tag) is not None:
        fields[str(kind.__struct_config__.tag_field)] = tag
    for name in kind.__struct_fields__:
        held = getattr(value, name)
        if name not in defaults or held != defaults[name]:
            fields[name] = held if type(held) in _PLAIN else _sparse(held)
    return fields


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else {}
        for field in msgspec.structs.fields(kind)
        if not field.required
    }


def state_hash(contract: Contract) -> str:
    """Return the SHA-256 (hex) that names the state layout of a contract.

    It is taken over the canonical JSON of a list with every field of every state tensor, its
    `batch_axis` among them. Format 1 stored that list, so a state saved with a bundle of format 1
    still loads after the bundle was upgraded.
    """
    tensors = [
        {"batch_axis": state.batch_axis, **msgspec.to_builtins(state)} for state in contract.state
    ]
    return hashlib.sha256(canonical(tensors)).hexdigest()


def bundle_id(manifest: Manifest) -> str:
    """Return the SHA-256 (hex) of the canonical manifest without its `bundle_id` field."""
    return _hash(_fields(manifest))


def _hash(fields: dict[str, object]) -> str:
    rest = {name: value for name, value in fields.items() if name != "bundle_id"}
    return hashlib.sha256(canonical(rest)).hexdigest()


def seal(manifest: Manifest) -> Manifest:
    """Fill in `state_hash` and `bundle_id` of a manifest that is otherwise complete.

    The result has been read back by `decode`, so whatever is sealed also opens.

    Raises:
        BundleError: `manifest-invalid`: the manifest breaks the format.
    """
    try:  # so that 16000 in a field of float is written as it is read: 16000.0
        manifest = msgspec.convert(msgspec.to_builtins(manifest), Manifest)
    except (msgspec.ValidationError, TypeError) as error:
        raise BundleError(
            f"manifest: {shown(error)}; give plain Python values", code="manifest-invalid"
        ) from None
    check_contract(manifest.contract)
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
        if (version.format, version.format_version) != (FORMAT, FORMAT_VERSION):
            old = (version.format, version.format_version) == (FORMAT, 1)
            cure = "; `dst upgrade OLD NEW` writes it anew" if old else ""
            raise BundleError(
                f"manifest.json: format {version.format!r} version "
                f"{version.format_version}; this runtime reads {FORMAT!r} version "
                f"{FORMAT_VERSION}{cure}",
                code="format-version",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json: {shown(error)}", code="manifest-invalid") from None
    check_bytes(data, manifest, _fields(manifest))
    return manifest


def check_bytes(data: bytes, manifest: Manifest, fields: dict[str, object]) -> None:
    """Check that a manifest stands in these bytes as it should, and its rules, as `decode` does.

    `fields` are the manifest's as JSON values: those that the format writes.
    """
    if canonical(fields) != data:
        raise BundleError(
            "manifest.json: the bytes are not the canonical encoding of what they say; "
            "write it with dst.runtime, not by hand",
            code="manifest-not-canonical",
        )
    member = b'"bundle_id":"%b",' % manifest.bundle_id.encode()
    if data.startswith(b"{" + member):  # by its name the first; what is left is canonical too
        right = hashlib.sha256(b"{" + data[1 + len(member) :]).hexdigest()
    else:
        right = _hash(fields)
    if right != manifest.bundle_id:
        raise BundleError(
            f"manifest.json: bundle_id is {shown(manifest.bundle_id[:16])}…, "
            f"the bytes hash to {right[:16]}…: the manifest was altered",
            code="bundle-id",
        )
    check(manifest)
    if (right := state_hash(manifest.contract)) != manifest.state_hash:
        raise BundleError(
            f"manifest.json: state_hash is {shown(manifest.state_hash[:16])}…, "
            f"the contract's state tensors hash to {right[:16]}…",
            code="state-hash",
        )


def claimed_files(data: bytes) -> frozenset[str] | None:
    """Return the names that a manifest of any version lists, or None if it is no manifest.

    Nothing else is checked: an outdated or altered bundle is still somebody's bundle.

    Examples:
        >>> claimed_files(b'{"files":{"step.onnx":{}},"format":"dst-bundle","format_version":1}')
        frozenset({'step.onnx'})
    """
    try:
        claim = msgspec.json.decode(data, type=_Claim)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return frozenset(claim.files) if claim.format == FORMAT else None
