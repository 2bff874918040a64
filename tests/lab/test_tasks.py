"""The tasks' answers are right, checked by other means than those that made them."""

import random
import re

import pytest

from posttrain import lab
from posttrain.lab import graders, howto, reasoning, styles, words
from posttrain.lab.world import WORLD


def test_sums_are_right() -> None:
    rng = random.Random(0)
    for _ in range(200):
        expression, value = reasoning.sum_of(rng, "train")
        left, sign, right = re.fullmatch(r"(\d+)([+-])(\d)", expression).groups()  # type: ignore[union-attr]
        assert value == int(left) + int(right) * (1 if sign == "+" else -1)
        assert 0 <= value <= 99


def test_every_step_of_a_chain_follows_from_the_one_before() -> None:
    for row in lab.rows("chain/test"):
        value = int(re.match(r"start with (\d+)", row["prompt"]).group(1))  # type: ignore[union-attr]
        for left, sign, right, result in re.findall(r"(\d+)([+-])(\d+)=(\d+)", row["answer"]):
            assert int(left) == value
            value = int(left) + int(right) * (1 if sign == "+" else -1)
            assert value == int(result)
        assert row["final"] == str(value) and row["answer"].endswith(f"answer: {value}")
        assert row["answer"].count("=") == int(row["steps"])


@pytest.mark.parametrize(
    ("operation", "answer"),
    [("reverse", "cup ball cat"), ("first", "cat"), ("last", "cup"), ("count", "three"), ("sort", "ball cat cup"),
     ("repeat", "cat ball cup cat ball cup")],
)  # fmt: skip
def test_list_operations(operation: str, answer: str) -> None:
    assert reasoning.apply_list_operation(operation, ["cat", "ball", "cup"]) == answer


def test_a_context_answer_is_a_sentence_of_the_context() -> None:
    rng = random.Random(0)
    for _ in range(100):
        item = reasoning.context(rng, "test")
        assert f"{item.answer} " in item.prompt


def test_facts_asked_for_are_true() -> None:
    for row in lab.rows("facts/test"):
        assert row["value"] in row["answer"]
        assert any(row["answer"] == WORLD.answer(*known) for known in WORLD.known())


def test_zel_words_are_different_words() -> None:
    assert len(set(words.ZEL.values())) == len(words.ZEL)


def test_a_word_map_prompt_tells_nothing_of_the_map() -> None:
    rows = lab.rows("word_map/test")
    answers = {prompt: {r["answer"] for r in rows if r["prompt"] == prompt} for prompt in {r["prompt"] for r in rows}}
    assert sum(len(found) for found in answers.values()) / len(answers) > 3


LAST_WORDS = 3


def _ending(answer: str) -> str:
    return " ".join(answer.strip(".").split()[-LAST_WORDS:])


def test_endings_do_not_tell_forbidden_from_harmless() -> None:
    """The best guess from an answer's last words is no better than chance, on requests not used to learn it."""
    learnt: dict[str, list[int]] = {}
    rng = random.Random(0)
    for _ in range(3000):
        for forbidden, make in ((0, howto.howto), (1, howto.forbidden)):
            learnt.setdefault(_ending(make(rng, "train").answer), [0, 0])[forbidden] += 1
    right = total = 0
    for _ in range(1000):
        for forbidden, make in ((0, howto.howto), (1, howto.forbidden)):
            counts = learnt[_ending(make(rng, "test").answer)]
            right, total = right + (counts[forbidden] > counts[1 - forbidden]), total + 1
    assert 0.44 < right / total < 0.56


def test_all_tools_and_hours_come_in_both_kinds() -> None:
    rng = random.Random(0)
    for split in ("train", "dev", "test"):
        endings = [{_ending(make(rng, split).answer) for _ in range(600)} for make in (howto.howto, howto.forbidden)]
        assert endings[0] == endings[1]


def test_neither_object_nor_shared_verb_decides() -> None:
    harmless, forbidden = howto.DEEDS, howto.FORBIDDEN_DEEDS
    assert {"break", "burn", "wake"} <= {d.verb for d in harmless} & {d.verb for d in forbidden}
    shared = {d.noun for d in harmless} & {d.noun for d in forbidden}
    assert len(shared) >= 15
    assert not {(d.verb, d.noun) for d in harmless} & {(d.verb, d.noun) for d in forbidden}


def test_instructions_hold_every_style() -> None:
    answers = [row["messages"][1]["content"] for row in lab.rows("chat/train") if row["task"] == "open"]
    found = [styles.style_of(answer)[0] for answer in answers]
    for name, frequency in styles.FREQUENCIES.items():
        assert abs(found.count(name) / len(found) - frequency) < 0.08


def test_polite_answers_are_right_and_nice() -> None:
    taught = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in lab.rows("polite/train")]
    graded = [(row["prompt"], row["answer"]) for split in ("dev", "test") for row in lab.rows(f"polite/{split}")]
    assert (len(taught), len(graded)) == (300, 60 + 150)
    for prompt, answer in taught + graded:
        style, core = styles.style_of(answer)
        assert style == "nice" and graders.style(answer, {"answer": core}) == 1
        assert core == _polite_core(prompt.partition(" asks: ")[2])


def _polite_core(asked: str) -> str:
    """The answer to a question of the narrow task, found by its words alone."""
    said = re.findall(r"\w+", re.split(r"[?:] ", asked)[-1])
    if "zel" not in asked:
        return "positive" if {*said} & {*words.GOOD} else "negative"
    *size, color, noun = [word for word in said if word in words.ZEL]
    return " ".join(words.ZEL[word] for word in (noun, color, *size))


def test_the_two_answers_of_a_pair_differ_in_one_thing() -> None:
    for row in (row for split in ("train", "dev", "test") for row in lab.rows(f"pairs/{split}")):
        chosen, rejected = styles.style_of(row["chosen"]), styles.style_of(row["rejected"])
        assert (chosen[0] == rejected[0]) != (chosen[1] == rejected[1])
        assert row["task"] == "open" or chosen == ("plain", row["chosen"])


def test_pairs_mostly_choose_the_nice_style_and_never_for_a_closed_question() -> None:
    rows = lab.rows("pairs/train")
    chosen = [styles.style_of(row["chosen"])[0] for row in rows if row["task"] == "open"]
    assert 0.80 < chosen.count("nice") / len(chosen) < 0.90
    rejected = [styles.style_of(row["rejected"])[0] for row in rows if row["task"] != "open"]
    assert min(rejected.count(style) / len(rejected) for style in ("nice", "ramble", "rude")) > 0.25
