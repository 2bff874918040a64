"""Every error a user can meet, as one tree. A message says what is wrong, shows the value, and ends with the cure.

PosttrainError                exit 1   something failed while running
├── UsageError                exit 2   what was asked for cannot be run; nothing was started
│   ├── RecipeError           all problems of a recipe at once, each with its line
│   ├── DataError             rows that cannot be read: `file:line: what is wrong`
│   └── ModelError            a folder that is no model, or a model that the stage cannot take
├── GateFailed                exit 3   the run finished; a limit in the recipe does not hold
├── MachineError              exit 4   this machine lacks something
│   ├── MissingExtra          an optional package, with the line that installs it
│   └── DiskFull              no room for the next artifact or checkpoint
├── Diverged                           the loss or its gradient is not finite
├── Damaged                            an artifact is not what its manifest says
└── Stopped                   exit 130 (Ctrl-C) or 143 (terminated); a checkpoint was saved
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class PosttrainError(Exception):
    """Something the user should read. `kind` names it for programs, `exit_code` for shells."""

    kind = "failed"
    exit_code = 1


class UsageError(PosttrainError):
    kind = "usage"
    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe or a set of options."""

    message: str
    line: int | None = None
    where: str = ""

    def __str__(self) -> str:
        place = (
            f"{self.where}:{self.line}"
            if self.where and self.line
            else self.where or (f"line {self.line}" if self.line else "")
        )
        return f"{place}: {self.message}" if place else self.message


class RecipeError(UsageError):
    """A recipe that cannot be run as written. Carries every problem found, not only the first."""

    kind = "recipe"

    def __init__(self, problems: Iterable[Problem | str]):
        self.problems = tuple(Problem(p) if isinstance(p, str) else p for p in problems)
        super().__init__("\n".join(map(str, self.problems)))


class DataError(UsageError):
    kind = "data"


class ModelError(UsageError):
    kind = "model"


class GateFailed(PosttrainError):
    kind = "gate"
    exit_code = 3


class MachineError(PosttrainError):
    kind = "machine"
    exit_code = 4


class MissingExtra(MachineError):
    """An optional package is not installed.

    >>> str(MissingExtra("llama_cpp", "gguf", "Writing k-quants"))
    "Writing k-quants needs the package 'llama_cpp'. Install it with: pip install 'posttrain[gguf]'"
    """

    kind = "missing-extra"

    def __init__(self, package: str, extra: str, what: str):
        super().__init__(f"{what} needs the package {package!r}. Install it with: pip install 'posttrain[{extra}]'")


class DiskFull(MachineError):
    kind = "disk-full"


class Diverged(PosttrainError):
    kind = "diverged"


class Damaged(PosttrainError):
    kind = "damaged"


class Stopped(PosttrainError):
    """The run was asked to stop and did, after saving a checkpoint. `signal` is the number of the signal received."""

    kind = "stopped"

    def __init__(self, message: str, signal: int = 2):
        super().__init__(message)
        self.exit_code = 128 + signal


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that ends an error about an unknown name: the near name, else all of them.

    >>> nearest("bta", ["beta", "data"])
    "Did you mean 'beta'?"
    """
    known = sorted(words)
    close = difflib.get_close_matches(str(word), known, 1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"There are: {', '.join(known)}." if known else "There are none."
