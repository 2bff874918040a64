"""Mixtures of experts taken apart: what transformers keeps in one tensor for all experts becomes plain matrices of each.

    experts.gate_up_proj (E, 2F, D)   <->   experts.N.gate_proj (F, D), experts.N.up_proj (F, D)      N of E experts
    experts.down_proj    (E, D, F)    <->   experts.N.down_proj (D, F)

So whatever is done to matrices is done to experts, each by the tokens that chose it. Whether the parts compute what the whole
did is tried before the whole is given up: mixtures of another kind (GPT-OSS with its biases, Llama 4) stay as they are.

Shapes: T tokens, k experts for each, D width, F width within an expert.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of what experts compute: by how much the order of sums may move it
TRIED = 4  # tokens for each expert
LARGE = 100.0  # inputs, which would show whether they are cut somewhere
GATE_UP, GATE, UP, DOWN = "gate_up_proj", "gate_proj", "up_proj", "down_proj"
PARTS = (GATE, UP, DOWN)
FUSED = (GATE_UP, UP, DOWN)  # what the tensors of all experts are called


def wholes_of(fused: Any) -> dict[str, tuple[str, ...]]:
    """The tensors that hold the matrices of all experts, by name, and those of an expert that stand in each, from above."""
    return {GATE_UP: (GATE, UP), DOWN: (DOWN,)} if fused.has_gate else {UP: (UP,), DOWN: (DOWN,)}


class Expert(nn.Module):
    """One of them, by its matrices; `inner` is what stands between the first, one or two, and the last."""

    def __init__(self, matrices: Mapping[str, Tensor]):
        super().__init__()
        for name, weight in matrices.items():
            self.add_module(name, _matrix(weight))

    def forward(self, x: Tensor, inner: Any) -> Tensor:
        *first, down = self.children()
        found: Tensor = down(inner(torch.cat([linear(x) for linear in first], -1)))
        return found


class Experts(nn.Module):
    """All experts of a layer. Each is called, with no tokens where none chose it, so that whoever listens hears of it."""

    def __init__(self, fused: Any):
        super().__init__()
        self.wholes = wholes_of(fused)
        self._fused = (fused,)  # no module of this one: its weights are given up
        for n in range(len(fused.down_proj)):
            parts: dict[str, Tensor] = {}
            for whole, names in self.wholes.items():
                parts |= zip(names, getattr(fused, whole)[n].detach().chunk(len(names)), strict=True)
            self.add_module(str(n), Expert(parts))

    def __len__(self) -> int:
        return len(self._modules)

    def forward(self, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        """(T, D) hidden states, (T, k) experts of each and their shares -> (T, D)."""
        found = torch.zeros_like(hidden)
        for n, expert in enumerate(self.children()):
            token, place = torch.where(chosen == n)
            out = expert(hidden[token], self.inner) * shares[token, place, None]
            found.index_add_(0, token, out.to(found.dtype))
        return found

    def inner(self, x: Tensor) -> Tensor:
        """(T, F) from gates and what they let through, (T, 2F); or from (T, F) where there are no gates."""
        fused = self._fused[0]
        found: Tensor = fused._apply_gate(x) if fused.has_gate else fused.act_fn(x)
        return found

    @torch.no_grad()
    def scales_what_it_writes(self) -> bool:
        """Whether what the last matrix of an expert reads is that of `up_proj` times something else: it is not where it is cut."""
        first: Any = next(self.children())
        width, at = first.up_proj.out_features, first.up_proj.weight.device
        draw = torch.Generator().manual_seed(0)
        x = LARGE * torch.randn(TRIED, sum(map(len, self.wholes.values())) * width - width, generator=draw).to(at)
        scaled = x.clone()
        scaled[:, -width:] *= 2
        return torch.allclose(self.inner(scaled), 2 * self.inner(x), rtol=1e-4)

    def release(self) -> None:
        """Gives up the weights of the whole."""
        for whole in self.wholes:
            setattr(self._fused[0], whole, None)

    @torch.no_grad()
    def together(self) -> nn.Module:
        """The whole, with the weights that the parts have now."""
        parts: list[Any] = list(self.children())
        for whole, names in self.wholes.items():
            weight = torch.stack([torch.cat([getattr(part, name).weight for name in names]) for part in parts])
            setattr(self._fused[0], whole, nn.Parameter(weight))
        fused: nn.Module = self._fused[0]
        return fused


def take_apart(weights: nn.Module) -> None:
    """Replaces experts that stand in one tensor by their matrices, wherever these compute the same."""
    for name, fused in [each for each in weights.named_modules() if is_fused(each[1])]:
        apart = Experts(fused)
        if _agree(fused, apart):
            apart.release()
            weights.set_submodule(name, apart)


def put_together(weights: nn.Module) -> None:
    """Puts the experts of every layer back into one tensor, as transformers has them."""
    for name, apart in [each for each in weights.named_modules() if isinstance(each[1], Experts)]:
        weights.set_submodule(name, apart.together())


@contextmanager
def routed_as(beside: nn.Module, module: nn.Module) -> Iterator[None]:
    """Within: experts of a block get the tokens that those of another one got the last time."""
    last: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, args: last.update({name: args[1]})

    def tell(name: str) -> Callable[..., tuple[Tensor, ...]]:
        return lambda _, args: (args[0], last[name], args[2])

    here, there = experts_in(module), experts_in(beside)
    hooks = [experts.register_forward_pre_hook(note(name)) for name, experts in here.items()]
    hooks += [experts.register_forward_pre_hook(tell(name)) for name, experts in there.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def experts_in(module: nn.Module) -> dict[str, Experts]:
    """The experts that were taken apart, of each layer, by name."""
    return {name: each for name, each in module.named_modules() if isinstance(each, Experts)}


def is_fused(module: Any) -> bool:
    """Whether a module holds the matrices of all experts, (E, out, in), and nothing else; transformers tells how they lie."""
    if not hasattr(module, "has_gate") or module.is_transposed or module.has_bias or module.has_post_expert_norm:
        return False
    tensors = dict(module.named_parameters())
    return (
        module.is_concatenated
        and tensors.keys() == wholes_of(module).keys()
        and all(x.dim() == 3 for x in tensors.values())
    )


def fused_in(weights: nn.Module) -> dict[str, Any]:
    """The modules that hold the matrices of all experts of a layer, by name."""
    return {name: module for name, module in weights.named_modules() if is_fused(module)}


def linears_in(module: nn.Module, prefix: str = "") -> dict[str, nn.Linear]:
    """The plain matrices within a module by name, but for those that choose experts: small, and all else hangs on them."""
    routers = set(_routers(module))
    named = module.named_modules(prefix=prefix)
    return {name: each for name, each in named if isinstance(each, nn.Linear) and each not in routers}


def kind_of(name: str) -> str:
    """The name of a matrix with a star for the number of its expert: those of one kind are treated alike."""
    return re.sub(r"(\.experts)\.\d+\.", r"\1.*.", name)


def layer_of_experts(name: str) -> str:
    """The name of all experts of the layer that a matrix belongs to; empty where it is no expert's."""
    found = re.match(r".*\.experts(?=\.\d+\.)", name)
    return found[0] if found else ""


