"""Rollouts: whose answers they are, what they earn, what is left out, and that nothing but step, seed and weights decides."""

import math

import pytest
import torch

from posttrain.data.chat import ChatFormat
from posttrain.engine.job import Job
from posttrain.engine.loop import shares
from posttrain.engine.rewarding import Rewards, rewarding
from posttrain.engine.rollouts import Asked, FromRollouts, KLRule, without_prompts_too_long
from posttrain.methods.objectives.grpo import GRPO
from posttrain.methods.objectives.ppo import PPO
from posttrain.methods.objectives.rloo import RLOO
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.models.scorer import Scorer
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Message, Prompt
from tests import tiny

FORM = ChatFormat(tiny.tokenizer())
ROWS = [
    Prompt((Message("user", f"{'so ' * n}say {word}"),), answer=word)
    for n, word in enumerate(["ja", "no", "oui", "hai"])
]
ASKED = [Asked(row, tuple(FORM.ask(row))) for row in ROWS]
SAID = {"ja": ["ja", "nein"], "no": ["no", "none"], "oui": ["ja", "oui"], "hai": ["hai", "h"]}
END = tiny.tokenizer().eos_token_id


class Scripted:
    """Gives the answers that are written down; those of one letter do not end by themselves."""

    def sample(self, prompts, sampling, seed=0, n=1):
        found = []
        for prompt in prompts:
            word = next(each.row.answer for each in ASKED if each.ids == tuple(prompt))
            for text in (SAID[word] * n)[:n]:
                found.append([*tiny.tokenizer()(text)["input_ids"], *([END] if len(text) > 1 else [])])
        return found


def source(functions=("exact",), sampler=None, asked=ASKED, **changes):
    known = {
        "asked": asked, "sampler": sampler or Scripted(), "form": FORM,
        "rewarding": rewarding(Rewards(functions=list(functions)), None), "sampling": Sampling(max_new_tokens=6, temperature=1.0),
        "kl": KLRule(0.1), "n_prompts": 4, "n_answers": 2, "seed": 0, "tree_tokens": 10**6,
    }  # fmt: skip
    return FromRollouts(**known | changes)


def policy(seed=1):
    return Policy(tiny.model(seed=seed), tiny.tokenizer(), layout="packed")


def drawing(policy, seed=0, **changes):
    return source(sampler=TransformersSampler(policy, FORM.stop_ids), seed=seed, **changes)


def texts(batch):
    """(prompt, answer) in the order of the batch, with the columns beside."""
    ids = [batch.trees[t].prompt for t in batch.tree_of.tolist()]
    words = [next(each.row.answer for each in ASKED if each.ids == prompt) for prompt in ids]
    return list(zip(words, [tiny.tokenizer().decode(b.tokens) for b in batch.branches], strict=True))


def length(output, row):
    return float(len(output)) + 100 * float(len(row["answer"]))


def unsure(output, row):
    """No verdict on answers that begin with n."""
    return {"nein": None, "no": math.nan, "none": math.inf}.get(output, 1.0)


def never(output, row):
    return None


HERE = "tests.engine.test_rollouts"


