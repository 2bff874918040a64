"""Merge an adapter into the weights it sits on, or several models into one.

Without `how`, an adapter: LoRA's update is a matrix, so it adds to the layer's own, W' = W + (alpha / r) B A (Hu et al. 2021,
arXiv 2106.09685); IA3's scales multiply its rows or columns. Virtual tokens are read before every text and are in no weight: they
cannot be merged. A base in four bits is merged as what it computes with, its rounded weights, so nothing is rounded again.

With `how`, several models that were trained from the same one, tensor by tensor in fp32:

    linear            the weighted mean                                      (Wortsman et al. 2022, arXiv 2203.05482)
    slerp             two, along the arc between them
    task_arithmetic   base + scale * sum_m w_m tau_m,  tau_m = model - base    (Ilharco et al. 2022, arXiv 2212.04089)
    ties              each tau trimmed to its largest, a sign elected for each weight, the mean of those that have it
                                                                          (Yadav et al. 2023, arXiv 2306.01708)
    dare_linear       task arithmetic on taus of which most entries were dropped by chance, the others being scaled up
    dare_ties         the same, the sum of those that have the elected sign (Yu et al. 2023, arXiv 2311.03099)

The formulas are in `functional.merging`. Each tensor is trimmed by itself, as mergekit does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from posttrain.engine.job import Job
from posttrain.engine.method import WEIGHTS, Made, Transform
from posttrain.functional import merging
from posttrain.functional.seeds import seed_of
from posttrain.models.drawn import difference, drawn_logits
from posttrain.models.load import load_tokenizer, load_weights, save_weights
from posttrain.models.parents import (
    Laid,
    dense_weights,
    lay_down,
    merged_adapter,
    require_mergeable,
    stored_dtype,
    tensors,
)
from posttrain.schema.artifacts import Model
from posttrain.schema.settings import ParentRef, ParentRefs

MEANS = {"linear": merging.linear, "slerp": merging.slerp}
SUMS = {
    "task_arithmetic": merging.weighted_sum,
    "ties": merging.disjoint_mean,
    "dare_linear": merging.weighted_sum,
    "dare_ties": merging.disjoint_sum,  # no mean: what is left stands for what was dropped
}
SIGNED = ("task_arithmetic", "dare_linear")  # of which a weight may be negative
THINNED = ("ties", "dare_linear", "dare_ties")
DENSITY = 0.2


@dataclass
class Tally:
    """Counts over all tensors: entries of task vectors that were not zero, those that were made so, weights, and those of which
    what is left of the task vectors disagrees in sign."""

    learnt: int = 0
    zeroed: int = 0
    weights: int = 0
    conflicts: int = 0

    def count(self, tasks: Tensor, kept: Tensor) -> None:
        """Adds one tensor's task vectors (M, ...), before and after they were thinned."""
        self.learnt += int(tasks.count_nonzero())
        self.zeroed += int((tasks.ne(0) & kept.eq(0)).sum())
        self.weights += kept[0].numel()
        self.conflicts += int(merging.conflicts(kept).sum())

    def facts(self) -> dict[str, float]:
        """Shares of what was learnt that was made zero, and of weights with a conflict."""
        return {"trimmed": self.zeroed / max(1, self.learnt), "sign_conflicts": self.conflicts / max(1, self.weights)}


