"""What cannot be run is refused with one message that ends with its cure, exit code 2, and nothing half-written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.places import RECIPE, Done, Place

FIVE = """\
name: demo
model: ./base
measure:
  - benchmark: {name: chat, data: test.jsonl, max_new_token: 8}
stages:
  - sft: {data: chat.jsonl, learning_rate: fast}
  - dop: {data: pairs.jsonl}
  - few_shot: {from: bse, data: chat.jsonl, k: 2}
  - sft: {name: again, data: cht.jsonl}
"""


@pytest.fixture
def place(furnished: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(furnished, tmp_path / "place")))


def check_refused(done: Done, place: Place, *told: str) -> None:
    """Refused before anything was begun, in one line on stderr."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error  ")
    assert done.err.count("\n") == 1, done.err
    for words in told:
        assert words in done.err
    assert not place.runs.exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sft.learning_rat=1", "there is no option 'learning_rat'. Did you mean 'learning_rate'?"),
        ("sft.keep={kll: 1}", "there is no option 'keep.kll'. Did you mean 'keep.kl'?"),
        ("sft.adapter={lora: {rnk: 4}}", "there is no option 'adapter.lora.rnk'. Did you mean 'adapter.lora.rank'?"),
        ("sft.steps=-3", "-3 does not fit: input should be greater than or equal to 1."),
        ("few_shot.from=bse", "no earlier stage is called 'bse'. Did you mean 'base'?"),
        ("sft.data=cht.jsonl", "There is no file 'cht.jsonl'. Did you mean 'chat.jsonl'?"),
        ("model=./bas", "There is no folder './bas'. Did you mean 'base'?"),
        ("model=./chat.jsonl", "is a file, not a model. Name the folder that holds config.json and the weights."),
        ("sft=3", "the options of 'sft' are a mapping. Write `- sft: {option: value}`."),
    ],
)
def test_an_override_that_cannot_be(override: str, told: str, place: Place, command):
    check_refused(command(place, "run", "r.yaml", override), place, f"override {override}", told)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("run", "nothing.yaml"), "There is no recipe 'nothing.yaml'. There are: r.yaml."),
        (("run", "base"), "is a folder. Name the recipe in it"),
        (("run", "r.yaml", "--epochs", "3"), "Settings are written `name=value`."),
        (("run", "r.yaml", "--until", "sff"), "There is no stage 'sff' to end after. Did you mean 'sft'?"),
        (("run", "r.yaml", "--out", "chat.jsonl"), "chat.jsonl is a file. Name a folder with `--out DIR`."),
        (("run", "r.yaml", "--out", "chat.jsonl/runs"), "chat.jsonl is a file. Name a folder with `--out DIR`."),
        (("sft", "model=./base"), "the option 'data' is missing. Write `data: …`"),
        (("sft", "model=./base", "data=chat.jsonl", "stps=3"), "Did you mean 'steps'?"),
    ],
)
def test_words_that_make_no_command(words: tuple[str, ...], told: str, place: Place, command):
    check_refused(command(place, *words), place, told)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("wrong.jsonl", '{"promt": "a", "anser": "b"}\n', ("Columns found: promt, anser.", "columns: {prompt: promt")),
        ("empty.jsonl", "", ("empty.jsonl is empty. Put rows into it",)),
        ("blank.jsonl", "\n \n", ("blank.jsonl holds nothing but blanks.", "or name another file.")),
        ("none.json", "[]", ("There are no rows in", "none.json", "Name a file with rows for this stage.")),
        ("none.csv", "prompt,answer\n", ("There are no rows in", "none.csv", "Name a file with rows for this stage.")),
        ("rows.exe", "x", ("rows.exe",)),
    ],
)
def test_rows_that_are_none(name: str, content: str, told: tuple[str, ...], place: Place, command):
    (place.folder / name).write_text(content)
    check_refused(command(place, "run", "r.yaml", f"sft.data={name}"), place, *told)


