"""What a feedback model says, and how likely each letter is: by a model that is loaded, and behind an address."""

import json
import math
from typing import Any

import pytest
import torch

from posttrain.functional.comparing import ENDS
from posttrain.models.endpoint import Endpoint
from posttrain.models.feedback import FeedbackModel, Loaded, Telling, letter_in, load_feedback
from posttrain.models.load import load_policy
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Message, Messages
from tests import tiny
from tests.models.test_endpoint import Answer, Server, server  # noqa: F401

Talk = Messages
TALKS: list[Talk] = [
    (Message("user", "which?"),),
    (Message("user", "a longer question, which?"), Message("assistant", "hm"), Message("user", "so?")),
]


def silent(done: int) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    model = Model(folder, "tiny")
    return Loaded.of(model, load_policy(model))


@torch.no_grad()
def by_hand(policy: Policy, talk: Talk) -> float:
    """softmax over the two letters of the model's own logits behind the rendered talk."""
    text = policy.tokenizer.apply_chat_template(
        [message.as_dict() for message in talk], tokenize=False, add_generation_prompt=True
    )
    ids = policy.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    logits = policy.model(ids).logits[0, -1]
    letters = [policy.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in ENDS]
    return float(logits[letters].softmax(-1)[0])


def test_a_loaded_model_tells_the_letters_own_probability(loaded: Loaded) -> None:
    found = loaded.first_letter(TALKS, silent)
    assert found == pytest.approx([by_hand(loaded.policy, talk) for talk in TALKS], abs=1e-4)
    assert len(set(found)) == 2


def test_a_talk_that_leaves_no_room_gets_nothing(loaded: Loaded) -> None:
    long = (Message("user", "x" * 600),)
    assert loaded.first_letter([TALKS[0], long, TALKS[1]], silent)[1] is None
    said = loaded.say([TALKS[0], long], Sampling(max_new_tokens=3), 0, [1, 2], silent)
    assert said[0].text is not None and (said[1].text, said[1].why) == (None, "too long")


def test_what_is_drawn_hangs_on_the_number_and_not_on_the_place(loaded: Loaded) -> None:
    sampling = Sampling(max_new_tokens=8, temperature=1.0)
    one = loaded.say(TALKS, sampling, 3, [11, 12], silent)
    other = loaded.say(TALKS[::-1], sampling, 3, [12, 11], silent)
    assert one == other[::-1]
    assert one != loaded.say(TALKS, sampling, 4, [11, 12], silent)


def token(text: str, **told: float) -> dict[str, Any]:
    return {"token": text, "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in told.items()]}


def test_letters_by_hand() -> None:
    shares = {"A": math.log(0.6), " B": math.log(0.2), "(A": math.log(0.1)}
    assert letter_in([token("A", **shares)]) == pytest.approx(0.7 / 0.9)
    assert letter_in([token("("), token("B", **shares)]) == pytest.approx(0.7 / 0.9)
    only = {"A": math.log(0.9), "the": math.log(0.05)}
    assert letter_in([token("A", **only)]) == pytest.approx(0.9 / 0.95)  # B is at most as likely as the least told


@pytest.mark.parametrize(
    "tokens",
    [[], [token("neither")], ["A"], [None], [{"token": "A"}], [{"token": "A", "top_logprobs": [{"token": "A"}]}],
     [{"token": "A", "logprob": math.nan}], [token("A", A=1e9)], [token("A", A=math.inf)], [token("A", A=-(10**400))],
     [{"token": "A", "logprob": 10**400}], [{"token": "A", "top_logprobs": 5, "logprob": "x"}], [{"token": "A", "logprob": "-1"}], [{"token": ["A"]}], [token("Apple")]],
)  # fmt: skip
def test_what_is_no_letter_tells_nothing(tokens: list[Any]) -> None:
    assert letter_in(tokens) is None


def reply(content: Any, logprobs: Any = None, reason: str = "stop") -> Answer:
    choice = {"message": {"content": content}, "logprobs": logprobs, "finish_reason": reason}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def remote(server: Server) -> Telling:  # noqa: F811
    return Telling(Endpoint(url=server.url, model="wise", retries=1, timeout=5, at_once=1), sleep=lambda seconds: None)


def test_an_address_is_given_the_whole_talk(server: Server) -> None:  # noqa: F811
    server.answers = [reply(" well said \n"), reply("cut", reason="length")]
    one, other = remote(server).say(TALKS, Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9), 7, [0, 1], silent)
    assert (one.text, one.finished, other.text, other.finished) == ("well said", True, "cut", False)
    bodies = [body for _, _, body in server.asked]
    assert [len(body["messages"]) for body in bodies] == [1, 3]
    told = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "max_tokens": 9}
    assert {name: bodies[0][name] for name in told} == told


def test_an_address_tells_letters_by_its_likeliest_tokens(server: Server) -> None:  # noqa: F811
    shares = {"A": math.log(0.6), "B": math.log(0.2)}
    server.answers = [reply("A", {"content": [token("A", **shares)]}), reply("well", {"content": [token("well")]})]
    assert remote(server).first_letter(TALKS, silent) == [pytest.approx(0.75), None]
    assert server.asked[0][2]["logprobs"] is True and server.asked[0][2]["top_logprobs"] >= 5


def test_an_address_without_log_probabilities_is_refused_with_the_cure(server: Server) -> None:  # noqa: F811
    server.answers = [reply("A")]
    with pytest.raises(UsageError, match=r"tells no log-probabilities.*feedback: \{model: NAME\}"):
        remote(server).first_letter(TALKS, silent)


@pytest.mark.parametrize("body", [b"", b'{"choices": [1]}', b'{"choices": [{"message": 1}]}', b"[" * 9000])
def test_a_reply_that_cannot_be_read_says_nothing_and_tells_no_letter(server: Server, body: bytes) -> None:  # noqa: F811
    server.answers = [(200, {}, body)]
    (said,) = remote(server).say(TALKS[:1], Sampling(), 0, [0], silent)
    assert (said.text, said.why) == (None, "unreadable")
    assert remote(server).first_letter(TALKS[:1], silent) == [None]


def test_a_missing_key_is_told_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"url": "http://localhost/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UsageError, match="'NO_SUCH_KEY' is not set, and the key of the feedback model"):
        load_feedback(FeedbackModel.model_validate({"endpoint": address}), None)
