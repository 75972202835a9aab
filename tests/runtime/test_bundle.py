"""Laws of bundles: each broken clause has its own error, and no altered bit goes unseen."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from tests.raising import Fault, refused

import dst
from dst.runtime import Bundle, Session, open_bundle, shipped, write_bundle
from dst.runtime.bundle.encoding import bundle_id, canonical, decode, encode, seal, state_hash
from dst.runtime.bundle.manifest import FileEntry, Fill, Manifest, Stored
from dst.runtime.errors import BundleError, BundleNotFoundError

Parts = tuple[Manifest, dict[str, bytes | Path]]
replace = msgspec.structs.replace


@pytest.fixture
def copy(shelf: Path, tmp_path: Path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(shelf / "text", tmp_path / "demo"))


def rewritten(root: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Change the manifest on disk and make its ids right again, unlike `seal` without checks."""
    manifest = change(open_bundle(root).manifest)
    manifest = replace(manifest, bundle_id=bundle_id(manifest))
    (root / "manifest.json").write_bytes(encode(manifest))


def with_min_ort(version: str) -> Callable[[Manifest], Manifest]:
    return lambda m: replace(m, graphs=tuple(replace(g, min_ort=version) for g in m.graphs))


def test_what_is_written_is_what_is_read(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    sealed = write_bundle(tmp_path / "b", manifest, files)
    bundle = open_bundle(tmp_path / "b")
    assert bundle.manifest == sealed
    assert set(sealed.files) == set(files)
    for name, content in files.items():
        assert (tmp_path / "b" / name).read_bytes() == content
    assert replace(sealed, files={}, state_hash="", bundle_id="") == manifest
    np.testing.assert_array_equal(
        bundle.init_tensors()["h"], np.linspace(-1, 1, 8, dtype=np.float32)[None]
    )


def test_the_bundle_id_is_the_hash_of_the_rest(copy: Path) -> None:
    data = (copy / "manifest.json").read_bytes()
    fields = json.loads(data)
    head = f'{{"bundle_id":"{fields["bundle_id"]}",'.encode()
    assert data.startswith(head)
    assert hashlib.sha256(b"{" + data[len(head) :]).hexdigest() == fields["bundle_id"]


def test_every_file_notices_a_flipped_bit(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        places = np.unique(np.linspace(0, len(data) - 1, 60).astype(int))
        for i, at in enumerate(places):
            broken = bytearray(data)
            broken[at] ^= 1 << i % 8
            path.write_bytes(bytes(broken))
            with pytest.raises(BundleError) as caught:
                open_bundle(copy)
            assert caught.value.code != BundleError.code
        path.write_bytes(data)
    open_bundle(copy)


MANIFEST_CODES = {
    "manifest-invalid",
    "manifest-not-canonical",
    "format-version",
    "bundle-id",
    "state-hash",
    "contract",
}


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    data = (copy / "manifest.json").read_bytes()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(BundleError) as caught:
            decode(bytes(broken))
        assert caught.value.code in MANIFEST_CODES


def _truncate(root: Path) -> None:
    os.truncate(root / "step.onnx", 100)


def _alter(root: Path) -> None:
    data = bytearray((root / "step.onnx").read_bytes())
    data[50] ^= 1
    (root / "step.onnx").write_bytes(bytes(data))


def _link(root: Path) -> None:
    (root / "step.onnx").rename(root.parent / "step.onnx")
    (root / "step.onnx").symlink_to(root.parent / "step.onnx")


def _grow_manifest(root: Path) -> None:
    os.truncate(root / "manifest.json", (1 << 24) + 1)


def _space(root: Path) -> None:
    path = root / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b",", b", ", 1))


def _escape(root: Path) -> None:
    entry = FileEntry(sha256="0" * 64, size=1)
    rewritten(root, lambda m: replace(m, files={**m.files, "../step.onnx": entry}))


