"""Another program's quantisation, run in an environment of its own and held to what it computes.

    this package                            ENV/bin/python, with llm-compressor or Model Optimizer
    texts, as the model reads them   ->     rounds a copy of the model, saves it
    reads what was saved             <-     logits before and after, on drawn tokens

Its texts are those that `gptq` here would look at. Two comparisons decide whether the model is called good: the program computed the
same model before it changed anything, and what is read back computes what the program had in its memory. Versions of libraries
differ, formats are written and read by different hands: either may fail without a word elsewhere.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.files import copy_model
from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.engine.outside import Outside, run_outside
from posttrain.engine.quantising import require_whole_groups
from posttrain.functional.rounding import Integers
from posttrain.models.drawn import difference, drawn_ids, drawn_logits
from posttrain.models.load import load_weights
from posttrain.models.matrices import decoder, matrices_in
from posttrain.models.modelopt_layout import FILE
from posttrain.models.modelopt_layout import METHOD as MODELOPT
from posttrain.models.packed import METHOD
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

SAME = 1e-4  # mean KL in nats: roundings that fall the other way, where inputs are rounded too, stay far below
BY_MODELOPT = {(4, None): ("awq", "nearest"), (8, 8): ("smoothquant", "nearest")}
"""Its solvers for bits of weights and inputs: those that were proven to be read as they were made."""


class External(Calibrated, Transform):
    """Let llm-compressor or Model Optimizer quantise the model in its own environment, and prove what it saved."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    python: str
    """The Python of the environment in which the program is installed, such as `llm-compressor/bin/python`."""
    program: Literal["llm_compressor", "modelopt"] = "llm_compressor"
    """Which program it is; `modelopt`, NVIDIA's, makes 4 bits in groups, or with `activations: 8` weights and inputs of 8."""
    bits: Literal[4, 8] = 4
    """Bits of each weight."""
    group: int | None = Field(128, ge=1)
    """Columns that share a scale; `null` gives a whole row one scale."""
    activations: Literal[8] | None = None
    """Bits that the inputs of matrices are rounded to while the model computes, each token with one scale; by `modelopt` all tokens with
    the scale of the largest input that it saw."""
    solver: Literal["gptq", "nearest", "smoothquant", "awq"] = "gptq"
    """How the program rounds: by GPTQ, to nearest, or by SmoothQuant and then GPTQ; `modelopt` by AWQ or to nearest, or, with
    `activations`, by SmoothQuant or to nearest."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """How scales and all that is not rounded are stored."""

    @model_validator(mode="before")
    @classmethod
    def _as_they_must_be(cls, said: Any) -> Any:
        """Options that follow from others need not be said."""
        if isinstance(said, dict) and said.get("program") == "modelopt":
            said = (
                {"bits": 8, "group": None, "solver": "smoothquant"} if said.get("activations") else {"solver": "awq"}
            ) | said
        return said

    @model_validator(mode="after")
    def _fit_together(self) -> "External":
        if self.program == "llm_compressor" and self.solver == "awq":
            raise ValueError(
                "`awq` is what `program: modelopt` is told: write that, or `solver: gptq`, or use the stage `awq`"
            )
        offered = BY_MODELOPT.get((self.bits, self.activations), ())
        if self.program == "modelopt" and (self.solver not in offered or (self.group is None) != (self.bits == 8)):
            raise ValueError(
                "`modelopt` makes weights of 4 bits in groups by `awq` or to `nearest`, or weights and inputs of 8 bits by "
                "`smoothquant` or to `nearest`: leave out `bits`, `group` and `solver`, and write `activations: 8` for the second"
            )
        return self

    def makes_form(self, form: str) -> str:
        return MODELOPT if self.program == "modelopt" else METHOD

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        dense = decoder(model, "quantised")
        matrices = matrices_in(dense)
        require_whole_groups(matrices, dict.fromkeys(matrices, Integers(self.bits, self.group)))
        made = job.scratch / "made"
        told = {
            "model": str(model.path),
            "made": str(made),
            **self.model_dump(include={"bits", "group", "activations", "solver", "dtype"}),
            "texts": calibration(self, model, inputs["data"], job).tolist(),
            "asked": drawn_ids(n_rows(dense)).tolist(),
        }
        found = run_outside(self.program, self.python, told, job)
        ours = drawn_logits(dense)
        before = difference(ours, found.before)
        if not before["kl"] <= SAME:
            raise _unlike("the model, before it changed anything,", before, found)
        copy_model(model, job.folder, weights=False)
        for path in (*made.glob("*.safetensors*"), *made.glob(FILE), made / "config.json"):
            path.replace(job.folder / path.name)
        form = self.makes_form(model.form)
        read = drawn_logits(load_weights(replace(model, path=job.folder, form=form), at=torch.device("cpu")))
        parity = difference(found.after, read)
        if not parity["kl"] <= SAME:
            raise _unlike("what it made, read back here,", parity, found)
        job.note(f"{found.said['program']}: what it made and what is read here are {parity['kl']:.1g} nats apart")
        return Made({**found.said, "before": before, "parity": parity, "difference": difference(ours, read)}, form)


def _unlike(what: str, apart: Mapping[str, float], found: Outside) -> ModelError:
    return ModelError(
        f"{found.said['program']} and this package do not agree on {what} which differ by {apart['kl']:.1e} nats. It is not called "
        f"good. Its transformers is {found.said['transformers']}: install the version of this environment there, or use `gptq`."
    )
