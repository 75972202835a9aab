"""`optimum-cli dst …` and `optimum-cli export dst …` go in, a call of the `dst` program comes out.

Words are handed on as they stand: the options, the messages and the exit codes are those of `dst`.
"""

import argparse
import sys

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo


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
        from dst.command.app import call

        sys.exit(call([*self.VERB, *self.args.words]))


class ExportDstCommand(DstCommand):
    """`optimum-cli export dst …` is `dst export …`."""

    COMMAND = CommandInfo(name="dst", help="Export a DST network to a bundle, with proof.")
    VERB = ("export",)
