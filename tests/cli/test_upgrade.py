"""Laws of `dst upgrade`: a bundle of format 1, kept from before format 2, and its saved states."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from msgspec.structs import replace
from tests.cli.conftest import Dst
from tests.raising import Fault, refused

from dst.runtime import BundleError, Session, Stream, open_bundle, replay_golden, write_bundle
from dst.runtime.bundle.encoding import canonical
from dst.runtime.errors import BundleExistsError, DstError
from dst.runtime.state.record import pack, unpack
from dst.upgrade import decode_format_1, upgrade_bundle

OLD = Path(__file__).resolve().parents[1] / "data/format1"
WINDOW = OLD / "window"


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A bundle of format 1 to break."""
    return Path(shutil.copytree(WINDOW, tmp_path / "old"))


def rewritten(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the fields of a manifest of format 1 and make its id right again."""
    fields = json.loads((root / "manifest.json").read_bytes())
    change(fields)
    del fields["bundle_id"]
    fields["bundle_id"] = hashlib.sha256(canonical(fields)).hexdigest()
    (root / "manifest.json").write_bytes(canonical(fields))


def test_format_1_opens_nowhere_else_and_is_told_the_cure(dst: Dst) -> None:
    with refused(BundleError, "format-version", match="`dst upgrade OLD NEW`"):
        open_bundle(WINDOW)
    for verb in ("show", "verify"):
        done = dst(verb, WINDOW)
        assert (done.code, done.out) == (2, "")
        assert "dst upgrade OLD NEW" in done.err


def test_the_verb_writes_a_bundle_of_format_2(dst: Dst, tmp_path: Path) -> None:
    before = contents(WINDOW)
    old = json.loads(before["manifest.json"])
    done = dst("upgrade", WINDOW, tmp_path / "new", "--json", "-")
    assert (done.code, done.err) == (0, "")
    assert contents(WINDOW) == before
    manifest = open_bundle(tmp_path / "new").manifest
    assert done.json == {
        "bundle": "new",
        "bundle_id": manifest.bundle_id,
        "upgraded_from": old["bundle_id"],
        "golden_runs": 2,
    }
    assert [check.passed for check in replay_golden(open_bundle(tmp_path / "new"))] == [True] * 2
    after = contents(tmp_path / "new")
    assert after | {"manifest.json": b""} == before | {"manifest.json": b""}
    new = json.loads(after["manifest.json"])
    kept = ("model_id", "state_hash", "files", "golden", "name", "weights_bytes")
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert new["format_version"] == 2
    assert not {"quality", "recipe", "certificates", "horizon"} & new.keys()
    contract = manifest.contract
    for part, told in [
        (contract.chunk, old["contract"]["chunk"]),
        *zip(contract.outputs, old["contract"]["outputs"], strict=True),
        *zip(contract.state, old["contract"]["state"], strict=True),
    ]:  # what format 1 stored can be derived from the shapes
        names = {"batch_axis", "time_axis", "per"} & told.keys()
        assert {name: getattr(part, name) for name in names} == {n: told[n] for n in names}


def test_a_state_saved_before_goes_on_bit_for_bit(tmp_path: Path) -> None:
    bundle, _ = upgrade_bundle(WINDOW, tmp_path / "new")
    expected = safetensors.numpy.load_file(OLD / "answers.safetensors")
    session = Session.open(bundle.root)
    stream = Stream.load(session, OLD / "window.state")
    stream.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (OLD / "window.state").read_bytes()
    found = stream.advance(expected["items"])
    assert {name for name in expected if name.startswith("out/")} == {f"out/{n}" for n in found}
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[f"out/{name}"], strict=True)
    for name, held in stream.state.items():
        np.testing.assert_array_equal(held, expected[f"state/{name}"], strict=True)


def test_a_state_that_does_not_tell_its_constants_goes_on_too(tmp_path: Path) -> None:
    saved = unpack((OLD / "window.state").read_bytes())
    assert saved.identity.constants
    untold = pack(replace(saved, identity=replace(saved.identity, constants={})))
    session = Session.open(upgrade_bundle(WINDOW, tmp_path / "new")[0].root)
    (tmp_path / "untold").write_bytes(untold)
    assert Stream.load(session, tmp_path / "untold").items_consumed == saved.items_consumed


def _flip(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        data = bytearray((root / name).read_bytes())
        data[len(data) // 2] ^= 1
        (root / name).write_bytes(bytes(data))

    return change


def _field(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda root: rewritten(root, change)


def _output(fields: dict[str, Any]) -> dict[str, Any]:
    """The output per chunk."""
    found: dict[str, Any] = fields["contract"]["outputs"][1]
    return found


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_flip("step.onnx"), "file-hash"),
        (_flip("golden.safetensors"), "file-hash"),
        (lambda r: (r / "init.safetensors").unlink(), "file-missing"),
        (lambda r: (r / "more").write_text("x"), "file-unlisted"),
        (lambda r: (r / "manifest.json").write_text("{"), "manifest-invalid"),
        (lambda r: (r / "manifest.json").write_text("[]"), "manifest-invalid"),
        (_field(lambda f: f.pop("contract")), "manifest-invalid"),
        (_field(lambda f: f.update(contract=3)), "manifest-invalid"),
        (_field(lambda f: f["contract"]["chunk"].pop("batch_axis")), "manifest-invalid"),
        (_field(lambda f: f["contract"]["chunk"].update(colour=1)), "manifest-invalid"),
        (_field(lambda f: f.pop("recipe")), "manifest-not-canonical"),
        (_field(lambda f: f["contract"]["chunk"].update(batch_axis=0)), "manifest-not-canonical"),
        (_field(lambda f: _output(f).update(time_axis=0)), "manifest-not-canonical"),
        (_field(lambda f: _output(f).update(per="item")), "manifest-not-canonical"),
        (_field(lambda f: f["contract"]["state"][0].update(shape=[2, 3])), "contract"),
        (_field(lambda f: f["contract"]["chunk"].update(nominal_t=3)), "contract"),
        (_field(lambda f: f["contract"]["state"][0].update(role="conv")), "state-hash"),
        (_field(lambda f: f.update(format_version=0)), "format-version"),
        (_field(lambda f: f.update(format="other")), "format-version"),
    ],
)
def test_a_damaged_bundle_is_refused_by_its_own_code(
    copy: Path, tmp_path: Path, damage: Callable[[Path], object], code: str
) -> None:
    damage(copy)
    with refused(*Fault(BundleError, code), match="^bundle old/: "):
        upgrade_bundle(copy, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_every_byte_of_the_old_manifest_counts() -> None:
    data = (WINDOW / "manifest.json").read_bytes()
    assert decode_format_1(data).name == "window"
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(DstError):
            decode_format_1(bytes(broken))


def test_a_run_that_is_not_reproduced_stops_it(copy: Path, dst: Dst, tmp_path: Path) -> None:
    tensors = safetensors.numpy.load_file(copy / "golden.safetensors")
    tensors["t4/out/y"] += 1
    data = safetensors.numpy.save(tensors)
    (copy / "golden.safetensors").write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    rewritten(copy, lambda f: f["files"].update({"golden.safetensors": entry}))
    with refused(BundleError, "golden-failed", match=r"step\.onnx .*T = 4 here: off by"):
        upgrade_bundle(copy, tmp_path / "new")
    done = dst("upgrade", copy, tmp_path / "new")
    assert (done.code, done.out) == (2, "")
    assert not (tmp_path / "new").exists()


def test_a_bundle_without_golden_runs_is_rewritten_all_the_same(copy: Path, tmp_path: Path) -> None:
    (copy / "golden.safetensors").unlink()
    rewritten(copy, lambda f: f.update(golden=[]))
    with pytest.raises(BundleError):  # still listed
        upgrade_bundle(copy, tmp_path / "new")
    rewritten(copy, lambda f: f["files"].pop("golden.safetensors"))
    bundle, checks = upgrade_bundle(copy, tmp_path / "new")
    assert (bundle.manifest.golden, checks) == ((), [])


def test_what_stands_at_the_new_place_stays(copy: Path, dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis.txt").write_text("x")
    with pytest.raises(BundleExistsError):
        upgrade_bundle(copy, tmp_path / "new")
    assert contents(tmp_path / "new") == {"thesis.txt": b"x"}
    done = dst("upgrade", copy, tmp_path / "new")
    assert done.code == 2
    assert "give another path" in done.err
    assert "--overwrite" not in done.err  # which this verb has not
    for new in (copy, copy / "inside"):
        assert dst("upgrade", copy, new).code == 2
    assert contents(copy) == contents(WINDOW)


def test_a_bundle_of_format_2_needs_no_upgrade(tmp_path: Path) -> None:
    upgrade_bundle(WINDOW, tmp_path / "new")
    with refused(BundleError, "format-version", match="version 2.*needs no upgrade"):
        upgrade_bundle(tmp_path / "new", tmp_path / "newer")


def test_no_bundle_is_written_inside_another(copy: Path, tmp_path: Path) -> None:
    with refused(BundleError, "bundle-unwritable", match="is a bundle"):
        upgrade_bundle(copy, copy / "inside")
    assert contents(copy) == contents(WINDOW)
    new, _ = upgrade_bundle(copy, tmp_path / "new")
    files = {name: new.root / name for name in new.manifest.files}
    with refused(BundleError, "bundle-unwritable", match="is a bundle"):
        write_bundle(tmp_path / "new" / "inside", new.manifest, files)
    with refused(BundleError, "argument", match="is a int"):
        write_bundle(tmp_path / "other", new.manifest, {**files, "step.onnx": 1})  # type: ignore[dict-item]
