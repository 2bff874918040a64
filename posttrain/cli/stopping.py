"""Ctrl-C and SIGTERM: the first asks a run to save and stop, the second ends it now. Artifacts are atomic, so that
even the second loses no more than the steps since the last checkpoint."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether somebody asked to stop, and with which signal."""

    def __init__(self, told: Callable[[str], None]):
        self.told = told
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Called by Python when a signal has arrived."""
        if self.signal is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.signal = number
        again = "Press Ctrl-C again to quit at once." if number == signal.SIGINT else ""
        self.told(f"Stopping after this step, and saving a checkpoint. {again}".strip())


@contextmanager
def stoppable(told: Callable[[str], None]) -> Iterator[Stop]:
    """While inside, signals only ask; afterwards they do again what they did before."""
    stop = Stop(told)
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
