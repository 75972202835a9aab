"""Bundles on disk: a path or a shipped name in, a verified `Bundle` out; and the writer."""

import glob
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

import dst
from dst.runtime.bundle.manifest import (
    FORMAT,
    FileEntry,
    Manifest,
    Stored,
    claimed_files,
    decode,
    encode,
    seal,
)
from dst.runtime.bundle.validation import INIT_FILE, MANIFEST_FILE, check_name
from dst.runtime.errors import BundleError, BundleExistsError, BundleNotFoundError, shown
from dst.runtime.files import copy_synced, sha256_of, sync_directory, write_synced

MAX_MANIFEST_BYTES = 1 << 24

_OLD = ".old"  # what a bundle's hidden name ends in while another takes its place

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: where it lies and what its manifest says.

    Attributes:
        root: the directory.
        manifest: the decoded manifest.
    """

    root: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """What messages call this bundle, e.g. `bundle demo/`."""
        return f"bundle {self.root.name}/"

    def tensors(self, name: str) -> dict[str, Array]:
        """Read a safetensors file of the bundle.

        Raises:
            BundleError: `file-missing`: the manifest does not list it, or it is gone.
            BundleError: `file-size`: its size is no longer the listed one.
            BundleError: it is not a safetensors file.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.label}: has no {name}", code="file-missing")
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(entry.size + 1)
        except OSError as error:
            raise BundleError(
                f"{self.label}: {name}: {error.strerror}", code="file-missing"
            ) from None
        if len(data) != entry.size:
            raise BundleError(f"{self.label}: {name} changed while it was open", code="file-size")
        try:
            return safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"{self.label}: {name} is no safetensors file: {shown(error)}",
                code="tensors-unreadable",
            ) from None

    def init_tensors(self) -> dict[str, Array]:
        """Read the stored initial tensors: state input name -> array with batch axis 1.

        Raises:
            BundleError: `init-tensors`: one is missing, or has another dtype or shape than the
                contract.
        """
        found: dict[str, Array] = {}
        held: dict[str, Array] | None = None
        for state in self.manifest.contract.state:
            if not isinstance(state.init, Stored):
                continue
            held = self.tensors(INIT_FILE) if held is None else held
            shape = tuple(1 if size == "B" else size for size in state.shape)
            value = held.get(state.init.tensor)
            if value is None:
                raise BundleError(
                    f"{self.label}: {INIT_FILE} has no tensor {state.init.tensor!r}, "
                    f"which state `{state.input}` starts from",
                    code="init-tensors",
                )
            if value.shape != shape or value.dtype != np.dtype(state.dtype):
                raise BundleError(
                    f"{self.label}: {INIT_FILE} tensor {state.init.tensor!r} is {value.dtype} "
                    f"{list(value.shape)}, state `{state.input}` is {state.dtype} {list(shape)}",
                    code="init-tensors",
                )
            found[state.input] = value
        return found


def shipped() -> dict[str, Path]:
    """Return the bundles that come with the package: name -> directory."""
    folder = Path(dst.__file__).parent / "shipped"
    if not folder.is_dir():
        return {}
    return {p.name: p for p in sorted(folder.iterdir()) if (p / MANIFEST_FILE).is_file()}


def locate(path: str | Path) -> Path:
    """Find a bundle's directory: an existing path, or else the name of a shipped bundle.

    Raises:
        BundleNotFoundError: neither; the message lists the shipped names.
    """
    given = Path(path)
    if given.is_dir():
        return given
    ours = shipped()
    if not given.exists() and str(path) in ours:
        return ours[str(path)]
    why = "is a file, a bundle is a directory" if given.exists() else "no such directory"
    names = f"shipped bundles: {', '.join(ours)}" if ours else _not_packed()
    kept = sorted(given.parent.glob(f".{glob.escape(given.name)}.*{_OLD}")) if given.name else []
    if kept:  # a process was killed between the two renames of `_swap`
        why += (
            f"; the bundle that stood there is kept as {kept[-1].name}, rename it to have it back"
        )
    raise BundleNotFoundError(f"bundle {str(path)!r}: {why}; {names}")


