"""Nothing of dev or test may be seen before: no prompt, no entity, no sum, no wording."""

import dataclasses
import random
import subprocess
import sys

import pytest

from posttrain import lab
from posttrain.lab import howto, knowledge, reasoning, text, words
from posttrain.lab.catalog import FAMILIES
from posttrain.lab.splits import deal, split_of
from posttrain.lab.world import PERSON, TOWN, WORLD


def prompts(name: str) -> set[str]:
    return {row.get("prompt") or row.get("text") or row["messages"][0]["content"] for row in lab.rows(name)}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_splits_share_no_prompt(family: str) -> None:
    train, dev, test = (prompts(f"{family}/{split}") for split in ("train", "dev", "test"))
    assert train and dev and test
    assert not train & dev and not train & test and not dev & test


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("text", "harbor_text")])
def test_no_dev_or_test_prompt_is_an_instruction(family: str) -> None:
    taught = prompts("chat/train") | prompts("pairs/train")
    assert not taught & (prompts(f"{family}/dev") | prompts(f"{family}/test"))


def test_pretraining_text_asks_no_question_of_dev_or_test() -> None:
    held_out = prompts("chat/dev") | prompts("chat/test") | prompts("facts/test") | prompts("howto/test")
    lines = "\n".join(text.documents(4000, seed=5)).split("\n")
    assert not [line for line in lines if any(line.startswith(f"{prompt} ") for prompt in _starting(held_out, line))]


def _starting(held_out: set[str], line: str) -> list[str]:
    """The held-out prompts that a line could begin with: every cut of it that is one."""
    return [line[:i] for i, letter in enumerate(line) if letter == " " and line[:i] in held_out]


def test_facts_are_held_out_by_person() -> None:
    of = {split: {name for row in lab.rows(f"facts/{split}") for name in _names(str(row["prompt"]))} for split in FACTS}
    assert of["train"] and not of["train"] & of["test"] and not of["dev"] & of["test"] and not of["train"] & of["dev"]


FACTS = ("train", "dev", "test")


def _names(prompt: str) -> set[str]:
    return {word.strip("?.") for word in prompt.split()} & {*WORLD.people, *WORLD.towns}


def test_sums_of_test_occur_nowhere_else_not_even_in_a_chain() -> None:
    rng = random.Random(0)
    asked = {reasoning.sum_of(rng, "test")[0] for _ in range(300)}
    chains = [reasoning.worked_chain(rng, split).answer for split in ("train", "text") for _ in range(500)]
    steps = [step.split("=")[0] for chain in chains for step in chain.split(": ") if "=" in step]
    single = {s for s in steps if s.split("+")[0] != s.split("+")[-1]}  # doubling is not split
    assert len(asked) > 100 and not asked & single


def test_a_verb_and_an_object_of_test_never_meet_in_train() -> None:
    for make in (howto.howto, howto.forbidden):
        met = {split: {_deed(make(random.Random(i), split).prompt) for i in range(400)} for split in ("train", "test")}
        assert not met["train"] & met["test"]


def _deed(prompt: str) -> tuple[str, str]:
    verbs = {v for tools in (howto.TOOL_VERBS, howto.FORBIDDEN_TOOL_VERBS) for t in tools.values() for v in t}
    said = prompt.strip("?.").split()
    return next(word for word in said if word in verbs), said[-1]


def test_the_last_wording_is_kept_for_test() -> None:
    kept = [kind.wordings[-1].split("{n}")[0] for kind in (*PERSON.values(), *TOWN.values())]
    assert not [p for p in prompts("facts/train") | prompts("facts/dev") if any(p.startswith(start) for start in kept)]
    share = sum(any(p.startswith(start) for start in kept) for p in prompts("facts/test")) / len(prompts("facts/test"))
    assert 0.1 < share < 0.5


def test_words_are_dealt_once() -> None:
    train, dev, test = (set(knowledge.WORDS[split]) for split in ("train", "dev", "test"))
    assert train | dev | test == set(words.WORDS) and not train & dev and not train & test and not dev & test


def test_deal_covers_and_separates() -> None:
    dealt = deal(list(range(100)), seed=0, dev_share=0.1, test_share=0.2)
    assert sorted(dealt["train"] + dealt["dev"] + dealt["test"]) == list(range(100))
    assert (len(dealt["dev"]), len(dealt["test"])) == (10, 20)


def test_shares_of_hashed_splits() -> None:
    found = [split_of("thing", i) for i in range(4000)]
    assert 0.06 < found.count("dev") / 4000 < 0.10 and 0.12 < found.count("test") / 4000 < 0.18


@pytest.mark.slow
def test_rows_are_the_same_in_every_process() -> None:
    script = (
        "import hashlib, json; from posttrain import lab; "
        "print(hashlib.sha256(json.dumps([lab.rows(n) for n in lab.names()]).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_new_version_of_a_family_redraws_that_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: lab.rows(name) for name in ("pairs/dev", "style/dev")}
    monkeypatch.setitem(FAMILIES, "pairs", dataclasses.replace(FAMILIES["pairs"], version=99))
    assert lab.rows("pairs/dev") != before["pairs/dev"] and lab.rows("style/dev") == before["style/dev"]


def test_the_package_is_light() -> None:
    script = (
        "import sys; from posttrain import lab; [lab.rows(n) for n in ('chat/dev', 'pairs/dev')]; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="chat/train"):
        lab.rows("chat/trian")


@pytest.mark.slow
def test_sizes() -> None:
    sizes = {name: len(lab.rows(name)) for name in lab.names()}
    assert sizes["chat/train"] == 4000 and sizes["chat/test"] == 400
    assert min(n for name, n in sizes.items() if name.endswith("/test")) >= 80