def test_every_answer_has_its_own_score_in_its_own_group():
    """Answers stand branch by branch, while they are drawn prompt by prompt."""
    batch = source([f"{HERE}:length"], missing_end=0.5).draw(0, None)
    assert len(batch) == 8
    for n, (word, text) in enumerate(texts(batch)):
        said = text.removesuffix("<|end|>")
        assert said in SAID[word]
        assert batch.reward[n] == len(said) + 100 * len(word)
        assert batch.finished[n] == float(len(said) > 1)
        assert batch.penalty[n] == 0.5 * float(len(said) == 1)
        assert batch.group[n] == batch.group[batch.tree_of == batch.tree_of[n]][0]
    assert sorted(batch.group.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.longest.tolist() == [6] * 8
    assert batch.kl_coefficient.tolist() == pytest.approx([0.1] * 8)


def test_what_is_told_is_counted_by_hand():
    from_rollouts = source(["exact", {f"{HERE}:length": {"weight": 0.01}}])
    batch = from_rollouts.draw(0, None)
    told = from_rollouts.told()
    written = [text for each in SAID.values() for text in each]
    exact = sum(text == word for word, each in SAID.items() for text in each) / 8
    by_length = sum(len(text) + 100 * len(word) for word, each in SAID.items() for text in each) / 8
    assert told["reward"] == pytest.approx(exact + 0.01 * by_length)
    assert told["reward_exact"] == pytest.approx(exact)
    assert told["reward_length"] == pytest.approx(by_length)
    assert told["finished"] == 7 / 8
    assert told["answer_tokens"] == pytest.approx(sum(len(text) + (len(text) > 1) for text in written) / 8)
    assert told["kl_coefficient"] == 0.1
    assert "unjudged" not in told
    assert float(batch.reward.mean()) == pytest.approx(told["reward"], rel=1e-6)


def test_answers_without_a_verdict_are_counted_and_left_out():
    """Neither learnt from, nor in the mean that the others are compared with."""
    from_rollouts = source([f"{HERE}:unsure"])
    batch = from_rollouts.draw(0, None)
    assert from_rollouts.told()["unjudged"] == 3
    assert {text.removesuffix("<|end|>") for _, text in texts(batch)} == {"ja", "oui", "hai", "h"}
    assert len(batch) == 5
    assert batch.reward.tolist() == [1.0] * 5
    assert len(batch.trees) == 3  # answers to one prompt are together all the same
    assert bool(batch.reward.isfinite().all())


def test_too_few_verdicts_end_the_run():
    with pytest.raises(DataError, match=r"8 from never"):
        source([f"{HERE}:never"]).draw(0, None)


def test_one_missing_verdict_of_several_leaves_the_answer_out():
    batch = source(["exact", f"{HERE}:unsure"]).draw(0, None)
    assert len(batch) == 5


def test_a_draw_depends_on_step_seed_and_weights_alone():
    def drawn(of, step, seed=0, weights=1, asked=ASKED):
        made = of or drawing(policy(weights), seed, n_prompts=2, asked=asked)
        batch = made.draw(step, None)
        return [(tree.prompt, tree.branches) for tree in batch.trees], batch.reward.tolist()

    walked = drawing(policy(), n_prompts=2)
    steps = [drawn(walked, step) for step in range(5)]
    assert steps == [drawn(None, step) for step in range(5)]
    assert drawn(walked, 1) == steps[1]
    assert steps[0] != steps[2]  # the same prompts in another epoch are answered anew
    assert drawn(None, 0, seed=1) != steps[0]
    assert drawn(None, 0, weights=2) != steps[0]


def test_every_prompt_is_asked_once_an_epoch():
    from_rollouts = source(n_prompts=3)
    assert from_rollouts.steps_per_epoch == 2
    for epoch in range(2):
        batches = [from_rollouts.draw(2 * epoch + step, None) for step in range(2)]
        assert [len(batch) for batch in batches] == [6, 2]
        assert sorted(word for batch in batches for word, _ in texts(batch)) == sorted([*SAID, *SAID])


OBJECTIVES = [GRPO(kl=0.1), GRPO(over="tokens"), GRPO(over="length", ratio="answer"), RLOO(), PPO()]


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: type(objective).__name__)
def test_the_answers_to_a_prompt_may_be_cut_into_several_trees(objective):
    """What they are compared with is the group and not the tree, and the gradient is the same."""
    found = []
    for tree_tokens, micro_tokens in ((10**6, 10**6), (25, 10**6), (25, 40), (1, 1)):
        of = Models(policy(1), policy(9), Scorer(tiny.reward_model(seed=5), tiny.tokenizer(), layout="packed"))
        with torch.no_grad():
            drawn = drawing(policy(1), n_answers=5, tree_tokens=tree_tokens, missing_end=0.3).draw(0, of)
            batch = objective.prepare(drawn, of)
        sums = shares(of, objective, batch, micro_tokens).sums
        gradient = torch.cat([p.grad.flatten() for p in of.trained().values() if p.grad is not None])
        found.append((len(batch.trees), gradient, sums))
    assert found[0][0] == 4 < found[1][0] < found[3][0] == 20
    for _, gradient, sums in found[1:]:
        assert (gradient - found[0][1]).norm() < 1e-4 * found[0][1].norm()
        assert sums == pytest.approx(found[0][2], rel=1e-4, abs=1e-5)
    assert found[0][1].norm() > 1e-3


def test_prompts_that_leave_no_room_are_dropped_and_counted():
    lengths = sorted(len(each.ids) for each in ASKED)
    fitting, dropped = without_prompts_too_long(ASKED, lengths[2])
    assert (len(fitting), dropped) == (2, 2)
    assert all(len(each.ids) < lengths[2] for each in fitting)
    with pytest.raises(DataError, match=f"None of the 4 prompts leaves room for an answer within {lengths[0]} tokens"):
        without_prompts_too_long(ASKED, lengths[0])


def test_the_price_of_kl_follows_its_target_from_step_to_step(tmp_path):
    from_rollouts = source(kl=KLRule(0.1, target=2.0, horizon=80))
    job = Job(tmp_path, tmp_path)
    prices = [0.1]
    for kl in (9.0, 2.2, -1.0):
        error = min(max(kl / 2 - 1, -0.2), 0.2)
        prices.append(prices[-1] * (1 + error * 8 / 80))
        from_rollouts.heard(1, {"kl": kl, "answer_tokens": 3.0, "finished": 1.0}, job)
    assert from_rollouts.told()["kl_coefficient"] == pytest.approx(prices[-1])
    assert from_rollouts.draw(1, None).kl_coefficient.tolist() == pytest.approx([prices[-1]] * 8)
    again = source(kl=KLRule(0.1, target=2.0, horizon=80))
    again.load_state_dict(from_rollouts.state_dict())
    assert again.coefficient == from_rollouts.coefficient
    assert again.diagnosis.state == from_rollouts.diagnosis.state
    steady = source()
    steady.heard(1, {"kl": 50.0, "answer_tokens": 3.0, "finished": 1.0}, job)
    assert steady.coefficient == 0.1


def test_a_model_whose_answers_have_no_end_writes_whole_ones():
    form = ChatFormat(tiny.tokenizer())
    form.stop_ids = frozenset()
    batch = source(form=form, missing_end=1.0).draw(0, None)
    assert batch.finished.tolist() == [1.0] * 8
    assert batch.penalty.tolist() == [0.0] * 8
