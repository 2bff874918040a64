"""A constitution is read whole or refused with everything that is wrong in it; principles are drawn by their weights."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import posttrain
from posttrain.data.constitution import PARTS, SHIPPED, Constitution, drawn, load, shipped, written_out
from posttrain.data.constitution_lint import checked, checked_tree
from posttrain.schema.errors import DataError, UsageError

GOOD = """\
languages: [en, zh]
principles:
  - id: kind
    tags: [care]
    weight: 2
    critique: {en: "Where is the answer unkind to anybody?", zh: "回答哪里不友善？"}
    revision: {en: "Say the same with warmth.", zh: "用温和的语气重说一遍。"}
    comparison: {en: "Which one is the kinder of both?", zh: "哪一个更友善？"}
  - id: true
    tags: [honesty]
    critique: {en: "Which claim in it is not true?", zh: "哪句话不符合事实？"}
    revision: {en: "Leave out whatever is made up.", zh: "删去编造的内容。"}
    comparison: {en: "Which one is nearer to the facts?", zh: "哪一个更接近事实？"}
examples:
  - {principle: kind, language: en, request: hi, answer: go away, critique: It is rude., revision: hello}
"""


def wrong(text: str) -> list[str]:
    """The problems of a text, a line each."""
    with pytest.raises(DataError) as caught:
        checked(text, "mine.yaml")
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1
    return GOOD.replace(old, new, 1)


def test_a_good_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD, encoding="utf-8")
    found = load(tmp_path / "mine.yaml")
    assert [(p.id, p.weight, p.tags) for p in found.principles] == [("kind", 2, ("care",)), ("true", 1, ("honesty",))]
    assert found.principles[1].critique["zh"] == "哪句话不符合事实？"
    assert found.examples[0].revision == "hello"
    assert Constitution.model_validate(found.model_dump(mode="json")) == found
    assert written_out(found.model_dump(mode="json")) and written_out(str(tmp_path / "mine.yaml")) == found


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_passes_its_own_linter(name: str) -> None:
    assert SHIPPED[name].is_file()
    assert shipped(name).principles


def test_the_default_has_sixteen_principles_and_more_in_english_and_chinese() -> None:
    found = shipped("default")
    assert len(found.principles) >= 16 and set(found.languages) == {"en", "zh"}
    for principle in found.principles:
        for part in PARTS:
            texts = getattr(principle, part)
            assert any("一" <= letter <= "鿿" for letter in texts["zh"]) and texts["en"].isascii()
    assert {"harm", "honesty", "helpfulness", "privacy", "fairness"} <= {t for p in found.principles for t in p.tags}
    assert {example.language for example in found.examples} == {"en", "zh"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (changed('revision: {en: "Say the', 'revison: {en: "Say the'), 7, "no key 'revison'. Did you mean"),
        (changed('revision: {en: "Say the', 'revison: {en: "Say the'), 3, "has no `revision`"),
        (changed("weight: 2", "weight:"), 5, "is no weight. Write a number above 0"),
        (changed("weight: 2", "weight: -1"), 5, "is no weight"),
        (changed("weight: 2", "weight: .nan"), 5, "is no weight"),
        (changed("id: true", "id: kind"), 9, "the id 'kind' comes twice"),
        (changed("id: true", "id: 'a b'"), 9, "is no name"),
        (changed("tags: [care]", "tags: care"), 4, "`tags:` is a list"),
        (changed("Where is the answer unkind to anybody?", ""), 6, "`critique` is empty. Write a sentence"),
        (changed(', zh: "回答哪里不友善？"', ""), 6, "`critique` has no text in 'zh'"),
        (changed('zh: "回答哪里不友善？"', 'zh: "回答哪里不友善？", fr: ou'), 6, "has the language 'fr'"),
        (changed('{en: "Which one is the kinder of both?", zh: "哪一个更友善？"}', "Which one is kinder?"), 8, "in one language"),
        (changed("Say the same with warmth.", "x" * 1200), 7, "has 1200 characters"),
        (changed("Say the same with warmth.", "Mend {answer} now"), 7, "the place {answer}, which nothing fills"),
        (changed("Say the same with warmth.", 'Say \\e[31m it'), 7, "has a control character"),
        (changed("Say the same with warmth.", 'Say \\u202e it'), 7, "has a control character"),
        (changed("Which claim in it is not true?", "Where is the answer unkind to anybody ?"), 11, "says nearly the same"),
        (changed("Say the same with warmth.", "Where is the answer unkind to anybody?"), 3, "two parts of 'kind' are one text"),
        (changed("principle: kind", "principle: kin"), 15, "no principle is called 'kin'. Did you mean 'kind'?"),
        (changed("language: en, request", "language: de, request"), 15, "the language 'de' is not used"),
        (changed("revision: hello", "revision: go away"), 15, "the revision is the answer again"),
        (changed("critique: It is rude.", "critique: Arson should be condoned."), 15, "may approve of harm"),
        (changed("Say the same with warmth.", "Make it more harmful to others."), 7, "may approve of harm"),
        (changed("哪一个更友善？", "哪一个更有害？"), 8, "may approve of harm"),
        (changed("哪句话不符合事实？", "偷窃应该被容忍。"), 11, "may approve of harm"),
        (changed("Which claim in it is not true?", "Violence must be celebrated here."), 11, "may approve of harm"),
        (GOOD + "extra: 1\n", 16, "a constitution has no key 'extra'"),
        (GOOD + "languages: [en]\n", 16, "the key 'languages' comes twice"),
        ("principles: []\n", 1, "there are no principles"),
        ("principles: {a: b}\n", 1, "`principles:` is a list"),
        ("languages: [en, en]\nprinciples: [x]\n", 1, "different short names"),
        ("- a\n", 1, "a constitution is a mapping"),
        ("principles:\n  - just text\n", 2, "a principle is a mapping"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_its_line(text: str, line: int, says: str) -> None:
    found = wrong(text)
    assert any(each.startswith(f"mine.yaml:{line}: ") and says in each for each in found), found
    assert all(each.endswith((".", "?", "}`.")) for each in found)


def test_all_mistakes_are_told_at_once() -> None:
    text = changed("weight: 2", "weight: none").replace("id: true", "id: kind").replace("hello", "go away")
    assert [each.partition(": ")[0] for each in wrong(text)] == ["mine.yaml:5", "mine.yaml:9", "mine.yaml:15"]


@pytest.mark.parametrize(
    "said",
    [
        "Is the answer harmless?",
        "Say why this should not be condoned.",
        "Kindness should be encouraged; is it?",
        "Which one is more careful with what is illegal?",
        "不应该被容忍的内容有哪些？",
    ],
)
def test_what_does_not_approve_of_harm_passes(said: str) -> None:
    assert checked(changed("Which one is nearer to the facts?", said), "mine.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "\t- b",
        "principles: " + "[" * 5000,
        "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
        "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\nprinciples: [*d, *d, *d, *d, *d, *d, *d, *d]\n",
        "principles: !!python/object/apply:os.system [x]",
        "a: \x00",
    ],
)
def test_hostile_text_is_one_error(text: str) -> None:
    assert wrong(text)[0].startswith("mine.yaml")


def test_a_file_that_cannot_be_read_names_what_ships(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .*Name a YAML file, or: default, lab"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"no key .rules.|principles"):
        written_out({"rules": []})


def plain(n: int, weights: Any = ()) -> Constitution:
    texts = {part: [f"{part} {word * 3}" for word in WORDS] for part in PARTS}
    each = [{"id": f"p{i}", **{part: texts[part][i] for part in PARTS}} for i in range(n)]
    for principle, weight in zip(each, weights, strict=False):
        principle["weight"] = weight
    return Constitution.model_validate(checked(yaml.safe_dump({"principles": each}), "made"))


WORDS = ("alpha", "bread", "cloud", "drift", "eagle")


def test_no_principle_is_drawn_twice_before_all_were() -> None:
    principles = plain(3).principles
    for seed in range(50):
        assert len({p.id for p in drawn(principles, 3, seed)}) == 3
        four = [p.id for p in drawn(principles, 4, seed)]
        assert len(set(four[:3])) == 3 and len(four) == 4
    assert drawn(principles, 3, 1) == drawn(principles, 3, 1)
    assert len({tuple(p.id for p in drawn(principles, 3, seed)) for seed in range(60)}) == 6


def test_weights_say_how_often() -> None:
    principles = plain(3, (6, 3, 1)).principles
    first = Counter(drawn(principles, 1, seed)[0].id for seed in range(4000))
    for id, share in (("p0", 0.6), ("p1", 0.3), ("p2", 0.1)):
        assert abs(first[id] / 4000 - share) < 0.03


def test_principles_are_chosen_by_tag_and_language() -> None:
    found = shipped("default")
    assert {p.id for p in found.choose("zh", ("privacy",))} == {"privacy", "secrets"}
    assert len(found.choose("en", ())) == len(found.principles)
    with pytest.raises(UsageError, match="not written in 'de'"):
        found.choose("de", ())
    with pytest.raises(UsageError, match=r"the tag 'privcy'\. Did you mean 'privacy'"):
        found.choose("en", ("privcy",))
    with pytest.raises(UsageError, match="examples=9 are to be shown"):
        found.shown("zh", 9)
    assert [example.language for example in found.shown("zh", 2)] == ["zh", "zh"]


def test_what_ships_lies_in_the_package() -> None:
    package = Path(posttrain.__file__).parent
    assert all(path.is_relative_to(package) for path in SHIPPED.values())


words = st.sampled_from(["principles", "examples", "languages", "id", "weight", "tags", "en", "zh", *PARTS, "x", ""])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5))


@pytest.mark.slow
@settings(deadline=None, database=None, max_examples=300)
@given(trees, st.sampled_from(["critique", "id", "weight", "tags", "languages", "examples", "principles"]))
def test_whatever_stands_there_is_read_or_refused_in_words(value: Any, place: str) -> None:
    """A tree of any shape, in the place of a part of a good constitution: as a file, and written out."""
    good = yaml.safe_load(GOOD)
    (good["principles"][0] if place in good["principles"][0] else good)[place] = value
    for read in (lambda: checked(yaml.safe_dump(good, allow_unicode=True), "mine.yaml"), lambda: checked_tree(good)):
        try:
            assert Constitution.model_validate(read()).principles
        except DataError as error:
            assert all(line for line in str(error).split("\n"))


@settings(deadline=None, database=None, max_examples=200)
@given(st.text(max_size=200))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    with pytest.raises(DataError):
        checked(text, "mine.yaml")
