"""Lead commands of `optimum-cli` to `dst`: `dst`, `export dst`, and `export onnx` of a DST network.

Words are handed on as they stand: the options, the messages and the exit codes are those of `dst`.
"""

import argparse
import sys
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

BUNDLE, GRAPH = "bundle", "model.onnx"
TASKS = ("auto", "text-generation", "text-generation-with-past")
TAKEN = ("model", "output", "task", "model_kwargs", "cache_dir", "library_name")
"""Options of `optimum-cli export onnx` that mean something for a DST network, or do no harm."""


class DstCommand(BaseOptimumCLICommand):
    """`optimum-cli dst VERB …` is `dst VERB …`."""

    COMMAND = CommandInfo(
        name="dst",
        help="Make, quantize, check and run stateful models that read endless input (dst-edge).",
    )
    VERB: tuple[str, ...] = ()

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Leave every word, `--help` included, to `dst`."""
        parser.prefix_chars = "\0"  # no word is an option of this parser
        parser.add_argument("words", nargs=argparse.REMAINDER)

    def run(self) -> None:
        """Run `dst` with the words of this command line, and end the process."""
        from dst.cli.app import call

        sys.exit(call([*self.VERB, *self.args.words]))


class ExportDstCommand(DstCommand):
    """`optimum-cli export dst …` is `dst export …`."""

    COMMAND = CommandInfo(name="dst", help="Export a DST network to a bundle, with proof.")
    VERB = ("export",)


def take_networks(command: type[BaseOptimumCLICommand]) -> None:
    """Let `optimum-cli export onnx` export a DST network by `dst export`; all else is as before.

    optimum's own exporter traces with TorchScript, which cannot leave T free.
    """
    theirs = command.run

    def run(self: BaseOptimumCLICommand) -> None:
        from dst.cli.inputs.user_module import is_network

        if is_network(Path(self.args.model)):
            from dst.cli.errors import guarded

            sys.exit(guarded(lambda: _export(self.args, self.parser)))
        theirs(self)

    command.run = run


def _export(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Write the bundle, and the graph beside it that reads the bundle's weights."""
    from dst.cli.app import call
    from dst.cli.errors import WrongUseError, needing

    given = [n for n, v in vars(args).items() if n not in TAKEN and v != parser.get_default(n)]
    if given or args.task not in TASKS:
        raise WrongUseError(
            f"{args.model} is a DST network, which is exported with its state, in float32, with B "
            f"and T free; leave out --{(given or ['task'])[0].replace('_', '-')}. Options of "
            "dst export are given by --model-kwargs '{\"certify-steps\": 100}'"
        )
    bundle, graph = args.output / BUNDLE, args.output / GRAPH
    words = [
        word
        for name, value in (args.model_kwargs or {}).items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    args.output.mkdir(parents=True, exist_ok=True)
    name = Path(args.model).resolve().name
    code = call(
        ["export", "--name", name, *words, "--from-hf", str(args.model), "--out", str(bundle)]
    )
    if code:
        return code
    with needing("export onnx", "export"):
        import onnx

        from dst.cli.output import replace_file
        from dst.graphs.strip import answering_all
        from dst.runtime import open_bundle
    first = open_bundle(bundle).manifest.graphs[0]
    model = onnx.load(bundle / first.file, load_external_data=False)
    if first.answers is not None:
        answering_all(model, first.answers)  # whoever opens this file knows nothing of it
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{BUNDLE}/{entry.value}"
    replace_file(graph, model.SerializeToString(deterministic=True))
    print(f"✓ wrote {graph}, with the weights of {bundle}")
    return 0
