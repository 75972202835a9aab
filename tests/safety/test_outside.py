"""Laws of what a bundle or a state may make us read and allocate: nothing outside, nothing huge."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from tests.raising import refused
from tests.safety.conftest import WIDTH, external, sum_files, sum_manifest, sum_model
from tests.safety.laws import hash_of_state, with_checksum
from tests.safety.writer import synthetic

from dst.runtime import errors, open_bundle, write_bundle
from dst.runtime.bundle.encoding import canonical, decode, encode
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.bundle.validation import check_name
from dst.runtime.errors import BundleError
from dst.runtime.state.record import pack

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20
LIMIT_BYTES = 192 * MEBIBYTE
Place = Literal["initializer", "constant", "branch"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits address space")


def probe(
    root: Path, good: Path, paths: list[Path], limit_bytes: int = LIMIT_BYTES
) -> dict[str, list[str]]:
    """Open each path in a limited child; nothing outside `root` may be opened there."""
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    script = Path(__file__).with_name("probe.py")
    done = subprocess.run(
        [sys.executable, str(script), str(root), str(limit_bytes), str(good), *map(str, paths)],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,  # a hang is a failure
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["outside"] == []
    answers: dict[str, list[str]] = told["answers"]
    for _, (name, message) in answers.items():
        assert name == name.lower(), message  # a code of ours, not a class of others
        assert message.isprintable() or not name
    return answers


def with_model(root: Path, model: bytes) -> Path:
    """Write the sum bundle with another model; its hashes are right."""
    write_bundle(root, sum_manifest(), {**sum_files(), "step.onnx": model})
    return root


@linux
@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_weights_outside_the_bundle_are_not_read(
    tmp_path: Path, bundle: Path, place: Place
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(WIDTH, np.float32).tobytes())
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    root = tmp_path / "bundles"
    root.mkdir()
    (root / "next.bin").write_bytes(secret.read_bytes())
    good = with_model(root / "good", sum_model(external("w", "weights.bin"), place))
    locations = [
        "../next.bin",
        "../../secret.bin",
        "sub/../../next.bin",
        "./../next.bin",
        str(secret),
        f"file://{secret}",
        "../../pipe",
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/environ",
        "none.bin",
        ".",
        "",
        "*/_ORT_MEM_ADDR_/*",
        "../next.bin\0",
        "../next.bin\0/../../bundles/weights.bin",
    ]
    weights = [external("w", location) for location in locations]
    weights += [
        external("w", "weights.bin", offset, length)
        for offset, length in ((1 << 40, 16), (-16, 16), (0, 1 << 40), (8, 16), (0, -1))
    ]
    paths = [
        with_model(root / f"bad-{number}", sum_model(tensor, place))
        for number, tensor in enumerate(weights)
    ]
    answers = probe(root, good, [good, *paths])
    assert answers.pop(str(good)) == ["", ""]
    taken = [weights[paths.index(Path(path))] for path, (name, _) in answers.items() if not name]
    assert not taken
    assert {name for name, _ in answers.values()} == {"graph"}, answers


@linux
def test_links_pipes_and_devices_are_refused_and_not_opened(tmp_path: Path, bundle: Path) -> None:
    root = tmp_path / "bundles"
    root.mkdir()
    (tmp_path / "weights.bin").write_bytes((bundle / "weights.bin").read_bytes())

    def damaged(name: str, file: str, put: Callable[[Path], object]) -> Path:
        write_bundle(root / name, sum_manifest(), sum_files())
        (root / name / file).unlink()
        put(root / name / file)
        return root / name

    outside = tmp_path / "weights.bin"
    wanted = {
        damaged("link", "weights.bin", lambda p: p.symlink_to(outside)): "file-is-link",
        damaged("loop", "weights.bin", lambda p: p.symlink_to(p)): "file-is-link",
        damaged("model", "step.onnx", lambda p: p.symlink_to("/dev/zero")): "file-is-link",
        damaged("manifest", "manifest.json", lambda p: p.symlink_to("/dev/zero")): "file-is-link",
        damaged("pipe", "weights.bin", os.mkfifo): "file-not-regular",
        damaged("manifest-pipe", "manifest.json", os.mkfifo): "file-not-regular",
        damaged("folder", "weights.bin", os.mkdir): "file-not-regular",
    }
    write_bundle(root / "named", sum_manifest(), sum_files())
    (root / "named" / "a\n\x1b[31mb").write_text("x")
    (root / "named-badly").mkdir()
    os.mkfifo(root / "pipe.state")
    (root / "zero.state").symlink_to("/dev/zero")
    wanted |= {
        root / "named": "file-unlisted",
        root / "named-badly": "file-missing",
        root / "pipe.state": "state-unreadable",
        root / "zero.state": "state-unreadable",
        root / f"{'n' * 300}.state": "state-unreadable",
        root / ("n" * 300): "bundle-unreadable",
    }
    answers = probe(root, bundle, list(wanted))
    assert {path: name for path, (name, _) in answers.items()} == {
        str(path): name for path, name in wanted.items()
    }


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".hidden", "a.", "a ", "ä", "a\0"),
        *("a\n", "C:x", "manifest.json", "MANIFEST.JSON", "nul", "NUL.bin", "com1.onnx", "Aux.b.c"),
        "x" * 129,
    ],
)
def test_a_name_that_is_not_one_file_of_the_bundle_everywhere_is_refused(name: str) -> None:
    with refused(BundleError, "path-outside"):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["weights.bin", "nulls", "com10", "a", "_", "a..b", "step_t1.onnx"]
)
def test_plain_names_are_taken(name: str) -> None:
    check_name(name)


def edited(change: Callable[[dict[str, object]], object]) -> bytes:
    """Change the fields of the sum manifest and make its hashes right again."""
    sealed = json.loads(encode(sum_manifest()))
    sealed["files"] = {
        name: {"sha256": "0" * 64, "size": 1} for name in sum_files() if isinstance(name, str)
    }
    change(sealed)
    sealed["state_hash"] = hash_of_state(sealed["contract"]["state"])
    sealed["bundle_id"] = hashlib.sha256(canonical(sealed)).hexdigest()
    return canonical(sealed)


def many_axes(fields: dict[str, object]) -> None:
    contract: dict[str, list[dict[str, object]]] = fields["contract"]  # type: ignore[assignment]
    contract["state"][0]["shape"] = ["B", *[2**31 - 1] * 500_000]


def huge_constant(fields: dict[str, object]) -> None:
    contract: dict[str, list[dict[str, object]]] = fields["contract"]  # type: ignore[assignment]
    contract["constants"][0] |= {"shape": [2**62] * 300_000, "values": []}


def long_number(fields: dict[str, object]) -> None:
    contract: dict[str, list[dict[str, object]]] = fields["contract"]  # type: ignore[assignment]
    contract["constants"][0]["values"] = [10**4000]


def long_axis(fields: dict[str, object]) -> None:
    contract: dict[str, list[dict[str, object]]] = fields["contract"]  # type: ignore[assignment]
    contract["state"][0]["shape"] = ["B", 10**4000, 10**4000]


def many_files(fields: dict[str, object]) -> None:
    entry = {"sha256": "0" * 64, "size": 2**62}
    fields["files"] = {f"f{number}": entry for number in range(5_000)}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (many_axes, "manifest-invalid"),
        (huge_constant, "manifest-invalid"),
        (long_number, "manifest-invalid"),
        (long_axis, "manifest-invalid"),
        (many_files, "contract"),
    ],
)
def test_numbers_no_reader_could_bear_are_refused(
    change: Callable[[dict[str, object]], object], code: str
) -> None:
    data = edited(change)
    with refused(BundleError, code):
        decode(data)


@linux
def test_what_claims_to_be_huge_takes_no_memory(tmp_path: Path, bundle: Path) -> None:
    """All in a child that may take 192 MiB: a sparse file costs nothing to make."""
    root = tmp_path / "bundles"
    root.mkdir()

    def manifest_of(name: str, data: bytes) -> Path:
        write_bundle(root / name, sum_manifest(), sum_files())
        (root / name / "manifest.json").write_bytes(data)
        return root / name

    def sparse(name: str, size: int, head: bytes = b"") -> Path:
        with open(root / name, "wb") as file:
            file.write(head)
            file.truncate(size)
        return root / name

    def written(name: str, manifest: Manifest, files: dict[str, bytes | Path]) -> Path:
        write_bundle(root / name, manifest, files)
        return root / name

    def state(header: bytes, length: int | None = None) -> bytes:
        size = len(header) if length is None else length
        return with_checksum(size.to_bytes(8, "little") + header)

    plain = sum_manifest()
    contract = plain.contract
    grown = msgspec.structs.replace(contract.state[0], shape=("B", 1, 2**28))
    large = msgspec.structs.replace(contract, state=(grown,))
    whole = pack(synthetic(3, 40))
    opening = whole[:200]
    claim = b'{"__metadata__":{"checksum":"' + b"0" * 32 + b'","format":"dst-state"}'
    shape = b',"pending":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (2**60, 2**62)
    many = [plain.golden[0].__class__(file="golden.safetensors", t=4, steps=2**31 - 1)]
    tensors = safetensors.numpy.load(bytes(sum_files()["golden.safetensors"]))
    without = {name: value for name, value in tensors.items() if name != "t4/out/y"}
    without["t4/chunk"] = np.zeros((400_000, 1, 4, 1), np.float32)  # 400,000 steps and no outputs
    steps = [plain.golden[0].__class__(file="golden.safetensors", t=4, steps=400_000)]
    files = sum_files()
    wanted = {
        manifest_of("long", b" " * (17 * MEBIBYTE)): "file-too-large",
        manifest_of("deep", b"[" * (16 * MEBIBYTE)): "manifest-invalid",
        manifest_of("wide", b'{"format":[' + b"0," * (8 * MEBIBYTE - 99)): "manifest-invalid",
        written(
            "golden", msgspec.structs.replace(plain, golden=tuple(many)), files
        ): "golden-tensors",
        written(
            "steps",
            msgspec.structs.replace(plain, golden=tuple(steps)),
            {**files, "golden.safetensors": safetensors.numpy.save(without)},
        ): "golden-tensors",
        sparse("huge.state", (8 << 30) + 1): "state-too-large",
        sparse("large.state", 8 << 30): "state-header",
        sparse("opening.state", 8 << 30, opening): "state-unreadable",
    }
    for name, data, error in (
        ("claim.state", state(claim + shape), "state-version"),
        ("length.state", state(claim, 2**63), "state-header"),
        ("shape.state", state(claim[:-1] + b',"version":"2"}' + shape), "state-header"),
        ("cut.state", whole[:-1], "state-checksum"),
    ):
        (root / name).write_bytes(data)
        wanted[root / name] = error
    state_too_large = root / "state"
    with refused(errors.BundleError, "file-too-large"):
        write_bundle(
            state_too_large,
            msgspec.structs.replace(
                plain,
                contract=msgspec.structs.replace(
                    large, state=(msgspec.structs.replace(grown, shape=("B", 1, 2**30)),)
                ),
            ),
            files,
        )
    answers = probe(root, bundle, list(wanted))
    assert {path: name for path, (name, _) in answers.items()} == {
        str(path): name for path, name in wanted.items()
    }


@linux
def test_a_state_larger_than_the_memory_is_refused_by_name(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "right.state"
    path.write_bytes(pack(synthetic(1, 6 * MEBIBYTE)))
    assert probe(tmp_path, bundle, [path], 64 * MEBIBYTE)[str(path)] == ["", ""]
    name, message = probe(tmp_path, bundle, [path], 4 * MEBIBYTE)[str(path)]
    assert name == "state-unreadable"
    assert "larger than the free memory" in message


def test_an_unreadable_bundle_is_a_bundle_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(errors.BundleError, match="cannot be read: Permission denied"):
        open_bundle(bundle)