def _huge_state(root: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        state = manifest.contract.state
        big = replace(state[0], shape=("B", 2**30))
        contract = replace(manifest.contract, state=(big, *state[1:]))
        return seal_hash(replace(manifest, contract=contract))

    rewritten(root, change)


def seal_hash(manifest: Manifest) -> Manifest:
    return replace(manifest, state_hash=state_hash(manifest.contract))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (
            lambda r: (r / "notes.txt").write_text("x"),
            Fault(BundleError, "file-unlisted"),
            "notes.txt is not listed",
        ),
        (
            lambda r: (r / "step.onnx").unlink(),
            Fault(BundleError, "file-missing"),
            "step.onnx is listed",
        ),
        (
            lambda r: (r / "manifest.json").unlink(),
            Fault(BundleError, "file-missing"),
            "has no manifest.json",
        ),
        (_truncate, Fault(BundleError, "file-size"), "step.onnx has 100 bytes"),
        (_alter, Fault(BundleError, "file-hash"), "step.onnx has SHA-256"),
        (_link, Fault(BundleError, "file-is-link"), "step.onnx is a link"),
        (
            lambda r: (r / "extra").mkdir(),
            Fault(BundleError, "file-not-regular"),
            "extra is a directory",
        ),
        (
            lambda r: os.mkfifo(r / "pipe"),
            Fault(BundleError, "file-not-regular"),
            "pipe is a special file",
        ),
        (_grow_manifest, Fault(BundleError, "file-too-large"), "the cap is 16777216"),
        (_huge_state, Fault(BundleError, "file-too-large"), "the cap is"),
        (_escape, Fault(BundleError, "path-outside"), r"'\.\./step\.onnx'"),
        (_space, Fault(BundleError, "manifest-not-canonical"), "canonical"),
        (
            lambda r: (r / "manifest.json").write_text("{"),
            Fault(BundleError, "manifest-invalid"),
            "manifest.json",
        ),
        (
            lambda r: rewritten(r, lambda m: replace(m, format_version=3)),
            Fault(BundleError, "format-version"),
            "version 3; this runtime reads 'dst-bundle' version 2$",
        ),
        (
            lambda r: rewritten(r, lambda m: replace(m, format_version=1)),
            Fault(BundleError, "format-version"),
            "version 1; this runtime reads 'dst-bundle' version 2; `dst upgrade OLD NEW` writes",
        ),
        (
            lambda r: rewritten(r, lambda m: replace(m, state_hash="0" * 64)),
            Fault(BundleError, "state-hash"),
            "state_hash is 0000",
        ),
        (
            lambda r: rewritten(r, lambda m: replace(m, model_id=m.model_id + "\n")),
            Fault(BundleError, "manifest-invalid"),
            "model_id",
        ),
        (
            lambda r: rewritten(r, with_min_ort("1.31\n")),
            Fault(BundleError, "manifest-invalid"),
            "min_ort",
        ),
        (
            lambda r: rewritten(r, with_min_ort("1." + "1" * 5000)),
            Fault(BundleError, "manifest-invalid"),
            "min_ort",
        ),
    ],
)
def test_a_broken_clause_has_its_own_error(
    copy: Path, damage: Callable[[Path], object], error: Fault, words: str
) -> None:
    damage(copy)
    with refused(*error, match=words) as caught:
        open_bundle(copy)

    assert str(caught.value).startswith("bundle demo/: ")
    assert "\n" not in str(caught.value)


def test_a_wrong_bundle_id_has_its_own_error(copy: Path) -> None:
    manifest = replace(open_bundle(copy).manifest, description="another")
    (copy / "manifest.json").write_bytes(encode(manifest))
    with refused(BundleError, "bundle-id", match="was altered"):
        open_bundle(copy)


@pytest.mark.parametrize("extra", ["unknown", "missing"])
def test_unknown_and_missing_fields_are_refused(copy: Path, extra: str) -> None:
    fields = json.loads((copy / "manifest.json").read_bytes())
    if extra == "unknown":
        fields["contract"]["chunk"]["colour"] = 1
    else:
        del fields["producer"]
    with refused(BundleError, "manifest-invalid", match=r"colour|producer"):
        decode(canonical(fields))


