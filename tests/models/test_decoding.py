"""Answers in flight are the model's own: those of padded rows and of transformers' generate, whoever flies beside them."""

import peft
import pytest
import torch
import transformers as hf

from posttrain import lab
from posttrain.functional.layout import packed
from posttrain.models import attention, decoding
from posttrain.models.adapters import NAME, Adapter, attach
from posttrain.models.decoding import Answer, Asked, Flight, reach
from posttrain.models.drawing import drawn, likeliest
from posttrain.models.policy import Policy
from posttrain.models.sampler import Drawing, Sampling, TransformersSampler
from tests import tiny

GREEDY, DRAWN = Sampling(max_new_tokens=70), Sampling(max_new_tokens=70, temperature=1.0)
STOPS = frozenset(range(5, tiny.VOCABULARY, 25))


def prompts(n: int, longest: int = 60, seed: int = 1) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (n,), generator=draw).tolist()
    return [torch.randint(tiny.VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


def policy_of(family: str = "llama", **changes) -> Policy:
    return Policy(tiny.model(family, seed=2, **changes), tiny.tokenizer())


def in_rows(policy: Policy, *args, **named) -> list[list[int]]:
    """The answers of padded rows."""
    known, policy.reach = policy.reach, 0
    try:
        return TransformersSampler(policy, STOPS).sample(*args, **named)
    finally:
        policy.reach = known


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("n", [1, 3])
def test_answers_are_those_of_padded_rows_whoever_flies_beside_them(family: str, n: int):
    policy = policy_of(family)
    assert reach(policy) > 0
    for sampling in (GREEDY, DRAWN):
        wanted = in_rows(policy, prompts(10), sampling, seed=3, n=n)
        for at_once in (5, 64):
            assert TransformersSampler(policy, STOPS, at_once).sample(prompts(10), sampling, seed=3, n=n) == wanted
    assert len({len(answer) for answer in wanted}) > 4


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_greedy_answers_are_those_of_generate(n: int):
    policy, n_new = policy_of(), 40
    found = TransformersSampler(policy, frozenset()).sample(prompts(6), Sampling(max_new_tokens=n_new), n=n)
    for i, prompt in enumerate(prompts(6)):
        assert found[i * n : (i + 1) * n] == [generated(policy.model, prompt, n_new)] * n


@pytest.mark.slow
def test_greedy_answers_of_the_lab_are_those_of_generate():
    tokenizer = hf.AutoTokenizer.from_pretrained(lab.base())
    model = hf.AutoModelForCausalLM.from_pretrained(
        lab.base(), dtype=torch.float32, attn_implementation=attention.register()
    )
    policy = Policy(model, tokenizer)
    texts = ["Question: what is the color of the", "Ada said", "the boat is in the harbor and", "1 2 3 4"]
    asked = tokenizer(texts, add_special_tokens=False).input_ids
    found = TransformersSampler(policy, frozenset()).sample(asked, Sampling(max_new_tokens=48), n=2)
    assert reach(policy) > 0
    assert found == [generated(model, ids, 48) for ids in asked for _ in range(2)]


def generated(model, prompt: list[int], n: int) -> list[int]:
    ids = torch.tensor([prompt])
    model.generation_config.eos_token_id = None  # a config that says nothing of it would be given the model's own
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0)
    return made[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_an_answer_draws_the_same_as_when_its_prompt_is_repeated():
    policy = policy_of()
    sampler = TransformersSampler(policy, STOPS)
    repeated = [prompt for prompt in prompts(4) for _ in range(3)]
    assert sampler.sample(prompts(4), DRAWN, seed=7, n=3) == sampler.sample(repeated, DRAWN, seed=7)


def test_every_prompt_is_read_once_and_let_go(monkeypatch):
    policy, asked = policy_of(), [Asked(prompt) for prompt in prompts(12)]
    answers = [Answer(row, asked[row // 4], 10) for row in range(48)]
    reach(policy)
    read: list[int] = []

    def noted(trees):
        read.extend(len(tree.prompt) for tree in trees)
        return packed(trees)

    monkeypatch.setattr(decoding, "READ_TOKENS", 100)
    monkeypatch.setattr(decoding, "packed", noted)
    flight = Flight(policy, Drawing(GREEDY, 0), frozenset(), most=6)
    with torch.no_grad():
        flight.run(answers)
    assert read == sorted(len(each.ids) for each in asked)
    assert not flight.read and not any(each.pairs for each in asked)
    assert all(len(answer.tokens) == 10 for answer in answers)


@pytest.mark.slow
def test_places_stay_within_the_budget(monkeypatch):
    policy, wanted = policy_of(), None
    for budget in (16_384, 300, 1):
        monkeypatch.setattr(decoding, "BATCH_TOKENS", budget)
        for n in (1, 4):
            needed: list[int] = []
            seat = Flight._seat

            def watched(flight, boarding, seat=seat, needed=needed):
                in_flight = [*flight.slots.taken(), *boarding]
                needed.append(flight._tokens(in_flight) if len(in_flight) > 1 else 0)
                seat(flight, boarding)

            monkeypatch.setattr(Flight, "_seat", watched)
            found = TransformersSampler(policy, STOPS).sample(prompts(8), GREEDY, n=n)[::n]
            monkeypatch.setattr(Flight, "_seat", seat)
            assert max(needed) <= budget and (budget > 300 or max(needed) < 16_384)
            wanted = wanted or found
            assert found == wanted


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_texts_longer_than_a_window_decode_in_padded_rows(n: int, monkeypatch):
    policy = policy_of("mistral", sliding_window=24)
    assert reach(policy) == 24
    short, long = Sampling(max_new_tokens=6), Sampling(max_new_tokens=40)
    flown: list[int] = []
    monkeypatch.setattr(Flight, "run", lambda flight, answers, run=Flight.run: flown.append(1) or run(flight, answers))
    for sampling, flights in ((short, 1), (long, 1)):
        asked = prompts(5, longest=18)
        found = TransformersSampler(policy, frozenset()).sample(asked, sampling, n=n)
        assert found[::n] == [generated(policy.model, prompt, sampling.max_new_tokens) for prompt in asked]
        assert len(flown) == flights


def test_what_a_flight_cannot_do_is_found_out():
    model = tiny.model()
    model.set_attn_implementation("sdpa")
    assert reach(Policy(model, tiny.tokenizer())) == 0
    virtual = attach(tiny.model(), Adapter.model_validate({"prompt": {"tokens": 5}}), tiny.tokenizer(), seed=0)
    assert reach(Policy(virtual, tiny.tokenizer(), adapter=NAME)) == 0
    assert reach(Policy(tiny.encoder_decoder(), tiny.encoder_tokenizer())) == 0
    wrong = policy_of()
    wrong.model.register_forward_pre_hook(_off_by_one, with_kwargs=True)
    assert wrong.reach is None and reach(wrong) == 0


def _off_by_one(module, args, kwargs):
    """A model that counts positions from elsewhere when it decodes."""
    if kwargs.get("input_ids") is not None and kwargs["input_ids"].shape[1] == 1:
        kwargs["position_ids"] = kwargs["position_ids"] + 1
    return args, kwargs


@pytest.mark.slow
def test_adapters_answer_or_not_and_weights_may_change():
    weights = peft.get_peft_model(tiny.model(seed=2), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]), NAME)
    adapted = Policy(weights, tiny.tokenizer(), adapter=NAME)
    base = Policy(weights, tiny.tokenizer(), adapter=None)
    before = TransformersSampler(base, STOPS).sample(prompts(6), GREEDY, n=2)
    assert TransformersSampler(adapted, STOPS).sample(prompts(6), GREEDY, n=2) == before  # B is zero
    with torch.no_grad():
        for name, parameter in weights.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    after = TransformersSampler(adapted, STOPS).sample(prompts(6), GREEDY, n=2)
    assert after != before and after == in_rows(adapted, prompts(6), GREEDY, n=2)
    assert TransformersSampler(base, STOPS).sample(prompts(6), GREEDY, n=2) == before


@pytest.mark.slow
def test_the_same_call_gives_the_same_answers_in_bfloat16():
    policy = Policy(tiny.model(seed=2), tiny.tokenizer())
    policy.dtype = "bfloat16"
    first, again = (TransformersSampler(policy, STOPS).sample(prompts(8), DRAWN, seed=2, n=3) for _ in range(2))
    assert first == again and reach(policy) > 0 and policy.dtype == "bfloat16"
    whole = Policy(policy.model, tiny.tokenizer())
    plain = TransformersSampler(whole, STOPS).sample(prompts(8), DRAWN, seed=2, n=3)
    assert sum(a[0] == b[0] for a, b in zip(first, plain, strict=True)) > 12  # of 24: probabilities are near the same


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 3])
def test_whoever_watches_hears_of_every_answer_in_order(n: int):
    told: list[int] = []
    TransformersSampler(policy_of(), STOPS, batch=4, watch=told.append).sample(prompts(7), DRAWN, n=n)
    assert told == sorted(set(told)) and told[-1] == 7 * n and len(told) > 2


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [7, 300, 1024, 5000])
def test_tokens_are_chosen_as_the_plain_definitions_say(n_tokens: int):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(200, n_tokens, generator=draw) * 2
    logits[0] = 0
    assert torch.equal(likeliest(logits), logits.argmax(-1))
    p, u = logits.softmax(-1), torch.rand(200, generator=draw, dtype=torch.float64)
    assert torch.equal(drawn(p, u), passed(p, u))
    p = p[1:]  # without the row of ties
    for top_p in (0.3, 0.9, 0.9999):
        sorted_, tokens = torch.sort(p.double(), dim=-1, descending=True, stable=True)
        kept = sorted_ * (sorted_.cumsum(-1) - sorted_ < top_p)
        assert torch.equal(drawn(p, u[1:], top_p), tokens.gather(1, passed(kept, u[1:])[:, None])[:, 0])


def passed(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    summed = weights.double().cumsum(-1)
    return (summed <= uniform[:, None] * summed[:, -1:]).sum(-1)


def test_no_token_is_drawn_that_cannot_come():
    p = torch.zeros(3, 400)
    p[:, 399], p[:, 130] = 0.5, 0.5
    for u, token in ((0.0, 130), (0.5, 399), (1 - 2**-53, 399)):
        assert drawn(p, torch.full((3,), u, dtype=torch.float64)).tolist() == [token] * 3
