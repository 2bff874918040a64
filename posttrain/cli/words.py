"""Reads the words of a command. Overrides are bare `path=value`, so that they can never be taken for an option."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from posttrain.schema.errors import UsageError, nearest

OUT = Path("runs")


class Words(argparse.ArgumentParser):
    """The words one command understands. A mistake raises UsageError; `--help` prints and leaves with 0."""

    def __init__(self, command: str, description: str):
        super().__init__(f"posttrain {command}", description=description, allow_abbrev=False)
        self.add_argument("--json", action="store_true", help="answer in JSON on stdout, errors too")
        self.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
        self.add_argument("-v", "--verbose", action="store_true", help="say more, tracebacks too")

    def with_out(self) -> "Words":
        self.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="where runs are kept (default: runs)")
        return self

    def with_overrides(self) -> "Words":
        self.add_argument("words", nargs="*", metavar="path=value", help="change the recipe: sft.learning_rate=1e-4")
        return self

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of a command's options; everything it does not know is one UsageError."""
        found, unknown = self.parse_known_intermixed_args(list(words))
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            hint = nearest(unknown[0], known)
            raise UsageError(f"`{self.prog}` has no option {unknown[0]!r}. {hint} Settings are written `name=value`.")
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}. See `{self.prog} --help`.")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and overrides, told apart by the `=` of the latter."""
    return [word for word in words if "=" not in word], [word for word in words if "=" in word]