def _not_packed() -> str:
    """Say why the package has no bundles of its own, which every install of it has."""
    why = "the bundles that come with the package are not here"
    if not Path(dst.__file__).exists() and not getattr(sys, "frozen", False):
        return f"{why}: it is imported from a zip file; install it, or give the path of a bundle"
    return f"{why}: its data was not packed; with PyInstaller give --collect-data dst"


def open_bundle(path: str | Path, verify: Literal["full", "size"] = "full") -> Bundle:
    """Open a bundle and check it against its manifest, file by file.

    Args:
        path: a directory, or the name of a shipped bundle.
        verify: `full` hashes every file, `size` only compares sizes.

    Raises:
        BundleError: one subclass per broken clause of FORMAT.md; the message names it.
    """
    try:
        root = locate(path).resolve()
        return _open(root, f"bundle {root.name}/", verify)
    except OSError as error:
        raise BundleError(
            f"bundle {str(path)!r}: cannot be read: {error.strerror or error}",
            code="bundle-unreadable",
        ) from error


def _open(root: Path, label: str, verify: Literal["full", "size"]) -> Bundle:
    sizes = _listing(root, label)
    if MANIFEST_FILE not in sizes:
        raise BundleError(
            f"{label}: has no {MANIFEST_FILE}; is this a bundle?", code="file-missing"
        )
    if sizes[MANIFEST_FILE] > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{label}: {MANIFEST_FILE} has {sizes[MANIFEST_FILE]} bytes, "
            f"the cap is {MAX_MANIFEST_BYTES}",
            code="file-too-large",
        )
    try:
        manifest = decode((root / MANIFEST_FILE).read_bytes())
    except BundleError as error:
        raise error.within(label) from None
    for name in sizes:
        if name != MANIFEST_FILE and name not in manifest.files:
            raise BundleError(
                f"{label}: {shown(name)} is not listed in {MANIFEST_FILE}; remove it",
                code="file-unlisted",
            )
    for name, entry in manifest.files.items():
        if name not in sizes:
            raise BundleError(
                f"{label}: {name} is listed in {MANIFEST_FILE} and missing", code="file-missing"
            )
        if sizes[name] != entry.size:
            raise BundleError(
                f"{label}: {name} has {sizes[name]} bytes, {MANIFEST_FILE} says {entry.size}; "
                "get the bundle again",
                code="file-size",
            )
    if verify not in ("full", "size"):
        raise BundleError(
            f"{label}: verify is {verify!r}, expected 'full' or 'size'", code="argument"
        )
    if verify == "full":
        for name, entry in manifest.files.items():
            if (digest := sha256_of(root / name)) != entry.sha256:
                raise BundleError(
                    f"{label}: {name} has SHA-256 {digest[:16]}…, {MANIFEST_FILE} says "
                    f"{entry.sha256[:16]}…; it was altered, get the bundle again",
                    code="file-hash",
                )
    return Bundle(root, manifest)


def _listing(root: Path, label: str) -> dict[str, int]:
    """Name -> size in bytes of everything in a bundle; only plain files may be there."""
    sizes: dict[str, int] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            name = shown(entry.name)
            mode = entry.stat(follow_symlinks=False).st_mode
            if entry.is_symlink():
                raise BundleError(
                    f"{label}: {name} is a link; put the file itself there", code="file-is-link"
                )
            if not stat.S_ISREG(mode):
                kind = "directory" if stat.S_ISDIR(mode) else "special file"
                raise BundleError(
                    f"{label}: {name} is a {kind}; a bundle holds plain files only",
                    code="file-not-regular",
                )
            sizes[entry.name] = os.stat(entry.path, follow_symlinks=False).st_size
    return sizes


