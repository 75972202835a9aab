"""Rewrite a bundle of format 1 as format 2.

Format 1 stored in the manifest what the shapes say too (`batch_axis`, `time_axis`, `per`) and every
field at its default. All other files stay as they are, byte for byte, and so do `model_id` and
`state_hash`: a state that was saved before goes on after.
"""

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from dst.runtime import BundleError, open_bundle, replay_golden, write_bundle
from dst.runtime.bundle.encoding import check_bytes
from dst.runtime.bundle.manifest import FORMAT, FORMAT_VERSION, Manifest
from dst.runtime.bundle.reader import Bundle, open_with
from dst.runtime.bundle.validation import check_contract
from dst.runtime.bundle.writer import check_target
from dst.runtime.errors import BundleExistsError, shown
from dst.runtime.golden import GoldenCheck, golden_runs

_LATER = {"lookahead": 0, "causal": True}  # fields of the chunk that format 1 left out as well


def upgrade_bundle(old: str | Path, new: str | Path) -> tuple[Bundle, list[GoldenCheck]]:
    """Write a bundle of format 1 anew in the present format.

    Args:
        old: the bundle to read; it is not touched.
        new: the directory to make; nothing may stand there.

    Returns:
        The new bundle, and how its golden runs were replayed here; none where it has none.

    Raises:
        BundleError: `old` is damaged, with the code of the broken rule; `format-version`: it is of
            another format than 1; `golden-failed`: a golden run is not reproduced on this machine.
        BundleExistsError: something stands at `new`.
        SessionError: a graph cannot be run here.
    """
    if os.path.lexists(new):
        raise BundleExistsError(f"{new} exists, and an upgrade replaces nothing; give another path")
    check_target(Path(new), overwrite=False)
    before = open_with(decode_format_1, old)
    held = before.manifest
    proved = tuple(graph for graph in held.graphs if golden_runs(held, graph))
    checks = replay_golden(Bundle(before.root, replace(held, graphs=proved))) if proved else []
    for check in checks:
        if not check.passed:
            raise BundleError(
                f"{before.label}: {check.graph} does not reproduce its golden run of T = {check.t} "
                f"here: off by {max(check.errors.values()):.1e}, allowed {check.tolerance:.1e}; "
                "nothing was written",
                code="golden-failed",
            )
    manifest = replace(held, format_version=FORMAT_VERSION, upgraded_from=held.bundle_id)
    write_bundle(new, manifest, {name: before.root / name for name in held.files})
    return open_bundle(new), checks


def decode_format_1(data: bytes) -> Manifest:
    """Read the bytes of a manifest.json of format 1, and check them as strictly as format 2's.

    Raises:
        BundleError: as `dst.runtime.bundle.manifest.decode`.
    """
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        if (fields.get("format"), fields.get("format_version")) != (FORMAT, 1):
            raise BundleError(
                f"manifest.json: format {fields.get('format')!r} version "
                f"{fields.get('format_version')!r}, expected {FORMAT!r} version 1; a bundle of "
                f"version {FORMAT_VERSION} needs no upgrade",
                code="format-version",
            )
        contract = fields["contract"]
        for part, names in [
            (contract["chunk"], ("batch_axis", "time_axis")),
            *((output, ("per", "time_axis")) for output in contract["outputs"]),
            *((state, ("batch_axis",)) for state in contract["state"]),
        ]:
            for name in names:
                del part[name]
        manifest = msgspec.convert(fields, Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"manifest.json: {shown(error)}", code="manifest-invalid") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"manifest.json: a field of format 1 is missing: {shown(error)}",
            code="manifest-invalid",
        ) from None
    check_contract(manifest.contract)
    check_bytes(data, manifest, _fields(manifest))
    return manifest


def _fields(manifest: Manifest) -> dict[str, object]:
    """Return a manifest as the JSON values of format 1."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    del fields["upgraded_from"]
    contract, held = fields["contract"], manifest.contract
    chunk = contract["chunk"] | {
        "batch_axis": held.chunk.batch_axis,
        "time_axis": held.chunk.time_axis,
    }
    contract["chunk"] = {k: v for k, v in chunk.items() if k not in _LATER or v != _LATER[k]}
    if not held.stream_inputs:
        del contract["stream_inputs"]
    for graph in fields["graphs"]:  # no graph of format 1 had the input that `answers` names
        if graph["answers"] is None:
            del graph["answers"]
    for part, output in zip(contract["outputs"], held.outputs, strict=True):
        part |= {"per": output.per, "time_axis": output.time_axis}
    for part, state in zip(contract["state"], held.state, strict=True):
        part["batch_axis"] = state.batch_axis
    return fields