@pytest.mark.parametrize(
    ("place", "name", "default"),
    [
        ([], "recipe", None),
        ([], "precision", "float32"),
        ([], "certificates", []),
        ([], "quality", None),
        (["contract"], "constants", []),
        (["contract", "chunk"], "tail", "exact"),
        (["contract", "chunk"], "lookback", 0),
        (["contract", "chunk"], "pad_value", None),
        (["contract", "outputs", 0], "levels", []),
        (["contract", "state", 1], "init", {"kind": "zeros"}),
        (["graphs", 1], "multiply_adds", {}),
        (["graphs", 0], "batch", []),
    ],
)
def test_a_default_that_is_spelled_out_is_refused(
    copy: Path, place: list[str | int], name: str, default: object
) -> None:
    fields = json.loads((copy / "manifest.json").read_bytes())
    part = fields
    for step in place:
        part = part[step]
    assert name not in part
    part[name] = default
    del fields["bundle_id"]
    fields["bundle_id"] = hashlib.sha256(canonical(fields)).hexdigest()
    with refused(BundleError, "manifest-not-canonical"):
        decode(canonical(fields))


@pytest.mark.parametrize(("part", "name"), [("chunk", "batch_axis"), ("chunk", "time_axis")])
def test_what_the_shape_says_is_not_said_again(copy: Path, part: str, name: str) -> None:
    fields = json.loads((copy / "manifest.json").read_bytes())
    fields["contract"][part][name] = 1
    with refused(BundleError, "manifest-invalid", match=name):
        decode(canonical(fields))


@pytest.mark.parametrize("verify", ["Full", "none", None, True])
def test_a_word_that_is_no_way_to_verify_is_refused(copy: Path, verify: object) -> None:
    with pytest.raises(BundleError, match="expected 'full' or 'size'"):
        open_bundle(copy, verify=verify)  # type: ignore[arg-type]


def test_whole_numbers_are_written_as_they_are_read(shelf: Path) -> None:
    manifest = open_bundle(shelf / "sensor").manifest
    chunk = manifest.contract.chunk

    def at(rate: object) -> Manifest:
        content = replace(chunk.content, sample_rate_hz=rate)
        other = replace(chunk, content=content)
        return replace(manifest, contract=replace(manifest.contract, chunk=other))

    assert seal(at(16000)) == seal(at(16000.0))
    for wrong in (np.float64(16000), np.float32(16000), np.int64(16000), "16000"):
        with refused(BundleError, "manifest-invalid", match=r"manifest: .*plain Python values"):
            seal(at(wrong))


def test_size_mode_skips_the_hashes_only(copy: Path) -> None:
    _alter(copy)
    open_bundle(copy, verify="size")
    _truncate(copy)
    with refused(BundleError, "file-size"):
        open_bundle(copy, verify="size")


def test_no_bundle_there(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match="no such directory; shipped bundles: "):
        open_bundle(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleNotFoundError, match="is a file"):
        open_bundle(tmp_path / "file")


