"""What PyInstaller packs with the command: its verbs, which are imported by name when called."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("dst.cli.verbs")
