"""Write a horizon report into the bundle that it judges."""

from pathlib import Path

import msgspec

from dst.evaluate.quality.report import Report, quality_of
from dst.runtime import BundleError, open_bundle, write_bundle
from dst.runtime.bundle.manifest import Manifest

REPORT_FILE = "report.json"


def attach(path: str | Path, made: Report) -> Manifest:
    """Write a bundle anew, in one rename, with its report: in the manifest and as report.json.

    The report names the bundle as it was measured: the `bundle_id` changes by attaching it.

    Args:
        path: the directory of the quantized bundle that was measured.
        made: its report.

    Raises:
        BundleError: the bundle is broken, is not the one that was measured, or cannot be written.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.bundle_id != made.quantized.bundle_id:
        raise BundleError(
            f"{bundle.label}: is not the bundle of the report: expected bundle_id "
            f"{made.quantized.bundle_id[:16]}…, it is {manifest.bundle_id[:16]}…; measure it anew",
            code="other-bundle",
        )
    files: dict[str, bytes | Path] = {name: bundle.root / name for name in manifest.files}
    files[REPORT_FILE] = to_json(made)
    with_quality = msgspec.structs.replace(manifest, quality=quality_of(made))
    return write_bundle(bundle.root, with_quality, files, overwrite=True)


def to_json(made: Report) -> bytes:
    """Return a report as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"
