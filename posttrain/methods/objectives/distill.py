"""Distillation: learn what a teacher expects at every token, rather than the one token that came (Hinton et al. 2015,
arXiv 1503.02531).

    L = 1/N  sum over all N answer tokens of   (1 - l) D(p_t, q_t)  -  l log pi(y_t | x, y_<t)  +  w d(h_t, g_t)

p_t and q_t are what teacher and policy expect at token t, softmax(z / T) over the whole vocabulary; l is `labels`, w
`hidden` and d how far the states within the two are from each other (posttrain.functional.hidden_states). The divergence D (posttrain.functional.divergence) is

    forward        KL(p || q)                   covers all that the teacher might say
    reverse        KL(q || p)                   keeps to what the teacher would surely say (MiniLLM, Gu et al. 2023,
                                                arXiv 2306.08543); of each token by itself, but see `ahead`
    jsd            b KL(p || m) + (1-b) KL(q || m), m = b p + (1-b) q     between them (GKD, Agarwal et al. 2023, 2306.13649)
    skew_forward   KL(p || s p + (1-s) q)       forward with a slope that has a bound (DistiLLM, Ko et al. 2024, 2402.03898)
    skew_reverse   KL(q || (1-s) p + s q)       the same of reverse
    uld            sum |q_(i) - p_(i)|, sorted  of a teacher with other tokens, where tokens of both end at the same letter
                                                (Boizard et al. 2024, 2402.12030); no more terms than answer tokens

L is not multiplied by T^2, which Hinton et al. do so that a mix with labels weighs the same at any temperature: gradients
shrink about as 1/T^2, so a higher `temperature` wants a higher learning rate, or fewer `labels`.

`on_policy` of the stage is GKD's lambda: that share of the rows is answered by the policy itself. No gradient goes
through what is drawn, which makes the gradient that of GKD and not of an expectation over answers. `ahead` = a adds what is
missing of that of KL(q || p) of whole answers, as MiniLLM splits it, with what lies ahead as a mean so that short answers win
nothing:

    - a/N  sum over t of  R_t log pi(y_t | x, y_<t),    R_t = mean over t' > t of  log p(y_t') - log pi(y_t'),  held fixed
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from posttrain.data.batch import Batch, Counts
from posttrain.engine.method import Objective
from posttrain.functional.divergence import Kind, jensen_shannon, skew_forward, skew_reverse
from posttrain.functional.hidden_states import states_apart
from posttrain.functional.policy_gradient import mean_ahead
from posttrain.models.expected import Aligned, Expected
from posttrain.models.policy import Models
from posttrain.schema.rows import Conversation, Row


class Distill(Objective):
    """Learn what a teacher expects at every token of answers: those of the rows, or the policy's own."""

    divergence: Literal["forward", "reverse", "jsd", "skew_forward", "skew_reverse", "uld"] = "forward"
    """What is made small: how much of the teacher is missed, how much the teacher would not say, a mean of both, or how much
    surer one is than the other, whatever its tokens."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Where `jsd` stands between forward, near 0, and reverse, near 1."""
    skew: float = Field(0.1, gt=0, lt=1)
    """How much of the other model `skew_forward` and `skew_reverse` mix into the one that they measure from."""
    temperature: float = Field(1.0, gt=0)
    """What both models' logits are divided by; higher shows more of what the teacher finds unlikely."""
    labels: float = Field(0.0, ge=0, lt=1)
    """Weight of the cross-entropy of the rows' own answers, taken from that of the divergence."""

    hidden: float = Field(0.0, ge=0)
    """Weight of how far the policy's hidden states point from the teacher's, layer by layer, on top of the divergence."""

    ahead: float = Field(0.0, ge=0)
    """How much a token is also credited with what comes of it, for `divergence: reverse` on answers that are all the policy's
    own: how much likelier teacher than policy finds the tokens behind it (MiniLLM, with 1)."""

    reads: ClassVar[type[Row]] = Conversation
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

    @model_validator(mode="after")
    def _numbers_have_their_divergence(self) -> "Distill":
        if self.beta != 0.5 and self.divergence != "jsd":
            raise ValueError("`beta` is for `divergence: jsd`: take that, or leave `beta` out")
        if self.skew != 0.1 and not self.divergence.startswith("skew"):
            raise ValueError(
                "`skew` is for `divergence: skew_forward` or `skew_reverse`: take one, or leave `skew` out"
            )
        if self.ahead and (self.divergence != "reverse" or self.temperature != 1):
            raise ValueError(
                "`ahead` completes the gradient of `divergence: reverse` at the temperature that answers are drawn at: write "
                "that and `temperature: 1`, or leave `ahead` out"
            )
        return self

    @property
    def kind(self) -> Kind:
        """The divergence with its number, of teachers that know the same tokens."""
        match self.divergence:
            case "jsd":
                return jensen_shannon(self.beta)
            case "skew_forward":
                return skew_forward(self.skew)
            case "skew_reverse":
                return skew_reverse(self.skew)
            case "forward" | "reverse":
                return self.divergence
        return "forward"  # not read: a teacher of other tokens is compared in one way alone

    def loss(self, models: Models, micro: Batch, total: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        assert models.teacher is not None
        ours = models.policy.expects(micro.trees, deep=self.hidden > 0)
        with torch.no_grad():
            theirs = models.teacher.expects(micro.trees, deep=self.hidden > 0)
        assert isinstance(theirs, Aligned) == (self.divergence == "uld")
        metrics = {}
        with models.policy.precision():
            metrics["divergence"] = ours.divergence(theirs, self.kind, self.temperature).sum() / total.tokens
            loss = (1 - self.labels) * metrics["divergence"]
            if self.labels:
                metrics["cross_entropy"] = -ours.logps().sum() / total.tokens
                loss = loss + self.labels * metrics["cross_entropy"]
            if self.ahead:
                assert isinstance(theirs, Expected)
                credit, metrics["ahead"] = self._credit(ours.logps(), theirs.logps().detach(), micro, total)
                loss = loss + self.ahead * credit
        if self.hidden:
            assert isinstance(theirs, Expected)
            maps = tuple(models.bridge.maps) if models.bridge is not None else ()
            metrics["states_apart"] = states_apart(ours.states(), theirs.states(), maps).sum() / total.tokens
            loss = loss + self.hidden * metrics["states_apart"]
        return loss, metrics

    @staticmethod
    def _credit(ours: Tensor, theirs: Tensor, micro: Batch, total: Counts) -> tuple[Tensor, Tensor]:
        """What to make small so that tokens become likelier that good ones follow, and how good these are on average."""
        ahead = mean_ahead(theirs - ours.detach(), micro.n_trained)
        return -(ahead * ours).sum() / total.tokens, ahead.sum() / total.tokens