def test_shipped_bundles_open_by_name(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shelf / "text", tmp_path / "shipped" / "words")
    monkeypatch.setattr(dst, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert list(shipped()) == ["words"]
    assert Session.open("words").chunk_sizes == (1, 4, 8)
    with pytest.raises(BundleNotFoundError, match="shipped bundles: words"):
        Session.open("word")


def test_stored_initial_tensors_must_fit(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    cases: tuple[tuple[str, npt.NDArray[np.floating], str], ...] = (
        ("other", np.zeros((1, 8), np.float32), "has no tensor 'h0'"),
        ("h0", np.zeros((1, 9), np.float32), r"float32 \[1, 9\].*float32 \[1, 8\]"),
        ("h0", np.zeros((1, 8), np.float64), "is float64"),
    )
    for i, (name, tensor, words) in enumerate(cases):
        init = {"init.safetensors": safetensors.numpy.save({name: tensor})}
        write_bundle(tmp_path / str(i), manifest, {**files, **init})
        with refused(BundleError, "init-tensors", match=words):
            Session.open(tmp_path / str(i))


def changes() -> list[tuple[Callable[[Manifest], Manifest], str]]:
    """One contradiction each, and a word of the message that refuses it."""

    def chunk(**fields: object) -> Callable[[Manifest], Manifest]:
        def change(manifest: Manifest) -> Manifest:
            parts = json.loads(msgspec.json.encode(manifest.contract.chunk)) | fields
            made = msgspec.convert(parts, type(manifest.contract.chunk))
            return replace(manifest, contract=replace(manifest.contract, chunk=made))

        return change

    def state(**fields: object) -> Callable[[Manifest], Manifest]:
        def change(manifest: Manifest) -> Manifest:
            first, *rest = manifest.contract.state
            made = replace(first, **fields)
            return replace(manifest, contract=replace(manifest.contract, state=(made, *rest)))

        return change

    def output(**fields: object) -> Callable[[Manifest], Manifest]:
        def change(manifest: Manifest) -> Manifest:
            made = replace(manifest.contract.outputs[0], **fields)
            return replace(manifest, contract=replace(manifest.contract, outputs=(made,)))

        return change

    def graphs(**fields: object) -> Callable[[Manifest], Manifest]:
        return lambda m: replace(m, graphs=(replace(m.graphs[0], **fields), *m.graphs[1:]))

    return [
        (chunk(nominal_t=5), "nominal_t 5 is not in allowed_t"),
        (chunk(allowed_t=[4, 8]), "needs 1 in allowed_t"),
        (chunk(allowed_t=[8, 4, 1]), "rising"),
        (chunk(allowed_t=[]), "empty"),
        (chunk(allowed_t=[1, 4, 8, 9]), r"no graph runs T = \[9\]"),
        (chunk(shape=["B", "B"]), "needs one 'B'"),
        (chunk(shape=["B", "T", 6]), "batch and a time axis only"),
        (chunk(shape=["B", "X"]), "needs one 'T'"),
        (chunk(shape=["B", "T", "X"]), "unexpected 'X' at axis 2"),
        (chunk(dtype="float32"), "tokens are int64"),
        (chunk(pad_value=1.0), "give both or none"),
        (chunk(tail="pad"), "give both or none"),
        (chunk(tail="pad", pad_value=0.5), "no token"),
        (chunk(lookback=2), "lookback_fill"),
        (chunk(input="h"), "graph input 'h' is named twice"),
        (state(output="logits"), "graph output 'logits' is named twice"),
        (state(shape=(8,)), "needs one 'B'"),
        (state(shape=("B", "B")), "needs one 'B'"),
        (state(shape=("B", 0)), "expected at least 1"),
        (state(shape=("B", "T")), "unexpected 'T'"),
        (output(shape=("T", 256)), "needs one 'B'"),
        (output(shape=("B", "T", "T")), "unexpected 'T' at axis 1"),
        (output(meaning="quantiles"), "levels"),
        (output(meaning="quantiles", levels=(0.5,)), "1 levels"),
        (output(dtype="int64"), "float dtype"),
        (graphs(file="other.onnx"), "not listed in files"),
        (graphs(allowed_t=(1, 2)), "allowed_t"),
        (graphs(opsets={}), "domains"),
        (graphs(golden_tolerance=-1.0), "golden_tolerance"),
        (lambda m: replace(m, graphs=()), "graphs is empty"),
        (lambda m: replace(m, golden=(m.golden[0], m.golden[0])), "two entries for one T"),
        (lambda m: replace(m, golden=(replace(m.golden[0], t=3),)), "golden T = 3"),
        (lambda m: replace(m, horizon=replace(m.horizon, half_life_items=0.0)), "half_life"),
    ]


@pytest.mark.parametrize(("change", "words"), changes())
def test_contradictions_are_refused(
    copy: Path, change: Callable[[Manifest], Manifest], words: str
) -> None:
    manifest = change(open_bundle(copy).manifest)
    with refused(BundleError, "contract", match=words):
        seal(manifest)


def test_the_initial_value_is_part_of_the_state_hash(copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    first, *rest = manifest.contract.state
    assert isinstance(first.init, Stored)
    other = replace(first, init=Fill(value=-1e30))
    changed = seal(replace(manifest, contract=replace(manifest.contract, state=(other, *rest))))
    assert changed.state_hash != manifest.state_hash
    assert decode(encode(changed)) == changed


def test_a_bundle_knows_its_name(copy: Path) -> None:
    assert Bundle(copy, open_bundle(copy).manifest).label == "bundle demo/"
