"""A program run apart: what it prints, and each way in which it can end."""

import pytest

from posttrain.engine.apart import run_apart
from posttrain.schema.errors import MachineError, PosttrainError, Stopped


def ran(code: str) -> str:
    return run_apart(["-c", code], "counting", "Count less.")


def test_what_it_prints_comes_back_and_this_package_is_there():
    assert ran("import posttrain; print(posttrain.__name__)") == "posttrain\n"


@pytest.mark.parametrize(
    ("code", "error", "told"),
    [
        ("raise ValueError('seven')", PosttrainError, "ValueError: seven"),
        (
            "raise MemoryError('out of memory')",
            MachineError,
            r"while counting \(MemoryError: out of memory\). Count less.",
        ),
        ("import os; os.kill(os.getpid(), 9)", MachineError, r"out of memory while counting \(signal 9\)"),
        ("import os; os.kill(os.getpid(), 15)", Stopped, "Stopped while counting"),
    ],
)
def test_how_it_ended(code: str, error: type[PosttrainError], told: str):
    with pytest.raises(error, match=told) as caught:
        ran(code)
    assert type(caught.value) is error
