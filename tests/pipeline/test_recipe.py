"""A recipe is read strictly: every mistake at once, on its line, with a hint; and never another kind of error."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.pipeline.plan import load
from posttrain.pipeline.reading import draft
from posttrain.pipeline.recipe import Entry, Repeat
from posttrain.pipeline.tree import read, written
from posttrain.schema.errors import RecipeError

GOOD = """
name: demo
model: some/model
measure:
  - pipeline_fakes:Score: {name: chat, data: test.jsonl}
stages:
  - pipeline_fakes:Tune: {data: rows.jsonl, strength: 6e-4}
  - pipeline_fakes:Compress
"""

FIVE = """
name: demo
modle: some/model
model: some/model
measure:
  - pipeline_fakes:Score: {name: chat, data: test.jsonl}
stages:
  - pipeline_fakes:Tune: {data: rows.jsonl, strenght: 1}
  - pipeline_fakes:Tune: {name: second, strength: -1}
  - pipeline_fakes:Tune:
      name: third
      data: rows.jsonl
      data: other.jsonl
  - pipeline_fakes:Compress:
      from: secund
"""


def problems(text: str, *overrides: str) -> list[tuple[int | None, str]]:
    with pytest.raises(RecipeError) as caught:
        load(text, "demo.yaml", overrides)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def test_a_recipe_is_read() -> None:
    recipe, wrong = draft(GOOD, "folder/demo.yaml")
    assert not wrong
    assert (recipe.name, recipe.model, recipe.seed) == ("demo", "some/model", 0)
    tune, compress = recipe.stages
    assert isinstance(tune, Entry) and isinstance(compress, Entry)
    assert tune.name == "tune" and tune.stage.strength == 0.0006  # type: ignore[union-attr]
    assert compress.name == "compress"
    assert recipe.measure[0].name == "chat"


def test_the_name_defaults_to_the_file() -> None:
    assert draft(GOOD.replace("name: demo", ""), "folder/my recipe.yaml")[0].name == "my-recipe"


def test_five_mistakes_are_five_messages_with_their_lines() -> None:
    found = problems(FIVE)
    assert [line for line, _ in found] == [3, 8, 9, 9, 13, 15]
    assert "Did you mean 'model'?" in found[0][1]
    assert "Did you mean 'strength'?" in found[1][1]
    assert {"'data' is missing" in m or "-1 does not fit" in m for _, m in found[2:4]} == {True}
    assert "appears twice, first on line 12" in found[4][1]
    assert "Did you mean 'second'?" in found[5][1]


def test_a_problem_names_the_file_and_the_line() -> None:
    with pytest.raises(RecipeError, match=r"demo.yaml:3: there is no key 'modle'"):
        load(FIVE, "demo.yaml")


@pytest.mark.parametrize(
    ("was", "now", "line", "message"),
    [
        ("model: some/model", "", 2, "the base model is missing"),
        ("model: some/model", "model: [a]", 3, "names no model"),
        ("name: demo", "name: a/b", 2, "cannot name a folder"),
        ("name: demo", "seed: yes", 2, "is no seed"),
        ("name: demo", "seed: true", 2, "is no seed"),
        (":Tune", ":Tuna", 7, "Cannot load"),
        ("pipeline_fakes:Compress", "sfft", 8, "There is no method 'sfft'"),
        (
            "pipeline_fakes:Compress",
            "pipeline_fakes:Tune: {data: x}",
            8,
            "the name 'tune' is taken by the entry on line 7",
        ),
        ("pipeline_fakes:Compress", "pipeline_fakes:Compress: {name: base}", 8, "what the recipe's model is called"),
        ("pipeline_fakes:Compress", "pipeline_fakes:Compress: 4", 8, "are a mapping"),
        ("pipeline_fakes:Compress", "[1]", 8, "one method with its options"),
        ("pipeline_fakes:Compress", "{pipeline_fakes:Compress: {}, from: base}", 8, "stands beside the method"),
        ("pipeline_fakes:Compress", "pipeline_fakes:Score: {data: x}", 8, "Put it under `measure:`"),
        ("pipeline_fakes:Score", "pipeline_fakes:Tune", 5, "Put it under `stages:`"),
        ("pipeline_fakes:Compress", "repeat: {times: 0, stages: []}", 8, "a whole number from 1"),
        ("pipeline_fakes:Compress", "repeat: {times: 2}", 8, "needs `stages:`"),
        ("pipeline_fakes:Compress", "repeat: {times: 2, time: 2, stages: []}", 8, "Did you mean 'times'?"),
        ("pipeline_fakes:Compress", "pipeline_fakes:Compress: {gate: 3}", 8, "a gate is written"),
        (
            "pipeline_fakes:Compress",
            "pipeline_fakes:Compress: {gate: {chat.accuracy: {atleast: 1}}}",
            8,
            "Did you mean 'at_least'?",
        ),
        (
            "pipeline_fakes:Compress",
            "pipeline_fakes:Compress: {gate: {chat.accuracy: {at_least: x}}}",
            8,
            "is no limit",
        ),
        (
            "pipeline_fakes:Compress",
            "pipeline_fakes:Compress: {gate: {chat: {at_least: 1}}}",
            8,
            "a measure and its metric",
        ),
        (
            "pipeline_fakes:Compress",
            "pipeline_fakes:Compress: {gate: {chta.accuracy: {at_least: 1}}}",
            8,
            "Did you mean 'chat'?",
        ),
        *(
            ("pipeline_fakes:Compress", f"pipeline_fakes:Compress: {{gate: {gate}}}", 8, "stands beside its rule")
            for gate in (
                "{chat.accuracy: {against: base}}",
                "{against: base, chat.accuracy: {at_least: 1}}",
                "{chat.accuracy: {}}",
            )
        ),
        ("pipeline_fakes:Compress", "pipeline_fakes:Compress: {measure: 3}", 8, "neither true nor false"),
        ("pipeline_fakes:Compress", "pipeline_fakes:Compress: {from: 3}", 8, "names no stage"),
        ("  - pipeline_fakes:Tune", "  pipeline_fakes:Tune", 8, "this is not YAML"),
    ],
)
def test_a_mistake_is_found_on_its_line(was: str, now: str, line: int, message: str) -> None:
    found = problems(GOOD.replace(was, now))
    assert [at for at, _ in found] == [line], found
    assert message in found[0][1]


def test_a_list_must_be_a_list() -> None:
    assert "is a list" in problems("model: m\nstages: {a: 1}\n")[0][1]
    assert "nothing to do" in problems("model: m\n")[0][1]


def test_numbers_and_words_are_those_of_yaml_1_2() -> None:
    tree, wrong = read("[6e-4, 1e5, -2, 0x10, .5, yes, off, 12:30, 2024-01-01, true, ~, '1e-4']", "x")
    assert not wrong
    assert tree.plain() == [6e-4, 1e5, -2, 16, 0.5, "yes", "off", "12:30", "2024-01-01", True, None, "1e-4"]


@pytest.mark.parametrize("text", ["&a [*a]", "!!python/name:os.system x", '"\\0"', '"\\ud800"', "{[1]: 2}"])
def test_what_no_recipe_needs_is_refused(text: str) -> None:
    assert len(read(text, "x")[1]) == 1


def test_aliases_cannot_fill_the_memory() -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for above, name in zip("abcdefg", "bcdefgh", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n"
    with pytest.raises(RecipeError, match="more than"):
        read(text, "x")


def test_repeat_holds_stages() -> None:
    recipe, wrong = draft("model: m\nstages: [{repeat: {times: 3, stages: [pipeline_fakes:Compress]}}]")
    assert not wrong
    (repeat,) = recipe.stages
    assert isinstance(repeat, Repeat) and repeat.times == 3 and len(repeat.stages) == 1


def test_comments_do_not_change_the_digest() -> None:
    assert draft(GOOD)[0].digest == draft("# hello\n" + GOOD)[0].digest
    assert draft(GOOD)[0].digest != draft(GOOD.replace("6e-4", "7e-4"))[0].digest


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
words = st.sampled_from(
    ["model", "stages", "measure", "name", "seed", "repeat", "times", "from", "gate", "sft", "size", "data", "at_least"]
)
trees = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | texts, inner, max_size=4),
    max_leaves=20,
)


def is_checked(text: str, *overrides: str) -> None:
    """Whatever the text: a plan, or a RecipeError with at least one problem."""
    try:
        assert load(text, "any.yaml", overrides).recipe.name
    except RecipeError as error:
        assert error.problems


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.text())
@example('"\\UFFFFFFFF"')
@example("[" * 3000)
@example("stages: [':', '.:x', 'a..b:c', 'os:sep', 'os:getcwd', {repeat: {times: 99999999999, stages: [size]}}]")
@example("model: m\nstages: [{pipeline_fakes:Tune: {data: [[]]}}, {pipeline_fakes:Tune: {data: {path: 3}}}]")
def test_any_text_gives_a_recipe_or_a_recipe_error(text: str) -> None:
    is_checked(text)
    is_checked(GOOD, f"tune.data={text}", f"{text}=3")


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(trees)
def test_any_tree_gives_a_recipe_or_a_recipe_error(tree: object) -> None:
    is_checked(written(tree))
    is_checked(written({"model": "m", "stages": [tree, {"repeat": tree}, {"pipeline_fakes:Tune": tree}]}))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(trees)
@example({"\x85": "a\u2028b\rc\nd"})
def test_what_is_written_is_read_back(tree: object) -> None:
    again, wrong = read(written(tree), "x")
    assert not wrong and again.plain() == tree
