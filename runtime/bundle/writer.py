"""Write a bundle in one rename, so that it is there complete or not at all."""

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dst.runtime.bundle.encoding import claimed_files, encode, seal
from dst.runtime.bundle.manifest import FORMAT, FileEntry, Manifest
from dst.runtime.bundle.reader import MAX_MANIFEST_BYTES, REPLACED, listing
from dst.runtime.bundle.validation import MANIFEST_FILE, check_name
from dst.runtime.errors import BundleError, BundleExistsError, shown
from dst.runtime.files import copy_synced, sha256_of, sync_directory, write_synced


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

    Examples:
        >>> import tempfile
        >>> from dst.runtime import open_bundle
        >>> bundle = open_bundle("text-int4", verify="size")
        >>> files = {name: bundle.root / name for name in bundle.manifest.files}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sealed = write_bundle(f"{folder}/copy", bundle.manifest, files)
        >>> sealed == bundle.manifest
        True
    """
    target = Path(path)
    check_target(target, overwrite)
    for name, content in files.items():
        check_name(name)
        if not isinstance(content, bytes | str | os.PathLike):  # `open` takes a number for a handle
            raise BundleError(
                f"bundle {target.name}/: {name} is a {type(content).__name__}; expected bytes, or "
                "the path of a file to copy",
                code="argument",
            )
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
        BundleError: `bundle-unwritable`: the folder it would stand in is missing, or is a bundle.
    """
    folder = target.absolute().parent
    why = ""
    if not folder.is_dir():
        why = f"there is no folder {target.parent} to write it in; make it"
    elif (folder / MANIFEST_FILE).is_file():
        why = f"the folder {folder} is a bundle, which may hold no other one; "
        why += "give a path outside of it"
    if why:
        raise BundleError(f"{target}: {why}", code="bundle-unwritable")
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
        held = listing(target)
        if MANIFEST_FILE not in held:
            return f"it has no {MANIFEST_FILE}"
        if held[MANIFEST_FILE] > MAX_MANIFEST_BYTES:
            return f"its {MANIFEST_FILE} has more than {MAX_MANIFEST_BYTES} bytes"
        listed = claimed_files((target / MANIFEST_FILE).read_bytes())
    except BundleError as error:
        return f"bundle {target.name}/: {error}"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if listed is None:
        return f"its {MANIFEST_FILE} does not say that its format is {FORMAT!r}"
    unlisted = sorted(held.keys() - listed - {MANIFEST_FILE})
    if unlisted:
        return f"it holds {shown(unlisted[0])}, which its {MANIFEST_FILE} does not list"
    return None


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
    old = work.with_suffix(REPLACED)
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
