"""Tell PyInstaller what a frozen app needs of this package; it finds this by its entry point."""

from pathlib import Path


def hook_folders() -> list[str]:
    """Return the folders that hold hooks."""
    return [str(Path(__file__).parent)]
