"""Write the seeds of the native fuzzers to a folder: `python tests/conformance/seeds.py FOLDER`."""

import shutil
import sys
from pathlib import Path

SUITE = Path(__file__).resolve().parent


def main(folder: Path) -> None:
    """Fill `manifest`, `state` and `bundle` below the folder."""
    for name in ("manifest", "state", "bundle"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for bundle in (SUITE / "bundles").iterdir():
        manifest = (bundle / "manifest.json").read_bytes()
        init = bundle / "init.safetensors"
        tensors = init.read_bytes() if init.exists() else b""
        (folder / "manifest" / bundle.name).write_bytes(manifest)
        parts = len(manifest).to_bytes(2, "little") + manifest + tensors
        (folder / "bundle" / bundle.name).write_bytes(parts)
    for state in (SUITE / "states/python").iterdir():
        shutil.copyfile(state, folder / "state" / state.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
