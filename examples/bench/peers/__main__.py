"""Compare the speed of our runtime with other engines: `python examples/bench/peers --help`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # started by its folder: look for modules at the root, not among the files of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[3])
    import_module("examples.bench.peers.command").main()
