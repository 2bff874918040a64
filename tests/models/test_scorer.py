"""A scorer gives what plain transformers gives for each answer alone: packed and padded, whole and in pieces."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.data.batch import Batch
from posttrain.engine.store import Store
from posttrain.functional.layout import Branch, Tree, answer_order
from posttrain.models.load import load_policy, load_scorer
from posttrain.models.scorer import Scorer
from posttrain.schema.errors import ModelError
from tests import tiny

RAGGED = Batch((*tiny.trees(4, 2, seed=1, longest=150), *tiny.trees(2, 3, seed=4), *tiny.trees(1, 1, seed=5)))


@torch.no_grad()
def alone(model, batch):
    """The definition: each answer in a row of its own; the head at its last token, and before each trained one."""
    model.config.pad_token_id = None  # or transformers looks for the last token that is no padding
    rewards, values = [], []
    for _, t, b in answer_order(batch.trees):
        tree = batch.trees[t]
        branch, n = tree.branches[b], len(tree.prompt)
        path = torch.tensor([tree.prompt + branch.tokens])
        rewards.append(model(input_ids=path, use_cache=False).logits[0, 0])
        scored = model.score(model.base_model(input_ids=path, use_cache=False).last_hidden_state)[0, :, 0]
        values += [scored[n + i - 1] for i, trained in enumerate(branch.trained) if trained]
    return torch.stack(rewards), torch.stack(values)


def scorer(model, **options):
    return Scorer(model, tiny.tokenizer(), **options)


def both(of, batch):
    return of.rewards(batch), of.values(batch)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_scores_are_those_of_plain_transformers(family, layout):
    model = tiny.reward_model(family)
    chosen = scorer(model)
    assert chosen.layout == "packed", chosen.why
    with torch.no_grad():
        found = both(scorer(model, layout=layout), RAGGED)
    for ours, theirs in zip(found, alone(model, RAGGED), strict=True):
        assert theirs.std() > 0.1
        assert (ours - theirs).abs().max() < 1e-5


@torch.no_grad()
def test_a_last_token_that_is_padding_by_its_id_is_read_all_the_same():
    """transformers, with the same padding token, reads the token before."""
    model, pad = tiny.reward_model(), 1
    tree = Tree((7, 8, 9), (Branch((10, 11, pad), (True,) * 3), Branch((10, 11), (True,) * 2)))
    theirs = model(input_ids=torch.tensor([[7, 8, 9, 10, 11, pad]])).logits[0, 0]
    found = scorer(model).rewards(Batch((tree,)))
    assert float(theirs) == pytest.approx(float(found[1]), abs=1e-5)
    assert (found[0] - found[1]).abs() > 1e-2
    assert float(found[0]) == pytest.approx(float(alone(model, Batch((tree,)))[0][0]), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_gradients_agree_between_layouts(family):
    gradients = []
    for layout in ("packed", "padded"):
        model = tiny.reward_model(family)
        torch.cat(both(scorer(model, layout=layout), RAGGED)).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 1e-2
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-5


def test_pieces_without_gradient_keep_the_order():
    model = tiny.reward_model()
    whole, pieces = (scorer(model, layout="packed", micro_tokens=n) for n in (10**6, 40))
    with torch.no_grad():
        for one, other in zip(both(whole, RAGGED), both(pieces, RAGGED), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_a_micro_batch_is_a_part_of_the_whole():
    """Cut for a backward pass, every answer keeps its score."""
    of = scorer(tiny.reward_model())
    marked = RAGGED.having(whole=of.rewards(RAGGED).detach()).having_tokens(at=of.values(RAGGED).detach())
    parts = marked.split(100)
    assert len(parts) > 3
    for part in parts:
        assert torch.allclose(of.rewards(part), part.whole, atol=1e-5)
        assert torch.allclose(of.values(part), part.at, atol=1e-5)


def test_a_window_longer_than_the_probe_is_noticed_when_a_path_outgrows_it():
    model = tiny.reward_model("mistral", sliding_window=64)
    assert RAGGED.longest_path() > 64
    with torch.no_grad():
        found = both(scorer(model), RAGGED)
    for ours, theirs in zip(found, alone(model, RAGGED), strict=True):
        assert (ours - theirs).abs().max() < 1e-5


def test_an_offset_is_taken_off():
    model = tiny.reward_model()
    with torch.no_grad():
        plain, moved = both(scorer(model), RAGGED), both(scorer(model, offset=2.5), RAGGED)
    for one, other in zip(plain, moved, strict=True):
        assert torch.allclose(one - 2.5, other, atol=1e-6)


def test_a_head_of_its_own_is_read_and_trained():
    """A critic on the weights of a policy."""
    policy, head = tiny.model(), torch.nn.Linear(32, 1)
    of = scorer(policy, head=head)
    of.values(RAGGED).square().mean().backward()
    assert head.weight.grad.norm() > 1e-2
    assert {"head.weight", "head.bias"} < {name for name, _ in of.named_parameters()}
    with torch.no_grad():
        path = torch.tensor([RAGGED.trees[-1].prompt + RAGGED.trees[-1].branches[0].tokens])
        last = policy.base_model(input_ids=path).last_hidden_state[0, -1]
        assert float(of.rewards(Batch(RAGGED.trees[-1:]))) == pytest.approx(float(head(last)), abs=1e-5)


def test_an_adapter_scores_with_its_own_head():
    model = tiny.reward_model()
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="SEQ_CLS")
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        adapted.get_base_model().score.modules_to_save["default"].weight.mul_(2)
        with_adapter, without = (scorer(adapted, adapter=name).rewards(RAGGED) for name in ("default", None))
        plain = scorer(tiny.reward_model()).rewards(RAGGED)
    assert torch.allclose(without, plain, atol=1e-5)
    assert (with_adapter - without).abs().max() > 1e-2


def test_bfloat16_scores_nearly_the_same():
    model = tiny.reward_model()
    with torch.no_grad():
        exact, narrow = (scorer(model, dtype=dtype).rewards(RAGGED) for dtype in ("float32", "bfloat16"))
    assert narrow.dtype == torch.float32
    assert (exact - narrow).abs().max() < 0.1 * exact.abs().max()


def test_an_encoder_decoder_is_refused():
    with pytest.raises(ModelError, match=r"Give a decoder\."):
        Scorer(tiny.encoder_decoder(), tiny.encoder_tokenizer())


def test_a_model_that_writes_is_no_reward_model(workshop_model):
    with pytest.raises(ModelError, match=r"is no reward model: it holds dense weights\. Train one"):
        load_scorer(workshop_model)


def test_a_reward_model_writes_nothing(tmp_path):
    """Loaded as a model that writes it would have a head of drawn numbers."""
    tiny.reward_model().save_pretrained(tmp_path / "r")
    tiny.tokenizer().save_pretrained(tmp_path / "r")
    with pytest.raises(ModelError, match=r"writes nothing\. Name a model that answers\."):
        load_policy(Store(tmp_path / "store").model(str(tmp_path / "r")))


@pytest.fixture
def workshop_model(tmp_path):
    tiny.model().save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    return Store(tmp_path / "store").model(str(tmp_path / "m"))