class Merge(Transform):
    """Turn an adapter and its base into one dense model, or several models into one."""

    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[str]] = WEIGHTS

    how: Literal["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties"] | None = None
    """How several models become one; without it, an adapter is merged into its base."""
    others: ParentRefs = ()
    """The models to merge with the one that the stage begins with, by the names of their stages, or folders."""
    base: ParentRef = None
    """The model that all of them were trained from, whose difference from each is what that one learnt."""
    weights: tuple[float, ...] | None = None
    """How much each model counts, first the one that the stage begins with, then `others`; 1 for each if not given. Shares
    of a mean, or factors of what each learnt where these are summed up; a negative one unlearns it."""
    density: float | None = Field(None, gt=0, le=1)
    """Share of what each model learnt that is kept: the largest entries by `ties`, drawn ones by `dare_…`; 0.2 if not given."""
    scale: float | None = Field(None, gt=0)
    """How much of the merged difference is added to the base; 1 if not given."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Merge":
        said = [
            name for name in ("others", "base", "weights", "density", "scale") if getattr(self, name) not in (None, ())
        ]
        if wrong := self._misplaced(said) or self._miscounted():
            raise ValueError(wrong)
        return self

    def _misplaced(self, said: Sequence[str]) -> str:
        """What is wrong with which options are said."""
        how = self.how
        if how is None and said:
            return (
                f"`{said[0]}` is said of several models: say `how` they become one, such as `how: linear`. An adapter is merged "
                "into its base without either"
            )
        of_base = [f"`{name}`" for name in ("base", "density", "scale") if name in said]
        if how in MEANS and of_base:
            return f"`{how}` is a mean of whole models and has no {of_base[0]}: leave it out, or write `how: task_arithmetic`"
        if how in SUMS and self.base is None:
            return (
                f"`{how}` adds up what each model learnt since the one that all were trained from. Name that one: `base: base` "
                "where it is the recipe's own model, or the stage that they branch off"
            )
        if how not in THINNED and self.density is not None:
            return f"`{how}` keeps all that was learnt and has no `density`: leave it out, or write `how: ties`"
        return ""

    def _miscounted(self) -> str:
        """What is wrong with how many models there are, or how they are weighted."""
        how, n = self.how, 1 + len(self.others)
        if how in MEANS and n < 2:
            return f"`{how}` takes several models, and one is named. Name the further ones: `others: [facts]`"
        if how == "slerp" and n > 2:
            return (
                f"`slerp` is an arc between two models, and {n} are named. Write `how: linear`, or merge two at a time"
            )
        weights = self.weights
        if weights is not None and len(weights) != n:
            return f"{len(weights)} `weights` for {n} models: write one for the model that it begins with and one for each other"
        if weights is not None and not any(weights):
            return "all `weights` are 0, which leaves nothing. Give one model more"
        if how not in SIGNED and min(weights or (1.0,)) < 0:
            return f"`weights` of `{how}` are shares, and one is negative. Unlearn with `how: task_arithmetic`"
        return ""

    def accepted(self) -> frozenset[str]:
        return frozenset({"adapter"}) if self.how is None else self.accepts

    def makes_form(self, form: str) -> str:
        return "dense"

    def run(self, job: Job, **inputs: Any) -> Made:
        if self.how is None:
            return self._adapter(job, inputs["model"])
        base = (inputs["base"],) if "base" in inputs else ()
        return self._several(job, (inputs["model"], *inputs.get("others", ())), base)

    def _adapter(self, job: Job, model: Model) -> Made:
        adapted: Any = load_weights(model)
        before = drawn_logits(adapted)
        merged = merged_adapter(model, adapted)
        moved = difference(before, drawn_logits(merged))
        save_weights(merged, load_tokenizer(model), job.folder, source=model)
        job.note(f"logits differ by at most {moved['logits_largest']:.1e} from those with the adapter")
        return Made({"base": model.base, "difference": moved})

    def _several(self, job: Job, parents: Sequence[Model], base: Sequence[Model]) -> Made:
        """`base` is the one model that all come from, or none where the way of merging knows none."""
        models = [*parents, *base]
        require_mergeable(models)
        paths = [job.scratch / f"{n}.safetensors" for n in range(len(models))]
        said = [lay_down(each, path) for each, path in zip(models, paths, strict=True)]
        merged, dtype, tally = dense_weights(parents[0]), stored_dtype(parents[0]), Tally()
        with Laid(models, paths) as laid:
            for place, (name, x) in enumerate(tensors(merged).items()):
                if x.is_floating_point():
                    draw = Generator().manual_seed(seed_of(job.seed, place))
                    x.copy_(self._one(laid.of(name), draw, tally).to(dtype))
        for path in paths:  # room for what is written next
            path.unlink()
        after = drawn_logits(merged).cpu()
        save_weights(merged.to(dtype), load_tokenizer(parents[0]), job.folder, source=parents[0])
        moved = [difference(before, after) for before in said]
        return Made(self._facts(job, models, moved, tally))

    def _one(self, models: Tensor, draw: Generator, tally: Tally) -> Tensor:
        """(...): one tensor of all models (M, ...), the base last if there is one, made one."""
        assert self.how is not None
        weights = torch.tensor(self._weights(), dtype=models.dtype)
        if self.how in MEANS:
            return MEANS[self.how](models, weights)
        base, tasks, density = models[-1], models[:-1] - models[-1], self.density or DENSITY
        kept = tasks
        if self.how in THINNED:
            kept = merging.trim(tasks, density) if self.how == "ties" else merging.drop(tasks, density, draw)
        tally.count(tasks, kept)
        return base + (self.scale or 1.0) * SUMS[self.how](kept, weights)

    def _weights(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * (1 + len(self.others))

    def _facts(
        self, job: Job, models: Sequence[Model], moved: Sequence[dict[str, float]], tally: Tally
    ) -> dict[str, Any]:
        """How far it went from each of the models, the base last if there is one, and what became of what they learnt."""
        told = [{"model": each.digest, **far} for each, far in zip(models, moved, strict=True)]
        n = 1 + len(self.others)
        facts: dict[str, Any] = {
            "parents": [{"weight": w, **t} for w, t in zip(self._weights(), told[:n], strict=True)]
        }
        far = ", ".join(f"{each['kl']:.2g}" for each in moved[:n])
        job.note(f"{n} models merged by {self.how}; from them it is {far} nats apart after drawn tokens")
        if self.how in MEANS:
            return facts
        shares = tally.facts()
        job.note(
            f"{shares['trimmed']:.1%} of what was learnt trimmed; what is left disagrees about {shares['sign_conflicts']:.1%} of the "
            "weights"
        )
        return {**facts, "base": told[n], **shares}
