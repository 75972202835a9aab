"""Judge the recall model: `python examples/evaluate/recall --help`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # the conversations are those of the training
    sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "train"))
    import_module("judge").main()
