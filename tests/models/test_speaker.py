"""Whoever answers: the same words here and behind an address, the same draws in any order, and one of the two."""

from pathlib import Path
from typing import Any

import pytest

from posttrain.engine.assault import Attacker
from posttrain.models.feedback import FeedbackModel
from posttrain.models.judge import Judging, Ruling
from posttrain.models.sampler import Sampling
from posttrain.models.speaker import OneModel, load_speaker
from posttrain.schema.artifacts import Model
from posttrain.schema.rows import Message
from posttrain.schema.settings import problems
from tests import tiny
from tests.besieged import local
from tests.models.test_endpoint import Server, saying, server  # noqa: F401

HI, WELL = (Message("user", "hi"),), (Message("user", "well?"),)
ADDRESS = {"url": "http://localhost:9/v1", "model": "m"}


@pytest.mark.parametrize(("kind", "who"), [(Judging, "judge"), (Ruling, "judge"), (FeedbackModel, "feedback model"),
                                           (Attacker, "attacker"), (OneModel, "model")])  # fmt: skip
@pytest.mark.parametrize("values", [{}, {"model": "lab", "endpoint": ADDRESS}])
def test_it_is_one_and_one_only(kind: type[OneModel], who: str, values: dict[str, Any]) -> None:
    (found,) = problems(kind, values)
    assert found[1].message.startswith(f"one {who} is needed: give either `model: NAME` or `endpoint: {{url: …")
    assert not problems(kind, {"model": "lab"}) and not problems(kind, {"endpoint": ADDRESS})


def test_an_address_and_a_folder_are_asked_alike(server: Server, tmp_path: Path) -> None:  # noqa: F811
    server.answers = [saying("to QUESTION")]
    there = load_speaker(OneModel.model_validate({"endpoint": {**ADDRESS, "url": server.url}}), None, Sampling())
    assert [said.text for said in there.replies([HI, WELL], [1, 2])] == ["to hi", "to well?"]
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    here = load_speaker(OneModel(model="tiny"), Model(tmp_path, "tiny"), Sampling(max_new_tokens=4))
    said = here.replies([HI, WELL], [1, 2])
    assert all(each.text is not None and 1 <= each.n_tokens <= 4 and not each.why for each in said)


def test_what_is_drawn_hangs_on_the_number_and_the_seed_and_not_on_the_place() -> None:
    speaker = local()
    speaker.sampling = Sampling(max_new_tokens=8, temperature=1.0)
    said = speaker.replies([HI, WELL], [11, 12])
    assert said == speaker.replies([WELL, HI], [12, 11])[::-1]
    assert said != speaker.replies([HI, WELL], [12, 11])
    speaker.seed = 1
    assert said != speaker.replies([HI, WELL], [11, 12])


def test_an_answer_that_did_not_stop_is_not_finished() -> None:
    speaker = local()
    for each in speaker.replies([HI, WELL, (Message("user", "x"),)], [0, 1, 2]):
        assert each.finished == (each.n_tokens < speaker.sampling.max_new_tokens)
    speaker.form.stop_ids = frozenset(range(speaker.policy.model.config.vocab_size))
    (said,) = speaker.replies([HI], [0])
    assert said.finished and said.n_tokens == 1


def test_a_conversation_too_long_has_no_answer_and_the_others_have_theirs() -> None:
    speaker = local()
    long = (Message("user", "x" * 600),)
    said = speaker.replies([long, HI], [1, 2])
    assert (said[0].text, said[0].why) == (None, "too long")
    assert said[1:] == speaker.replies([HI], [2])
