"""A run that is asked to stop does so at the next moment that costs nothing, not at the end of a long measurement."""

from pathlib import Path

import pytest

from posttrain.pipeline.run import run
from posttrain.schema.errors import Stopped
from tests.faults.places import Place, furnish, write_rows

STAGES = {
    "measure": "measure: [{benchmark: {data: many.jsonl, max_new_tokens: 1}}]\nstages: [{sft: {data: chat.jsonl, steps: 1}}]",
    "generator": "measure: [size]\nstages: [{sample: {data: many.jsonl, sampling: {max_new_tokens: 1}}}]",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STAGES)
def test_answers_are_not_waited_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    furnish(tmp_path)
    write_rows(tmp_path / "many.jsonl", [{"prompt": f"What is {n}?", "answer": "2"} for n in range(200)])
    place = Place(tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = f"name: demo\nmodel: ./base\n{STAGES[kind]}\n"

    def answering() -> bool:
        return any(event.kind == "progress" for event in place.events())

    with pytest.raises(Stopped, match=r"Stopped after 64 of 200 answers. Run the same command to go on"):
        run(recipe, out=place.out, stop=answering)
    assert place.events()[-1].kind == "stopped"
    assert run(recipe, out=place.out).report.is_file()
