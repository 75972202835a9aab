"""Quantize the shipped text model again and give its shipped forms the golden runs of that.

    python examples/train/golden.py

Graphs and weights must come out byte for byte as they are shipped, so that the horizon report that
a bundle carries goes on telling of it. Where they do not, quantize and report anew instead
(docs/quantization.md).
"""

import tempfile
from importlib.resources import files
from pathlib import Path

from msgspec.structs import replace

from dst.quantize import quantize_bundle
from dst.quantize.verify import GOLDEN_FILE
from dst.runtime import open_bundle, write_bundle

RECIPES = {"text-int8": "int8-rows", "text-int4": "int4-rows"}


def main() -> None:
    for name, recipe in RECIPES.items():
        root = Path(str(files("dst").joinpath("shipped", name)))
        shipped = open_bundle(root)
        with tempfile.TemporaryDirectory() as folder:
            made = quantize_bundle("text", Path(folder) / "made", recipe).bundle
            before, after = shipped.manifest, made.manifest
            other = [
                file
                for file, entry in before.files.items()
                if file in after.files and file != GOLDEN_FILE and after.files[file] != entry
            ]
            if other:
                raise SystemExit(f"{name}: {', '.join(other)} came out otherwise; report anew")
            contents: dict[str, bytes | Path] = {file: root / file for file in before.files}
            contents[GOLDEN_FILE] = made.root / GOLDEN_FILE
            manifest = replace(before, golden=after.golden, graphs=after.graphs)
            written = write_bundle(root, manifest, contents, overwrite=True)
        print(f"{name}: {written.bundle_id}, allowed {written.graphs[0].golden_tolerance}")


if __name__ == "__main__":
    main()
