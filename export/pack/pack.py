"""Write what a platform needs beside a bundle into one folder, and check all of it.

Every target gets the bundle in its place, its sizes and a page of steps. Devices also get its
graphs in ONNX Runtime's own form with the list of their operators, and phones a report of what
their providers would take. The web gets a page that opens it, Triton a model repository.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import onnxruntime as ort

from dst.export.errors import ExportError
from dst.export.pack import pages, web
from dst.export.pack.packed import TARGETS, Packed, Target, told
from dst.export.pack.reduced import static_graphs, write_reduced
from dst.export.pack.triton import TritonModel, write_repository
from dst.export.pack.usability import Usability, usability
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.bundle.reader import Bundle, open_bundle
from dst.runtime.bundle.validation import MANIFEST_FILE
from dst.runtime.bundle.writer import check_target
from dst.runtime.errors import BundleExistsError
from dst.runtime.execution.memory import predict
from dst.runtime.files import copy_synced
from dst.runtime.golden import GoldenCheck, replay_golden

PLACES: dict[Target, str] = {
    "android": "app/src/main/assets/bundle",
    "ios": "Resources/bundle",
    "desktop": "bundle",
    "web": "bundle",
}
"""Where the bundle stands in the folder; Triton has models in its place."""
_REDUCED: dict[Target, Literal["arm"] | None] = {
    "android": "arm",
    "ios": "arm",
    "desktop": None,
}
"""The targets that may have an ONNX Runtime of their own, and what its converter may assume."""
Progress = Callable[[str, float], None]


def pack_bundle(
    bundle: str | Path, target: Target, path: str | Path, progress: Progress | None = None
) -> Packed:
    """Write what a platform needs beside a bundle into a new folder.

    Args:
        bundle: a directory, or the name of a shipped bundle.
        target: one of `TARGETS`.
        path: the folder to make; its parent must exist.
        progress: is called with what is being done and the share that is done.

    Returns:
        What was written. Its `checks` say whether the new graphs do what the old ones did; the
        folder is there either way.

    Raises:
        BundleError: the bundle is damaged, something stands at `path`, or the disk refused.
        ExportError: `pack-target`: there is no such target.
        SessionError: a graph cannot be run here.

    Examples:
        >>> packed = pack_bundle("feed", "triton", "served")
        >>> [model.name for model in packed.models]
        ['feed']
    """
    if target not in TARGETS:
        raise ExportError(
            f"pack: target {target!r}, expected one of {', '.join(TARGETS)}", code="pack-target"
        )
    tell = progress or (lambda what, share: None)
    to = Path(path)
    if os.path.lexists(to):
        raise BundleExistsError(f"{to} exists, and nothing is replaced; give another path")
    check_target(to, overwrite=False)
    opened = open_bundle(bundle)
    work = to.absolute().with_name(f".{to.name}.{uuid.uuid4().hex}")
    try:
        work.mkdir()
        packed = _fill(opened, target, work, tell)
        os.rename(work, to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return packed


def _fill(bundle: Bundle, target: Target, to: Path, tell: Progress) -> Packed:
    manifest = bundle.manifest
    static = static_graphs(manifest)
    providers: list[Usability] = []
    models: list[TritonModel] = []
    checks: list[GoldenCheck] = []
    notes = list(_notes(manifest, target))
    if target == "triton":
        tell("write the models", 0.2)
        (to / "models").mkdir()
        models = write_repository(bundle, to / "models")
    else:
        tell("copy the bundle", 0.1)
        _copy(bundle, to / PLACES[target])
    if target in ("android", "ios"):
        for number, graph in enumerate(static):
            tell(f"ask for the nodes of {graph.file}", 0.2 + 0.3 * number / len(static))
            providers += usability(bundle.root / graph.file)
        (to / "providers.txt").write_text(pages.providers(providers, notes), "utf-8")
        (to / "providers.json").write_bytes(_json(providers))
    if target in _REDUCED:
        tell("convert the graphs", 0.5)
        (to / "reduced").mkdir()
        made = write_reduced(bundle, to / "reduced", _REDUCED[target])
        tell("replay the golden runs", 0.8)
        if made.manifest.golden:
            checks = replay_golden(made)
        else:
            notes.append("the bundle has no golden run, so its new graphs were not checked")
    if target == "desktop":
        (to / "CMakeLists.txt").write_text(pages.CMAKE, "utf-8")
        (to / "main.c").write_text(pages.MAIN_C, "utf-8")
    if target == "web":
        (to / "index.html").write_text(web.page(manifest), "utf-8")
    t = manifest.contract.chunk.nominal_t
    sizes = {
        file.relative_to(to).as_posix(): file.stat().st_size
        for file in sorted(to.rglob("*"))
        if file.is_file()
    }
    packed = Packed(
        target=target,
        bundle=manifest.name,
        bundle_id=manifest.bundle_id,
        onnxruntime=ort.__version__,
        sizes=sizes,
        memory=predict(manifest, 1, 1, [t]),
        providers=tuple(providers),
        models=tuple(models),
        checks=tuple(checks),
        notes=tuple(notes),
    )
    (to / "README.md").write_text(pages.readme(packed, manifest), "utf-8")
    (to / "pack.json").write_bytes(_json(told(packed)))
    return packed


def _notes(manifest: Manifest, target: Target) -> list[str]:
    """Say what a bundle lacks for a target."""
    if target in ("android", "ios") and not static_graphs(manifest):
        return [
            f"{manifest.name} has no portable graph with fixed shapes, so NNAPI, Core ML and "
            "XNNPACK can take nothing of it: it runs on the CPU. `dst export` writes such graphs "
            "of a DST network (in Python: export_bundle(..., portable_t=[1, 32]))"
        ]
    return []


def _copy(bundle: Bundle, to: Path) -> None:
    to.mkdir(parents=True)
    for name in (MANIFEST_FILE, *bundle.manifest.files):
        copy_synced(bundle.root / name, to / name)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
