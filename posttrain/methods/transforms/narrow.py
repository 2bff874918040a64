"""Narrower: a smaller model of the same kind, with fewer channels in its inner layers or its stream, or fewer heads.

ffn         channels of the inner layers, each layer its own
kv_groups   key-value heads, each with all query heads that share it, each layer its own
hidden      channels of the stream, which all layers read and write

Those stay that bring most on rows like the ones the model will meet (Minitron, Muralidharan et al. 2024, arXiv 2407.14679;
`engine/narrowing.py`). What stays is then solved to make up for the others, in closed form and layer by layer, and `distill` from
the whole model heals the rest. The result is an ordinary model of its family. A norm over a narrower stream divides by another mean,
for which its weights and eps make up (`models/width.py`): channels without effect are taken out without a trace.
"""

from math import lcm
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.engine.narrowing import Narrowing
from posttrain.models.drawn import drawn_logits, require_same
from posttrain.models.load import load_tokenizer, save_weights
from posttrain.models.matrices import decoder
from posttrain.models.precision import device
from posttrain.models.width import Width, cut, narrowed, widths_of
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from posttrain.schema.settings import as_share


def _is_size(value: float | None) -> float | None:
    if value is not None and (value <= 0 or (isinstance(value, float) and value > 1)):
        raise ValueError(f"{value:g} is no width: write a share such as `50%`, or a whole number such as `512`")
    return value


Size = Annotated[int | float | None, BeforeValidator(as_share), AfterValidator(_is_size)]


class Narrow(Calibrated, Transform):
    """Take out the channels and heads of a model that bring least."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    ffn: Size = None
    """Channels of the inner layers that stay, as a share such as `50%` or as a number."""
    hidden: Size = None
    """Channels of the stream that stay, as a share or a number; it costs more than inner channels do."""
    kv_groups: Size = None
    """Key-value heads that stay, each with its query heads, as a share or a number; heads stay as wide as they are."""
    multiple: int = Field(8, ge=1)
    """A share of channels is rounded to a multiple of this."""
    repair: bool = True
    """Solve what stays, layer by layer, to give what the whole model gave."""

    @model_validator(mode="after")
    def _is_narrower(self) -> "Narrow":
        if self.ffn is None and self.hidden is None and self.kv_groups is None:
            raise ValueError("nothing would become narrower: give `ffn`, `hidden` or `kv_groups`, such as `ffn: 50%`")
        return self

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        weights = decoder(model, "made narrower")
        whole, before, tokenizer = widths_of(weights), weights.num_parameters(), load_tokenizer(model)
        widths = self._widths(weights, whole)
        ids = calibration(self, model, inputs["data"], job)
        narrowing = Narrowing.of(weights, widths, ids, device())
        if self.repair:
            narrowing.repair(ids, device(), job)
        else:
            narrowing.close()
        expected = drawn_logits(weights)
        made = cut(weights, narrowing.axes, narrowing.kept, widths)
        save_weights(made, tokenizer, job.folder, source=model)
        after = made.num_parameters()
        del weights, made, narrowing  # before it is loaded once more
        require_same(
            expected, job.folder, "narrower", "something in it follows a width in a way that shapes do not show"
        )
        said = ", ".join(f"{width} {n} of {whole[width]}" for width, n in widths.items())
        job.note(f"{said}: {after:,} weights of {before:,}")
        facts = dict(widths) | {f"{width}_before": whole[width] for width in widths}
        return Made({**facts, "weights": after, "weights_before": before})

    def _widths(self, weights: Any, whole: dict[Width, int]) -> dict[Width, int]:
        """The widths to come. Raises ModelError for one that the model does not have."""
        wanted: dict[Width, float | None] = {"ffn": self.ffn, "kv_groups": self.kv_groups, "hidden": self.hidden}
        found: dict[Width, int] = {}
        for width, size in wanted.items():
            if size is not None:
                found[width] = rounded(size, whole[width], 1 if width == "kv_groups" else self.multiple)
            if found.get(width, 0) > whole[width]:
                raise ModelError(
                    f"The model's `{width}` is {whole[width]}, and {found[width]} is more. Write a share such as `50%`."
                )
        try:
            narrowed(weights.config, found)
        except ModelError:
            if not isinstance(self.hidden, float):
                raise
            heads = weights.config.get_text_config().num_attention_heads // whole["kv_groups"]
            every = lcm(self.multiple, heads * found.get("kv_groups", whole["kv_groups"]))
            found["hidden"] = rounded(self.hidden, whole["hidden"], every)
            narrowed(weights.config, found)
        return found


def rounded(size: float, whole: int, multiple: int) -> int:
    """How many of `whole`: a number as it is, a share to the closest multiple.

    >>> rounded(0.3, 100, 8), rounded(30, 100, 8), rounded(1.0, 100, 8), rounded(0.01, 100, 8)
    (32, 30, 100, 8)
    """
    if isinstance(size, int) or size == 1:
        return int(size * whole) if isinstance(size, float) else size
    return min(whole, max(1, round(size * whole / multiple)) * multiple)