def write_bundle(
    path: str | Path,
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    *,
    overwrite: bool = False,
) -> Manifest:
    """Write a bundle in one rename: it is there complete, or not at all.

    Args:
        path: the directory to make; its parent must exist.
        manifest: complete but for `files`, `state_hash` and `bundle_id`.
        files: every other file of the bundle, as bytes or as a file to copy.
        overwrite: replace a bundle that stands at `path`, never anything else: not a directory
            whose manifest.json is none of this format, nor one that holds anything unlisted.

    Returns:
        The sealed manifest, as written.

    Raises:
        BundleExistsError: something stands at `path` that is not to be replaced; it is untouched.
        BundleError: the manifest breaks the format, or the disk refused.
    """
    target = Path(path)
    check_target(target, overwrite)
    for name in files:
        check_name(name)
    work = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        os.mkdir(work)
        sealed = _fill(work, manifest, files)
        _swap(work, target)
    except OSError as error:
        raise BundleError(
            f"bundle {target.name}/: cannot be written: {error}", code="bundle-unwritable"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return sealed


def check_target(target: Path, overwrite: bool) -> None:
    """Check that a bundle may be written here, before any work is done for it.

    Raises:
        BundleExistsError: something stands there that is not to be replaced.
        BundleError: the folder it would stand in is missing.
    """
    if not target.absolute().parent.is_dir():
        raise BundleError(
            f"{target}: there is no folder {target.parent} to write it in; make it",
            code="bundle-unwritable",
        )
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise BundleExistsError(f"{target} exists; give another path, or overwrite (--overwrite)")
    reason = _why_no_bundle(target)
    if reason is not None:
        raise BundleExistsError(
            f"{target} is not a bundle: {reason}; it was left as it is, give another path"
        )


def _why_no_bundle(target: Path) -> str | None:
    """Say why replacing `target` might cost more than a bundle, or None if it would not."""
    if target.is_symlink():
        return "it is a link"
    if not target.is_dir():
        return "it is no directory"
    try:
        held = _listing(target, f"bundle {target.name}/")
        if MANIFEST_FILE not in held:
            return f"it has no {MANIFEST_FILE}"
        if held[MANIFEST_FILE] > MAX_MANIFEST_BYTES:
            return f"its {MANIFEST_FILE} has more than {MAX_MANIFEST_BYTES} bytes"
        listed = claimed_files((target / MANIFEST_FILE).read_bytes())
    except BundleError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if listed is None:
        return f"its {MANIFEST_FILE} does not say that its format is {FORMAT!r}"
    unlisted = sorted(held.keys() - listed - {MANIFEST_FILE})
    return (
        f"it holds {shown(unlisted[0])}, which its {MANIFEST_FILE} does not list"
        if unlisted
        else None
    )


def _fill(work: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Manifest:
    entries: dict[str, FileEntry] = {}
    for name, content in sorted(files.items()):
        if isinstance(content, bytes):
            write_synced(work / name, [content])
        else:
            copy_synced(content, work / name)
        size = (work / name).stat().st_size
        entries[name] = FileEntry(sha256=sha256_of(work / name), size=size)
    sealed = seal(msgspec.structs.replace(manifest, files=entries))
    data = encode(sealed)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST_FILE} has {len(data)} bytes; cap {MAX_MANIFEST_BYTES}",
            code="manifest-invalid",
        )
    write_synced(work / MANIFEST_FILE, [data])
    sync_directory(work)
    return sealed


def _swap(work: Path, target: Path) -> None:
    """Rename `work` to `target`; a bundle that stands there goes, or comes back on failure."""
    old = work.with_suffix(_OLD)
    try:
        if os.path.lexists(target):
            os.rename(target, old)
        os.rename(work, target)
    except BaseException:  # an interrupt too, after either of the two
        if os.path.lexists(target):
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            os.rename(old, target)
        raise
    try:
        sync_directory(target.resolve().parent)
    except OSError as error:
        kept = f"; the one before is kept as {old.name}" if old.exists() else ""
        raise BundleError(
            f"bundle {target.name}/: is in place, but its directory cannot be synced: "
            f"{error.strerror or error}; a loss of power may undo this{kept}",
            code="not-synced",
        ) from error
    shutil.rmtree(old, ignore_errors=True)