def _routers(module: nn.Module) -> Iterator[nn.Linear]:
    """Matrices beside experts that give one number for each of them, or one for all."""
    for holder in module.modules():
        experts = getattr(holder, "experts", None)
        if isinstance(experts, nn.Module):
            count = getattr(experts, "num_experts", None) or len(list(experts.children()))
            for beside in holder.children():
                linears = [each for each in beside.modules() if isinstance(each, nn.Linear)]
                if beside is not experts and len(linears) == 1 and linears[0].out_features in (1, count):
                    yield linears[0]


def _matrix(weight: Tensor) -> nn.Linear:
    rows, columns = weight.shape
    with torch.device("meta"):
        linear = nn.Linear(columns, rows, bias=False)
    linear.weight = nn.Parameter(weight.clone())
    return linear


@torch.no_grad()
def _agree(fused: Any, apart: Experts) -> bool:
    """Whether both compute the same for some drawn tokens, which reach every expert."""
    down = fused.down_proj
    draw = torch.Generator().manual_seed(0)
    experts = torch.arange(len(down)).repeat(TRIED)
    chosen = torch.stack([experts, experts.roll(1)], 1).to(down.device)
    hidden = torch.randn(len(experts), down.shape[1], generator=draw).to(down)
    shares = torch.rand(chosen.shape, generator=draw).to(down)
    whole, parts = fused(hidden, chosen, shares), apart(hidden, chosen, shares)
    return bool((whole - parts).norm() <= TOLERANCE * whole.norm())
