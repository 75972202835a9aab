"""What holds for any bytes whatever: bytes in, nothing out, `AssertionError` where a law is broken.

Every parser of ours either refuses by a named error of one line, or what it returns is exactly
what the bytes say. The tests feed these laws with hypothesis, `examples/fuzz/fuzz.py` with
atheris.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from xxhash import xxh3_128

from dst.runtime.bundle.encoding import canonical, claimed_files, decode, encode
from dst.runtime.bundle.manifest import FORMAT
from dst.runtime.errors import BundleError, DstError, StateError
from dst.runtime.state.record import pack, unpack
from dst.runtime.store.sealing import seal, unseal

PLACE = b"the place of a record"
_CHECKSUM_AT = 8 + len('{"__metadata__":{"checksum":"')


def named(error: DstError, base: type[DstError]) -> None:
    """An error is one of ours, with a code of its own, and one line that can be printed."""
    assert isinstance(error, base)
    assert error.code not in {DstError.code, BundleError.code, StateError.code}, repr(error)
    printable(error)


def printable(error: DstError) -> None:
    """A message is one line, and a terminal shows it as it is."""
    assert str(error)
    assert str(error).isprintable(), repr(str(error))


def manifest_law(data: bytes) -> bool:
    """A manifest is refused, or its bytes are the only ones that say what it says."""
    listed = claimed_files(data)
    try:
        manifest = decode(data)
    except BundleError as error:
        named(error, BundleError)
        return False
    assert encode(manifest) == data
    assert listed == frozenset(manifest.files)
    return True


def sealed_manifest_law(data: bytes) -> bool:
    """The same behind the hashes: they are made right first, so that the rules are reached."""
    return manifest_law(with_ids(data))


def saved_law(data: bytes) -> bool:
    """A saved state is refused, or packing it again gives an equal record."""
    try:
        saved = unpack(data)
    except StateError as error:
        named(error, StateError)
        return False
    again = pack(saved)
    assert pack(unpack(again)) == again
    return True


def sealed_saved_law(data: bytes) -> bool:
    """The same behind the checksum, which is made right first."""
    return saved_law(with_checksum(data))


def blob_law(data: bytes) -> bool:
    """A blob of a store is refused, or it was sealed for this place."""
    try:
        inside = unseal(None, PLACE, data)
    except StateError as error:
        named(error, StateError)
        return False
    assert seal(None, PLACE, inside) == data
    return saved_law(inside)


def with_checksum(data: bytes) -> bytes:
    """Make the checksum of a saved state right, whatever else it holds."""
    if len(data) < _CHECKSUM_AT + 32:
        return data
    blank = data[:_CHECKSUM_AT] + b"0" * 32 + data[_CHECKSUM_AT + 32 :]
    return data[:_CHECKSUM_AT] + xxh3_128(blank).hexdigest().encode() + data[_CHECKSUM_AT + 32 :]


def hash_of_state(state: Any) -> str:
    """Return the `state_hash` of a contract's state as JSON has it, whatever that holds."""
    try:
        full = [
            {"init": {"kind": "zeros"}, "role": "memory", **s, "batch_axis": s["shape"].index("B")}
            for s in state
        ]
    except (TypeError, KeyError, ValueError, AttributeError):
        full = state
    return hashlib.sha256(canonical(full)).hexdigest()


def with_ids(data: bytes) -> bytes:
    """Make a manifest canonical and its two hashes right, where it is JSON at all."""
    try:
        fields = json.loads(data)
        if isinstance(fields, dict) and fields.get("format") == FORMAT:
            contract = fields.get("contract")
            state = contract.get("state") if isinstance(contract, dict) else None
            fields["state_hash"] = hash_of_state(state)
            fields.pop("bundle_id", None)
            fields["bundle_id"] = hashlib.sha256(canonical(fields)).hexdigest()
        return canonical(fields)
    except (ValueError, RecursionError, BundleError):
        return data


LAWS: dict[str, Callable[[bytes], bool]] = {
    "manifest": manifest_law,
    "sealed-manifest": sealed_manifest_law,
    "saved": saved_law,
    "sealed-saved": sealed_saved_law,
    "blob": blob_law,
}
