"""How large the inputs of matrices are: by hand, for each expert by itself, and for matrices that stand turned."""

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.engine.importance import importance
from posttrain.engine.job import Job
from posttrain.models.importance import Products, mean_squares
from tests import gguf_models


def heard(module: nn.Module, *texts: torch.Tensor) -> tuple[dict[str, np.ndarray], list[str]]:
    with torch.no_grad(), Products(module, "m") as products:
        for text in texts:
            module(text)
    return mean_squares(products.sums, products.tokens)


def test_squares_by_hand():
    found, silent = heard(nn.Linear(2, 3), torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[[2.0, 2.0]]]))
    assert found["m.weight"].tolist() == [np.float32(14 / 3), np.float32(8 / 3)]
    assert silent == []


def test_a_turned_matrix_is_heard_by_its_inputs():
    found, _ = heard(Conv1D(3, 2), torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    assert found["m.weight"].tolist() == [5.0, 2.0]


class Experts(nn.Module):
    """The first expert reads every text, the second those that begin with a number above 0, the third none."""

    def __init__(self) -> None:
        super().__init__()
        self.several = nn.Parameter(torch.ones(3, 4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nn.functional.linear(x[x[:, 0] > 0], self.several[1])
        return nn.functional.linear(x, self.several[0])


def test_each_expert_is_known_by_itself():
    found, silent = heard(Experts(), torch.tensor([[1.0, 2.0], [-3.0, 0.0]]))
    assert found["m.several"].tolist() == [[5.0, 2.0], [1.0, 4.0], [1.0, 1.0]]
    assert silent == ["m.several[2]"]


def test_every_matrix_of_a_mixture_of_experts_is_known(tmp_path):
    weights = gguf_models.model("qwen3_moe", vocab_size=300)
    before = weights.config._experts_implementation
    ids = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
    found = importance(Job(tmp_path, tmp_path), weights, ids)
    shapes = {name: tuple(x.shape) for name, x in weights.named_parameters() if x.dim() > 1 and ".layers." in name}
    assert {name: each.shape for name, each in found.items()} == {
        name: (*shape[:-2], shape[-1]) for name, shape in shapes.items()
    }
    experts = found["model.layers.0.mlp.experts.down_proj"]
    assert not np.allclose(experts[0], experts[1])
    assert weights.config._experts_implementation == before


def test_it_is_the_diagonal_of_the_gram_matrix(tmp_path):
    from posttrain.engine.layerwise import heard as gram_of
    from posttrain.models.blocks import Blocks
    from posttrain.models.inputs import groups

    weights = gguf_models.model("llama", vocab_size=300)
    ids = torch.randint(300, (8, 32), generator=torch.Generator().manual_seed(0))
    found = importance(Job(tmp_path, tmp_path), weights, ids)
    blocks = Blocks(weights, ids, torch.device("cpu"))
    for block in blocks:
        inputs = gram_of(blocks, block, groups(block, blocks.some()))
        for name in block.linears():
            gram, _, tokens = inputs.of(name)
            assert gram is not None
            assert np.allclose(found[f"{name}.weight"], (gram.diagonal() / tokens).numpy(), rtol=1e-4)
