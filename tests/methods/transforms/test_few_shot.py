"""Few-shot changes the prompt, not the weights, and every measure sees it."""

from pathlib import Path

import pytest

from posttrain.data.program import PromptProgram
from posttrain.schema.errors import DataError

WORDS = {"caps": ("red", "RED"), "zh": ("red", "红")}
ROWS = [
    {
        "prompt": f"{word} ->",
        "plain": f"{word} ->",
        "answer": word.upper() if task == "caps" else word[::-1],
        "task": task,
    }
    for task in WORDS
    for word in ("red", "blue", "green", "black")
]


def test_the_examples_are_of_the_task_and_as_many_as_asked(workshop):
    data = workshop.rows(*ROWS)
    prompted = workshop.run("few_shot", workshop.model(), data, k=2, layout="plain", by_task=True)
    program = PromptProgram.load(prompted.path)
    assert (program.layout, program.k, len(program.examples)) == ("plain", 2, 4)
    assert {example.task for example in program.examples} == {"caps", "zh"}


def test_the_weights_are_the_same_files(workshop):
    base = workshop.model()
    prompted = workshop.run("few_shot", base, workshop.rows(*ROWS), k=1)
    assert (prompted.path / "model.safetensors").read_bytes() == (base.path / "model.safetensors").read_bytes()
    assert prompted.digest != base.digest


def test_measures_apply_it_and_can_be_asked_not_to(workshop):
    base, data = workshop.model(), workshop.rows(*ROWS)
    prompted = workshop.run("few_shot", base, data, k=3, layout="plain")
    outputs = {
        (name, layout): [
            s.output for s in workshop.findings("benchmark", m, data, layout=layout, max_new_tokens=6).samples
        ]
        for name, m in (("base", base), ("prompted", prompted))
        for layout in ("own", "plain")
    }
    assert outputs["prompted", "own"] != outputs["prompted", "plain"]
    assert outputs["prompted", "plain"] == outputs["base", "plain"]


def test_too_few_examples_are_refused(workshop):
    with pytest.raises(DataError, match="Lower k, or give more rows"):
        workshop.run("few_shot", workshop.model(), workshop.rows(*ROWS), k=5, by_task=True)


def test_another_seed_draws_other_examples(workshop):
    data = workshop.rows(*ROWS)
    drawn = {
        PromptProgram.load(workshop.run("few_shot", workshop.model(), data, seed=s, k=3).path).examples
        for s in range(4)
    }
    assert len(drawn) > 1


def test_a_prompted_model_is_prompted_anew_and_stays_what_it_was(workshop):
    data = workshop.rows(*ROWS)
    first = workshop.run("few_shot", workshop.model(), data, k=2)
    second = workshop.run("few_shot", first, data, k=3)
    assert [PromptProgram.load(model.path).k for model in (first, second)] == [2, 3]
    assert workshop.store.find(first.key) == first
    assert (second.path / "model.safetensors").samefile(first.path / "model.safetensors")


def test_a_folder_of_links_gives_a_model_of_files(workshop):
    """As the Hub's cache holds them: relative links into a folder beside."""
    base = workshop.model()
    folder = workshop.folder / "snapshots" / "main"
    folder.mkdir(parents=True)
    for name in base.files:
        (folder / name).symlink_to(Path("..", "..", base.path.name, name))
    prompted = workshop.run("few_shot", workshop.store.model(str(folder)), workshop.rows(*ROWS), k=1)
    assert set(prompted.files) == {*base.files, "prompt_program.json"}
    (base.path / "model.safetensors").write_bytes(b"trained on, in place")
    assert workshop.store.find(prompted.key) == prompted
