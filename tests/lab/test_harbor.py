"""The harbor: new entities, told of in many wordings, asked about only where it may be asked."""

from collections import Counter

import pytest

from posttrain import lab
from posttrain.lab import harbor, text
from posttrain.lab.splits import Split

SPLITS: tuple[Split, ...] = ("train", "dev", "test")


def texts(split: str) -> list[str]:
    return [row["text"] for row in lab.rows(f"harbor_text/{split}")]


def ships(text: str) -> set[str]:
    return {name for name in harbor.NAMES if name in text}


def test_the_base_read_nothing_of_it() -> None:
    read = "\n".join(text.documents(4000, seed=3))
    told = [sentence for split in SPLITS for fact in harbor.known(split) for sentence in harbor.statements(*fact)]
    assert len(told) == 24 * 3 * 3 and not [sentence for sentence in told if sentence in read]


def test_every_ship_has_a_noun_of_its_own() -> None:
    assert len({name.split()[-1] for name in harbor.NAMES}) == len(harbor.NAMES) == 24


def test_questions_are_held_out_by_ship() -> None:
    of = {split: set().union(*(ships(row["prompt"]) for row in lab.rows(f"harbor/{split}"))) for split in SPLITS}
    assert {split: len(names) for split, names in of.items()} == {"train": 12, "dev": 4, "test": 8}
    assert set().union(*of.values()) == set(harbor.NAMES)  # 12 + 4 + 8: no ship is in two splits


@pytest.mark.parametrize("split", SPLITS)
def test_texts_ask_about_ships_of_train_only(split: str) -> None:
    lines = [line for document in texts(split) for line in document.split("\n")]
    questions = [line.partition("?")[0] for line in lines if "?" in line or line.startswith("tell me")]
    assert len(questions) > 20
    assert set().union(*map(ships, questions)) <= set(harbor.DEALT["train"])


def test_every_fact_is_told_in_several_wordings_and_documents() -> None:
    told = texts("train")
    for name, key in (fact for split in SPLITS for fact in harbor.known(split)):
        documents = {wording: sum(wording in document for document in told) for wording in harbor.statements(name, key)}
        assert min(documents.values()) >= 1 and sum(documents.values()) >= 8, (name, key, documents)


def test_every_fact_is_asked_for_and_the_answer_is_true() -> None:
    for split in SPLITS:
        facts = {(*ships(row["prompt"]), row["value"]) for row in lab.rows(f"harbor/{split}")}
        assert {(name, harbor.SHIPS[name][key]) for name, key in harbor.known(split)} == facts
    for row in lab.rows("harbor/test"):
        (name,) = ships(row["prompt"])
        assert row["answer"] in {harbor.statements(name, key)[0] for key in harbor.SHIP}
        assert row["value"] in row["answer"]


def test_the_last_wording_is_kept_for_test() -> None:
    kept = {kind.wordings[-1].format(n=name) for kind in harbor.SHIP.values() for name in harbor.NAMES}
    count = Counter(split for split in SPLITS for row in lab.rows(f"harbor/{split}") if row["prompt"] in kept)
    assert count["train"] == count["dev"] == 0 and 0.1 < count["test"] / len(lab.rows("harbor/test")) < 0.5
