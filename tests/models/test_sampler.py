"""Sampling: greedy text is the model's own, draws follow the model's distribution, neighbours do not matter."""

import pytest
import torch

from posttrain.models.drawing import drawn
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.errors import DataError
from tests import tiny

PROMPTS = [[7, 8, 9], [10] * 20, [11, 12], [13, 14, 15, 16, 17]]


@pytest.fixture(scope="module")
def policy():
    return Policy(tiny.model(seed=2), tiny.tokenizer())


def greedy_alone(model, prompt, stop_ids, n):
    """The definition: the whole text again for every token."""
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]


@pytest.mark.slow
def test_greedy_equals_the_definition(policy):
    free = [greedy_alone(policy.model, prompt, (), 12) for prompt in PROMPTS]
    stop_ids = frozenset({free[0][3], free[2][5]})  # tokens that will come up, so that rows leave the batch early
    wanted = [greedy_alone(policy.model, prompt, stop_ids, 12) for prompt in PROMPTS]
    assert len({len(answer) for answer in wanted}) > 1
    assert TransformersSampler(policy, stop_ids).sample(PROMPTS, Sampling(max_new_tokens=12)) == wanted


def test_a_row_draws_the_same_whoever_is_beside_it(policy):
    sampling = Sampling(max_new_tokens=10, temperature=1.0)
    together = TransformersSampler(policy, frozenset()).sample(PROMPTS, sampling, seed=5)
    in_pairs = TransformersSampler(policy, frozenset(), batch=2).sample(PROMPTS, sampling, seed=5)
    other_seed = TransformersSampler(policy, frozenset()).sample(PROMPTS, sampling, seed=6)
    assert together == in_pairs
    assert together != other_seed


def test_draws_follow_the_distribution():
    logits = torch.tensor([[1.0, 3.0, 2.0, -1.0]])
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens = drawn((logits / 0.5).softmax(-1).expand(1000, -1), uniform)
    shares = torch.bincount(tokens, minlength=4) / 1000
    assert torch.allclose(shares, (logits[0] / 0.5).softmax(-1), atol=0.002)


def test_top_p_keeps_the_likeliest_that_hold_it():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    tokens = drawn(logits.softmax(-1).expand(1000, -1), uniform, top_p=0.6)
    shares = torch.bincount(tokens, minlength=4) / 1000
    assert torch.allclose(shares, torch.tensor([0.625, 0.375, 0, 0]), atol=0.002)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_answers_end_with_the_context_and_longer_prompts_are_refused(family):
    model = Policy(tiny.model(family, max_position_embeddings=24), tiny.tokenizer())
    sampler = TransformersSampler(model, frozenset())
    assert [len(answer) for answer in sampler.sample([[5] * 20], Sampling(max_new_tokens=50))] == [5]
    with pytest.raises(DataError, match="A prompt has 25 tokens and the model reads 24"):
        sampler.sample([[5] * 25], Sampling())
