"""GCG: the gradient is that of the loss, the loss falls, and a model reads the very tokens that were searched."""

from pathlib import Path

import pytest
import torch

from posttrain.data.chat import ChatFormat
from posttrain.data.program import PromptProgram
from posttrain.models.adapters import NAME, Adapter, attach
from posttrain.models.load import load_weights
from posttrain.models.policy import Policy
from posttrain.models.sampler import Sampling
from posttrain.models.speaker import Local
from posttrain.models.suffix import Suffix
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import UsageError
from posttrain.schema.rows import Prompt
from tests import tiny
from tests.besieged import asked, attack, goal, local, played, scene
from tests.kinds import KINDS

TARGET = "Sure"


def weights(family="llama", seed=0, program=None) -> Local:
    tokenizer = tiny.tokenizer()
    return Local(
        Policy(tiny.model(family, seed), tokenizer), ChatFormat(tokenizer, program), Sampling(max_new_tokens=8)
    )


def searched(model: Local, n=4) -> Suffix:
    box = goal()
    return Suffix(model, box.put, box.request, TARGET, n)


@pytest.mark.parametrize("program", [None, PromptProgram(layout="plain")], ids=["chat", "plain"])
def test_what_is_asked_in_text_is_read_as_these_tokens(program):
    suffix = searched(weights(program=program))
    assert suffix.form.ask(Prompt(suffix.put(suffix.text(suffix.start)))) == [
        *suffix.before,
        *suffix.start,
        *suffix.after,
    ]
    assert suffix.is_read_back(suffix.start)
    special = suffix.form.tokenizer.convert_tokens_to_ids("<|user|>")
    assert not suffix.is_read_back([special, *suffix.start[1:]])


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma"])
def test_the_loss_is_that_of_the_whole_text(family):
    suffix = searched(weights(family))
    ids = [*suffix.before, *suffix.start, *suffix.after, *suffix.target]
    logits = suffix.policy.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    wanted = -sum(logits[i - 1, ids[i]] for i in range(len(ids) - len(suffix.target), len(ids))) / len(suffix.target)
    assert float(suffix.losses([suffix.start])[0]) == pytest.approx(wanted.item(), rel=1e-4)


def adapted(kind: str, folder: Path) -> Local:
    """A tiny model with an adapter that was moved away from its first values."""
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    made = attach(load_weights(Model(folder, "base")), Adapter.model_validate(KINDS[kind]), tiny.tokenizer(), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (p for p in made.parameters() if p.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.3)
    tokenizer = tiny.tokenizer()
    return Local(Policy(made, tokenizer, adapter=NAME), ChatFormat(tokenizer), Sampling(max_new_tokens=8))


@torch.no_grad()
def moved(suffix: Suffix, place: int, other: int, share: float) -> float:
    """The loss with one place a share of the way from its token towards another."""
    table, n = suffix.policy.model.get_input_embeddings(), len(suffix.target)
    ids = torch.tensor([[*suffix.before, *suffix.start, *suffix.after, *suffix.target]])
    vectors, at = table(ids).clone(), len(suffix.before) + place
    vectors[0, at] = (1 - share) * table(ids[0, at]) + share * table(torch.tensor(other))
    with suffix.policy.answering():
        made = suffix.policy.model(inputs_embeds=vectors, attention_mask=torch.ones_like(ids), use_cache=False)
    return float(torch.nn.functional.cross_entropy(made.logits[0, -n - 1 : -1].double(), ids[0, -n:]))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma", "lora", "prefix", "p_tuning"])
def test_the_slope_is_the_derivative_along_one_hot_vectors(kind, tmp_path):
    """Moving a place a little from its token towards another, the loss changes by the difference of their slopes; with an
    adapter it is that of the model as it answers, and so is the loss."""
    suffix = searched(adapted(kind, tmp_path) if kind in KINDS else weights(kind))
    slope, place, step = suffix.slope(suffix.start), 1, 1e-3
    change = slope[place] - slope[place, suffix.start[place]]
    other = int(change.abs().argmax())
    measured = (moved(suffix, place, other, step) - moved(suffix, place, other, -step)) / (2 * step)
    assert measured == pytest.approx(float(change[other]), rel=0.02)
    assert float(suffix.losses([suffix.start])[0]) == pytest.approx(moved(suffix, place, other, 0.0), rel=1e-4)


def test_losses_do_not_depend_on_neighbours():
    suffix = searched(weights())
    draw = torch.Generator().manual_seed(0)
    many = torch.randint(6, 200, (40, len(suffix.start)), generator=draw).tolist()
    together = suffix.losses(many)
    suffix.policy.micro_tokens = 30
    assert torch.allclose(suffix.losses(many), together, rtol=1e-4)
    assert together[7] == pytest.approx(float(suffix.losses([many[7]])[0]), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_of_the_target_falls_by_more_than_drawing_brings(seed):
    model = weights(seed=seed)
    moves = played(
        attack("gcg", steps=12, every=4, length=6, candidates=32), goal(complied=TARGET), scene(seed, weights=model)
    )
    suffix = searched(model)

    def loss(text):
        ids = suffix.form.ask(Prompt(suffix.put(text)))
        n = len(suffix.before), len(ids) - len(suffix.after)
        return float(suffix.losses([ids[n[0] : n[1]]])[0])

    before, *after = [loss(text) for text in [f"{goal().request} ! ! ! ! ! !", *asked(moves)]]
    assert len(after) == 3
    assert before > after[0] >= after[1] >= after[2]
    assert after[-1] < before - 0.5


def test_only_what_may_be_typed_is_in_the_suffix():
    moves = played(attack("gcg", steps=6, every=1), goal(), scene(weights=local()))
    assert len(moves) == 6
    assert all(text.startswith(goal().request) and text.isascii() and text.isprintable() for text in asked(moves))


def test_it_needs_the_weights():
    with pytest.raises(UsageError, match="Leave out `target`"):
        played(attack("gcg"), goal(), scene())
    assert attack("gcg").needs() == {"opens"}


def test_a_request_that_leaves_no_room_is_not_asked():
    assert played(attack("gcg"), goal("x" * 600), scene(weights=local())) == []
