"""Open a bundle: find its directory, check every file, and read its tensors."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

import dst
from dst.runtime.bundle.encoding import decode
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Manifest, Stored
from dst.runtime.bundle.validation import INIT_FILE, MANIFEST_FILE
from dst.runtime.errors import BundleError, BundleNotFoundError, shown
from dst.runtime.files import sha256_of

MAX_MANIFEST_BYTES = 1 << 24
REPLACED = ".old"
"""What the hidden name of a bundle ends in while another takes its place."""

Array = npt.NDArray[np.generic]


class Bundle(msgspec.Struct, frozen=True):
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
            BundleError: `tensors-unreadable`: it is not a safetensors file.
        """
        import safetensors.numpy

        entry = self.manifest.files.get(name)
        if entry is None:
            raise self._fault(f"has no {name}", code="file-missing")
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(entry.size + 1)
        except OSError as error:
            raise self._fault(f"{name}: {error.strerror}", code="file-missing") from None
        if len(data) != entry.size:
            raise self._fault(f"{name} changed while it was open", code="file-size")
        try:
            return safetensors.numpy.load(data)
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            why = f"{name} is no safetensors file: {shown(error)}"
            raise self._fault(why, code="tensors-unreadable") from None

    def _fault(self, what: str, *, code: str) -> BundleError:
        return BundleError(f"{self.label}: {what}", code=code)

    def init_tensors(self) -> dict[str, Array]:
        """Read the stored initial tensors by the name of the state input, each with B = 1.

        Raises:
            BundleError: `init-tensors`: one is missing, or has another dtype or shape than the
                contract.
        """
        found: dict[str, Array] = {}
        stored = [(s, s.init) for s in self.manifest.contract.state if isinstance(s.init, Stored)]
        held = self.tensors(INIT_FILE) if stored else {}
        for state, init in stored:
            shape = sized(state.shape, 0)
            value = held.get(init.tensor)
            if value is None:
                raise self._fault(
                    f"{INIT_FILE} has no tensor {init.tensor!r}, which state `{state.input}` "
                    "starts from",
                    code="init-tensors",
                )
            if value.shape != shape or value.dtype != np.dtype(state.dtype):
                raise self._fault(
                    f"{INIT_FILE} tensor {init.tensor!r} is {value.dtype} {list(value.shape)}, "
                    f"state `{state.input}` is {state.dtype} {list(shape)}",
                    code="init-tensors",
                )
            found[state.input] = value
        return found


def shipped() -> dict[str, Path]:
    """Return the directories of the bundles that come with the package, by name.

    Examples:
        >>> list(shipped())
        ['feed', 'feed-int8', 'log', 'log-int8', 'text', 'text-int4', 'text-int8']
    """
    folder = Path(dst.__file__).parent / "shipped"
    if not folder.is_dir():
        return {}
    return {p.name: p for p in sorted(folder.iterdir()) if (p / MANIFEST_FILE).is_file()}


def locate(path: str | Path) -> Path:
    """Find a bundle's directory: an existing path, or else the name of a shipped bundle.

    Raises:
        BundleNotFoundError: neither; the message lists the shipped names.

    Examples:
        >>> locate("text").name
        'text'
    """
    given = Path(path)
    if given.is_dir():
        return given
    ours = shipped()
    if not given.exists() and str(path) in ours:
        return ours[str(path)]
    why = "is a file, a bundle is a directory" if given.exists() else "no such directory"
    names = f"shipped bundles: {', '.join(ours)}" if ours else _not_packed()
    import glob

    hidden = f".{glob.escape(given.name)}.*{REPLACED}"
    kept = sorted(given.parent.glob(hidden)) if given.name else []
    if kept:  # a process was killed between the two renames of `write_bundle`
        there = f"the bundle that stood there is kept as {kept[-1].name}"
        why += f"; {there}, rename it to have it back"
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
        BundleError: a rule of FORMAT.md is broken; `code` says which, the message where.

    Examples:
        >>> bundle = open_bundle("text", verify="size")
        >>> bundle.label, [graph.file for graph in bundle.manifest.graphs]
        ('bundle text/', ['step.onnx', 'any_t1.onnx', 'step_t32.onnx', 'step_t1.onnx'])
    """
    return open_with(decode, path, verify)


def open_with(
    read: Callable[[bytes], Manifest], path: str | Path, verify: Literal["full", "size"] = "full"
) -> Bundle:
    """Open a bundle as `open_bundle` does, with another reader of manifest.json."""
    try:
        root = locate(path).resolve()
        try:
            return Bundle(root, _checked(read, root, verify))
        except BundleError as error:
            raise error.within(f"bundle {root.name}/") from None
    except OSError as error:
        raise BundleError(
            f"bundle {str(path)!r}: cannot be read: {error.strerror or error}",
            code="bundle-unreadable",
        ) from error


def _checked(
    read: Callable[[bytes], Manifest], root: Path, verify: Literal["full", "size"]
) -> Manifest:
    sizes = listing(root)
    if MANIFEST_FILE not in sizes:
        raise BundleError(f"has no {MANIFEST_FILE}; is this a bundle?", code="file-missing")
    if (size := sizes.pop(MANIFEST_FILE)) > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{MANIFEST_FILE} has {size} bytes, the cap is {MAX_MANIFEST_BYTES}",
            code="file-too-large",
        )
    manifest = read((root / MANIFEST_FILE).read_bytes())
    for name in sizes:
        if name not in manifest.files:
            raise BundleError(
                f"{shown(name)} is not listed in {MANIFEST_FILE}; remove it", code="file-unlisted"
            )
    for name, entry in manifest.files.items():
        if name not in sizes:
            raise BundleError(
                f"{name} is listed in {MANIFEST_FILE} and missing", code="file-missing"
            )
        if sizes[name] != entry.size:
            raise BundleError(
                f"{name} has {sizes[name]} bytes, {MANIFEST_FILE} says {entry.size}; "
                "get the bundle again",
                code="file-size",
            )
    if verify not in ("full", "size"):
        raise BundleError(f"verify is {verify!r}, expected 'full' or 'size'", code="argument")
    if verify == "full":
        for name, entry in manifest.files.items():
            if (digest := sha256_of(root / name)) != entry.sha256:
                raise BundleError(
                    f"{name} has SHA-256 {digest[:16]}…, {MANIFEST_FILE} says "
                    f"{entry.sha256[:16]}…; it was altered, get the bundle again",
                    code="file-hash",
                )
    return manifest


def listing(root: Path) -> dict[str, int]:
    """Return the size in bytes of everything in a bundle's directory, by name.

    Raises:
        BundleError: `file-is-link`, `file-not-regular`: something there is no plain file.
    """
    sizes: dict[str, int] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            name = shown(entry.name)
            told = entry.stat(follow_symlinks=False)
            if entry.is_symlink():
                why = f"{name} is a link; put the file itself there"
                raise BundleError(why, code="file-is-link")
            if not stat.S_ISREG(told.st_mode):
                kind = "directory" if stat.S_ISDIR(told.st_mode) else "special file"
                why = f"{name} is a {kind}; a bundle holds plain files only"
                raise BundleError(why, code="file-not-regular")
            sizes[entry.name] = os.stat(entry.path, follow_symlinks=False).st_size
    return sizes
