"""A furnished place for every test, and the command line in this process, where torch is imported already."""

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.cli import main
from tests.faults.places import IMPORTED, Done, Place, furnish


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows and a recipe, to be copied."""
    folder = tmp_path_factory.mktemp("furnished")
    furnish(folder)
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a place's command, or other words, in its folder."""
    monkeypatch.setenv("NO_COLOR", "1")
    for folder in IMPORTED:
        monkeypatch.syspath_prepend(folder)

    def call(place: Place, *words: str) -> Done:
        monkeypatch.chdir(place.folder)
        capsys.readouterr()
        code = main(words or place.command)
        return Done(code, *capsys.readouterr())

    return call