def test_a_row_that_cannot_be_read_is_named(place: Place, command):
    (place.folder / "torn.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a", "ans')
    done = command(place, "run", "r.yaml", "sft.data=torn.jsonl")
    assert done.code == 2
    assert f"{place.folder / 'torn.jsonl'}:2: not JSON" in done.err
    assert done.err.splitlines()[-1].strip().startswith("Mend or remove them")
    assert not list(place.store.glob("sft-*"))
    assert not list((place.store / "work").iterdir())


def no_config(base: Path) -> None:
    (base / "config.json").unlink()


def no_weights(base: Path) -> None:
    (base / "model.safetensors").unlink()


def a_file_alone(base: Path) -> None:
    for path in base.iterdir():
        path.unlink()
    (base / "model-Q4_0.gguf").write_bytes(b"GGUF")


def torn_config(base: Path) -> None:
    (base / "config.json").write_text("{torn")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (no_config, "is no model: it has neither config.json nor adapter_config.json. Name a folder"),
        (no_weights, "has a config.json but no weights. Put model.safetensors beside it."),
        (a_file_alone, "holds GGUF files alone, and they are read beside the config.json and tokenizer.json"),
        (torn_config, "config.json cannot be read as JSON"),
    ],
)
def test_a_folder_that_is_no_model(spoil: Callable[[Path], None], told: str, place: Place, command):
    spoil(place.folder / "base")
    check_refused(command(place), place, "r.yaml:2: ", told)


def torn_weights(base: Path) -> None:
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-1])


def other_shape(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))


def unknown_kind(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "nothing"}')


def no_tokenizer(base: Path) -> None:
    (base / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (torn_weights, "Give a folder with config.json and model.safetensors of one."),
        (other_shape, "Give a folder with config.json and model.safetensors of one."),
        (unknown_kind, "Give a folder with config.json and model.safetensors of one."),
        (no_tokenizer, "Put its tokenizer.json there."),
    ],
)
def test_a_model_that_does_not_load(spoil: Callable[[Path], None], told: str, place: Place, command):
    """Only seen when it is loaded, so that a run has begun; it leaves no artifact and nothing half-made."""
    spoil(place.folder / "base")
    done = command(place)
    assert done.code == 2, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error  {place.folder / 'base'} ") and last.endswith(told)
    assert "Traceback" not in done.err
    assert {path.name for path in place.store.iterdir()} == {"locks", "work"}
    assert not list((place.store / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nstages:\n  - sft: {data: [\n", "r.yaml:4: this is not YAML"),
        ("name: x\n\tstages: 3\n", "r.yaml:2: this is not YAML"),
        ("hello", "r.yaml:1: a recipe is a mapping. Write at least `model:` and `stages:`."),
        ("", "r.yaml:1: a recipe is a mapping. Write at least `model:` and `stages:`."),
        (RECIPE + "name: again\n", "the key 'name' appears twice, first on line 1. Remove one."),
        (RECIPE.replace("- dpo:", "- dop:"), "There is no method 'dop'. Did you mean 'dpo'?"),
        (RECIPE.replace("- dpo:", "- nothing.here:Dpo:"), "nothing.here"),
        (RECIPE.replace("from: base", "from: dqo"), "no earlier stage is called 'dqo'. Did you mean 'dpo'?"),
        ("\udcff\udcfename: x", "Name a YAML file in UTF-8."),
        ("[" * 5000, "it is nested too deeply. Mend the line"),
    ],
)
def test_a_recipe_that_is_none(text: str, told: str, place: Place, command):
    (place.folder / "r.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    check_refused(command(place), place, told)


def test_five_mistakes_are_told_at_once(place: Place, command):
    (place.folder / "r.yaml").write_text(FIVE)
    done = command(place)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "error  5 problems; nothing was started",
        "  r.yaml:4: chat: there is no option 'max_new_token'. Did you mean 'max_new_tokens'?",
        "  r.yaml:6: sft: learning_rate: 'fast' does not fit: "
        "input should be a valid number, unable to parse string as a number.",
        "  r.yaml:7: There is no method 'dop'. Did you mean 'dpo'?",
        "  r.yaml:8: few_shot: no earlier stage is called 'bse'. Did you mean 'base'?",
        "  r.yaml:9: There is no file 'cht.jsonl'. Did you mean 'chat.jsonl'?",
    ]
    assert not place.runs.exists()
    as_json = json.loads(command(place, "run", "r.yaml", "--json").out)["error"]
    assert [problem["line"] for problem in as_json["problems"]] == [4, 6, 7, 8, 9]
