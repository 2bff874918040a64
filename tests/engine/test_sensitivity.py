"""What is lost is told at the tokens that rows teach: those of answers, or of whole texts, as whole logits say it."""

import pytest
import torch

from posttrain.engine.job import Job
from posttrain.engine.sensitivity import Aside, moved, sensitivities
from posttrain.functional.layout import Branch, Tree
from posttrain.functional.rounding import Integers
from posttrain.models.matrices import matrices_in
from tests import tiny

TREES = (
    Tree((7, 8, 9), (Branch((10, 11, 12), (True, False, True)),)),
    Tree((20,), (Branch(tuple(range(21, 40)), (True,) * 19),)),
)


def by_whole_logits(model, other) -> list[float]:
    """The divergence at each token that is learnt."""
    found = []
    for tree in TREES:
        (branch,) = tree.branches
        ids = torch.tensor([[*tree.prompt, *branch.tokens]])
        with torch.no_grad():
            p, q = (each(input_ids=ids).logits[0].log_softmax(-1) for each in (model, other))
        before = [len(tree.prompt) + n - 1 for n, learnt in enumerate(branch.trained) if learnt]
        found += (p.exp() * (p - q)).sum(-1)[before].tolist()
    return found


def test_the_tokens_that_are_learnt_count_and_no_others():
    model, other = tiny.model(seed=0), tiny.model(seed=1)
    aside = Aside.of(model, tiny.tokenizer(), TREES)
    wanted = by_whole_logits(model, other)
    assert aside.n_tokens == len(wanted) == 2 + 19
    assert aside.kl(other) == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert aside.kl(model) == pytest.approx(0, abs=1e-6)


def test_another_head_counts_too():
    """As that of a GGUF file, which is rounded."""
    model, other = tiny.model(seed=0), tiny.model(seed=0)
    aside = Aside.of(model, tiny.tokenizer(), TREES)
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(1.5)
    wanted = by_whole_logits(model, other)
    assert aside.kl(other) == pytest.approx(sum(wanted) / len(wanted), rel=1e-4) and wanted[0] > 0.01


def test_losses_go_with_the_square_of_what_moves_and_the_model_stays(tmp_path):
    """Four bits alone are measured; eight and six are told from it, and small changes bear that out."""
    model = tiny.model(seed=0)
    aside = Aside.of(model, tiny.tokenizer(), TREES)
    before = {name: matrix.weight.clone() for name, matrix in matrices_in(model).items()}
    per_square = sensitivities(model, aside, Integers(4, 16), Job(tmp_path, tmp_path))
    assert all(torch.equal(matrix.weight, before[name]) for name, matrix in matrices_in(model).items())
    told = {bits: sum(per_square[n] * moved([w], Integers(bits, 16)) for n, w in before.items()) for bits in (8, 4)}
    assert told[8] < told[4] / 100
    again = sensitivities(model, aside, Integers(4, 16), Job(tmp_path, tmp_path))
    assert again == per_square  # what is on the disk
