"""Laws of our parsers under hypothesis: bytes of any kind give a named error or the truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.safety.conftest import sum_files
from tests.safety.laws import (
    LAWS,
    PLACE,
    blob_law,
    manifest_law,
    named,
    printable,
    saved_law,
    sealed_manifest_law,
    sealed_saved_law,
)
from tests.safety.writer import synthetic

from dst.runtime import Session, Stream, replay_golden
from dst.runtime.bundle.encoding import canonical, decode
from dst.runtime.bundle.manifest import FileEntry
from dst.runtime.bundle.reader import Bundle
from dst.runtime.errors import BundleError, DstError, StateError
from dst.runtime.state.record import Saved, pack
from dst.runtime.store.sealing import seal

EXAMPLES = settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400]),
    st.floats(),
    st.sampled_from([1e30, -0.0, 5e-324, 1e308, 0.5]),
    st.text(max_size=20),
    st.sampled_from(["B", "T", "float16", "int8", "bool", "x", "../x", "nul", "\n", "\x1b[31m"]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of everything in a JSON value."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            found += places(inner, (*path, at))
    return found


def changed(whole: bytes, path: tuple[str | int, ...], how: str, value: object) -> bytes:
    """Put another value at a place of a JSON text, or remove, repeat or rename what is there."""
    tree: Any = json.loads(whole)
    at: Any = tree
    for step in path[:-1]:
        at = at[step]
    last = path[-1]
    if how == "remove":
        del at[last]
    elif how == "repeat" and isinstance(last, int):
        at.extend([at[last]] * 20)
    elif how == "rename" and isinstance(last, str):
        at[str(value)] = at.pop(last)
    else:
        at[last] = value
    try:
        return canonical(tree)
    except BundleError:
        return whole


@pytest.fixture(scope="session")
def manifest_bytes(bundle: Path) -> bytes:
    return (bundle / "manifest.json").read_bytes()


def test_the_laws_can_be_met(manifest_bytes: bytes) -> None:
    state = pack(synthetic(5, 40))
    assert manifest_law(manifest_bytes)
    assert sealed_manifest_law(manifest_bytes)
    assert saved_law(state)
    assert sealed_saved_law(state)
    assert blob_law(seal(None, PLACE, state))


@pytest.mark.parametrize("name", LAWS)
@EXAMPLES
@given(data=st.binary(max_size=400))
def test_any_bytes(name: str, data: bytes) -> None:
    assert not LAWS[name](data)


@EXAMPLES
@given(data=st.data())
def test_manifests_with_wrong_values(manifest_bytes: bytes, data: st.DataObject) -> None:
    broken = manifest_bytes
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(json.loads(broken))))
        how = data.draw(st.sampled_from(["replace", "replace", "remove", "repeat", "rename"]))
        broken = changed(broken, path, how, data.draw(TREES))
    manifest_law(broken)
    sealed_manifest_law(broken)


@EXAMPLES
@given(depth=st.integers(1, 200_000), kind=st.sampled_from(["[", '{"a":']))
def test_deep_json(manifest_bytes: bytes, depth: int, kind: str) -> None:
    deep = kind.encode() * depth
    for law in (manifest_law, sealed_manifest_law):
        law(deep)
        law(manifest_bytes.replace(b'"recipe":null', b'"recipe":' + deep))
    head = b'{"__metadata__":{"checksum":"' + b"0" * 64 + b'","format":'
    text = head + deep
    assert not sealed_saved_law(len(text).to_bytes(8, "little") + text)


@EXAMPLES
@given(data=st.data())
def test_saved_states_with_other_headers(data: st.DataObject) -> None:
    whole = pack(synthetic(data.draw(st.integers(0, 20)), 40))
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    paths = [path for path in places(header) if path != ("__metadata__", "checksum")]
    path = data.draw(st.sampled_from(paths))
    value = data.draw(
        st.one_of(TREES, st.sampled_from(["BF16", "F8_E4M3", "U16", "C64", "F4", "BOOL", "F64"]))
    )
    at = header
    for step in path[:-1]:
        at = at[step]
    if data.draw(st.booleans()) and isinstance(at, dict):
        at[data.draw(st.sampled_from(["h", "state/h", "state/", "pending", "x\ny"]))] = at[path[-1]]
    at[path[-1]] = value
    text = json.dumps(header, separators=(",", ":")).encode()
    told = data.draw(st.sampled_from([len(text), len(text) + 1, 0, 2**63, 2**64 - 1]))
    sealed_saved_law(told.to_bytes(8, "little") + text + whole[8 + length :])


@EXAMPLES
@given(data=st.data())
def test_spliced_bytes(manifest_bytes: bytes, data: st.DataObject) -> None:
    state = pack(synthetic(7, 40))
    seeds = {
        "manifest": manifest_bytes,
        "sealed-manifest": manifest_bytes,
        "saved": state,
        "sealed-saved": state,
        "blob": seal(None, PLACE, state),
    }
    name = data.draw(st.sampled_from(sorted(seeds)))
    whole = seeds[name]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 64)))
    put = data.draw(st.one_of(st.binary(max_size=64), st.just(whole[end : end + 64])))
    spliced = whole[:start] + put + whole[end:]
    assert LAWS[name](spliced) <= (spliced == whole or name.startswith("sealed"))


ARRAYS = st.builds(
    lambda dtype, shape, value: np.full(shape, value, np.float64).astype(dtype),
    st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint16", "bool"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from([0.0, 1.0, -1.0, 300.0, 1e30, 1e200, np.nan, np.inf]),
)


@EXAMPLES
@given(
    name=st.sampled_from(["s", "other", "pending", "lookback"]),
    array=ARRAYS,
    items=st.integers(0, 2**64 - 1),
    seed=st.none() | st.integers(0, 2**64 - 1),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_resumes_exactly_or_is_refused(
    session: Session, name: str, array: np.ndarray, items: int, seed: int | None
) -> None:
    plain = session.stream().saved()
    state, pending, lookback = dict(plain.state), plain.pending, plain.lookback
    if name == "pending":
        pending = array
    elif name == "lookback":
        lookback = array
    else:
        state[name] = array
    try:
        saved = Saved(plain.identity, items, seed, 0, state, pending, lookback)
        stream = Stream.resume(session, saved)
    except StateError as error:
        named(error, StateError)
        return
    assert pack(stream.saved()) == pack(saved)


@settings(EXAMPLES, max_examples=40)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_golden_and_initial_tensors(
    tmp_path_factory: pytest.TempPathFactory, bundle: Path, data: st.DataObject
) -> None:
    """A bundle whose hashes are right, but whose tensors are not what they should be."""
    name = data.draw(st.sampled_from(["golden.safetensors", "init.safetensors"]))
    whole = (bundle / name).read_bytes()
    if data.draw(st.booleans()):
        tensors = safetensors.numpy.load(whole)
        key = data.draw(st.sampled_from(sorted(tensors)))
        tensors[data.draw(st.sampled_from([key, "more"]))] = data.draw(ARRAYS)
        content = safetensors.numpy.save(tensors)
    else:
        start = data.draw(st.integers(0, len(whole) - 1))
        content = whole[:start] + data.draw(st.binary(max_size=16)) + whole[start + 8 :]
    root = tmp_path_factory.mktemp("golden")
    files = {**sum_files(), name: content}
    for file, held in files.items():
        assert isinstance(held, bytes)
        (root / file).write_bytes(held)
    manifest = decode((bundle / "manifest.json").read_bytes())
    broken = Bundle(root, manifest)
    try:
        entry = manifest.files[name]
        manifest.files[name] = FileEntry(sha256=entry.sha256, size=len(content))
        checks = replay_golden(broken)
    except DstError as error:
        printable(error)
        return
    assert checks
    assert all(check.passed == (max(check.errors.values()) <= check.tolerance) for check in checks)
    if all(check.passed for check in checks):
        found, right = safetensors.numpy.load(content), safetensors.numpy.load(whole)
        assert all(np.allclose(found[key], right[key], rtol=1e-4) for key in right)
