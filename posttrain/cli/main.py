"""From `argv` to an exit code: finds the command, runs it, and turns every error into one message.

Exit codes: 0 done, 1 failed while running, 2 usage or recipe (nothing started), 3 a gate failed, 4 the machine lacks
something, 130 or 143 stopped with a checkpoint saved. No traceback unless `-v`.
"""

import importlib
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import NamedTuple

from posttrain.schema.errors import PosttrainError, RecipeError, UsageError, nearest
from posttrain.schema.find import attacks, methods

from .terminal import Paint, Terminal

PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells expect of a program whose reader went away


class Command(NamedTuple):
    """One verb. `target` is `module:function` inside this package; the function takes (words, terminal)."""

    usage: str
    summary: str
    target: str


COMMANDS = {
    "run": Command("[RECIPE] [path=value …]", "run a recipe; the same command continues it", "running:run"),
    "plan": Command("[RECIPE] [path=value …]", "what `run` would do: kept or made, and what is wrong", "running:plan"),
    "lr-find": Command("RECIPE [STAGE] | MODEL METHOD data=…", "which learning rate suits a stage", "finding:lr_find"),
    "measure": Command("MODEL MEASURE… [path=value …]", "measure one model", "running:measure"),
    "check": Command("DATA --model M [path=value …]", "what is learnt from rows, and what is wrong", "checking:check"),
    "show": Command("[RUN | MODEL | DIGEST]", "a run, a model or an artifact", "looking:show"),
    "compare": Command("A B", "what changed from one model to another", "looking:compare"),
    "report": Command("[RUN] [-o FILE]", "the before/after report", "looking:report"),
    "export": Command("MODEL --to PROGRAM", "a model for Ollama, llama.cpp, vLLM or transformers", "exporting:export"),
    "methods": Command("[NAME]", "all methods, or one with every setting", "learning:methods"),
    "recipes": Command("", "the recipes that ship", "learning:recipes"),
    "new": Command("[RECIPE] [-o FILE]", "copy a shipped recipe, to change it", "learning:new"),
    "env": Command("", "versions, cores, memory: paste it into an issue", "learning:env"),
}
HELP = ("help", "-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    terminal = Terminal.of(words)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that `my_losses:Mine` is found from where the user stands
    try:
        code = _dispatch(words, terminal)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except KeyboardInterrupt:
        return _failed(terminal, "stopped", "Stopped. What was finished is kept: the same command continues.", 130)
    except PosttrainError as error:
        if terminal.verbose:
            terminal.say(traceback.format_exc())
        return _failed(terminal, error.kind, str(error), error.exit_code, error)
    except Exception as error:
        return _unexpected(terminal, error)
    return code


def _dispatch(words: list[str], terminal: Terminal) -> int:
    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in HELP:
        return _help(terminal)
    if words[0] in ("--version", "version"):
        from importlib.metadata import version

        terminal.answer(f"posttrain {version('posttrain')}")
        return 0
    name, *rest = words
    if name in COMMANDS:
        return _call(COMMANDS[name].target, rest, terminal)
    if name in methods() or ":" in name:
        return _call("running:method", words, terminal)
    if name.endswith((".yaml", ".yml")):
        raise UsageError(f"{name!r} is a recipe, not a command. Write `posttrain run {name}`.")
    raise UsageError(f"There is no command {name!r}. {nearest(name, [*COMMANDS, *methods()])} See `posttrain --help`.")


def _call(target: str, words: list[str], terminal: Terminal) -> int:
    module, _, function = target.partition(":")
    code = getattr(importlib.import_module(f"posttrain.cli.{module}"), function)(words, terminal)
    return int(code)


def _help(terminal: Terminal) -> int:
    rows = [(f"posttrain {name} {command.usage}".strip(), command.summary) for name, command in COMMANDS.items()]
    terminal.answer("One recipe takes a base language model to a measured, shipped one.\n")
    terminal.table(rows)
    terminal.answer("\nEvery method is a command too: posttrain METHOD model=… data=… [option=value …]\n")
    by_kind: dict[str, list[str]] = {}
    for entry in methods().values():
        by_kind.setdefault(entry.kind, []).append(entry.name)
    terminal.table([(kind, "  ".join(names)) for kind, names in by_kind.items()])
    terminal.answer("\nAttacks, for the `attacks` of red_team and attack_success: posttrain methods ATTACK")
    terminal.table([("attack", "  ".join(attacks()))])
    terminal.answer("\nAll commands take --json, -q, -v and -h. Values are written as in YAML: sft.learning_rate=1e-4")
    terminal.answer("Start here:  posttrain run")
    return 0


def _failed(terminal: Terminal, kind: str, message: str, code: int, error: PosttrainError | None = None) -> int:
    """Says what went wrong, once, in the form that was asked for; returns the exit code."""
    terminal.clear()
    if terminal.json:
        described: dict[str, object] = {"kind": kind, "message": message}
        if cure := _cure(message):
            described["cure"] = cure
        if isinstance(error, RecipeError):
            described["problems"] = [{"message": p.message, "line": p.line, "where": p.where} for p in error.problems]
        terminal.object({"error": described})
        return code
    first, *more = message.splitlines() or [kind]
    if isinstance(error, RecipeError) and len(error.problems) > 1:
        first, more = f"{len(error.problems)} problems; nothing was started", [first, *more]
    word, style = ("stopped", "yellow") if kind == "stopped" else ("error", "red")
    terminal.complain(Paint(word, style), f"  {first}")
    for line in more:
        terminal.complain(f"  {line}")
    return code


def _cure(message: str) -> str | None:
    """The last sentence of a message: by the rules of this house it says what to do."""
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z`])", message.strip())
    return sentences[-1] if len(sentences) > 1 else None


def _unexpected(terminal: Terminal, error: Exception) -> int:
    """An error that nobody foresaw is a mistake of ours: a short message, and the traceback in a file."""
    said = str(error).strip().partition("\n")[0]
    if terminal.verbose:
        terminal.say(traceback.format_exc())
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    message = f"Something unforeseen happened: {what}. {_kept_traceback()}; please report it with `posttrain env`."
    return _failed(terminal, "unexpected", message, 1)


def _kept_traceback() -> str:
    """Where the traceback of the error in hand can be read."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="posttrain-", suffix=".log", delete=False, encoding="utf-8"
        ) as log:
            log.write(f"posttrain {' '.join(sys.argv[1:])}\n\n{traceback.format_exc()}")
    except OSError:
        return "Run the same command with `-v` to see the traceback"
    return f"The traceback is in {log.name}"
