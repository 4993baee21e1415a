"""The command lines: how a wrong one is reported, and options that several commands share, worded once."""

from __future__ import annotations

import argparse
from typing import NoReturn

from export.errors import ExportError


class ArgumentParser(argparse.ArgumentParser):
    """Reports a wrong command line as all other bad input is reported: one line on stderr, exit code 2."""

    def __init__(self, *, prog: str, description: str | None):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, formatter_class=formatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ExportError(f"{message} (see {self.prog} --help)")


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a checkpoint that is not complete finds its other parts: the last three parameters of `open_checkpoint`."""
    parser.add_argument("--clip", metavar="PATH", help="CLIP weights, if the checkpoint has none or others are wanted")
    parser.add_argument("--videomamba", metavar="PATH", help="VideoMamba weights, likewise")
    parser.add_argument("--base", metavar="PATH", help="the Qwen2.5 base of a LoRA fine-tune")
