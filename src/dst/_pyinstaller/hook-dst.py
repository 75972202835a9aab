"""What PyInstaller packs with `import dst`: the shipped bundles, so that their names work."""

from PyInstaller.utils.hooks import collect_data_files

datas = collect_data_files("dst", includes=["shipped/**", "runtime/FORMAT.md"])
