"""Register the commands of dst with `optimum-cli`.

optimum reads every module of the namespace `optimum.commands.register`, to which each distribution
adds its own. Here stand no `__init__.py` and nothing heavy: every call of `optimum-cli` loads this.
"""

from contextlib import suppress

from optimum.commands.export.base import ExportCommand

from dst.cli.optimum_cli import DstCommand, ExportDstCommand, take_networks

with suppress(ModuleNotFoundError):  # it comes with optimum-onnx
    from optimum.commands.export.onnx import ONNXExportCommand

    take_networks(ONNXExportCommand)

REGISTER_COMMANDS = [DstCommand, (ExportDstCommand, ExportCommand)]
