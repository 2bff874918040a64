"""Another program's quantisation, run in an environment of its own and held to what it computes.

    this package                            ENV/bin/python, with llm-compressor
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
from pydantic import Field

from posttrain.engine.calibrating import Calibrated, calibration
from posttrain.engine.files import copy_beside
from posttrain.engine.job import Job
from posttrain.engine.method import Made, Transform
from posttrain.engine.outside import Outside, run_outside
from posttrain.models.drawn import difference, drawn_ids, drawn_logits
from posttrain.models.load import load_weights
from posttrain.models.matrices import decoder
from posttrain.models.packed import METHOD
from posttrain.models.vocabulary import n_rows
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

SAME = 1e-4  # mean KL in nats: roundings that fall the other way, where inputs are rounded too, stay far below


class External(Calibrated, Transform):
    """Let llm-compressor quantise the model in an environment of its own, and prove that what it saved is what it made."""

    accepts: ClassVar[frozenset[str]] = frozenset({"dense"})

    python: str
    """The Python of the environment in which the program is installed, such as `llm-compressor/bin/python`."""
    program: Literal["llm_compressor"] = "llm_compressor"
    """Which program it is."""
    bits: Literal[4, 8] = 4
    """Bits of each weight."""
    group: int | None = Field(128, ge=1)
    """Columns that share a scale; `null` gives a whole row one scale."""
    activations: Literal[8] | None = None
    """Bits that the inputs of matrices are rounded to while the model computes, each token with one scale."""
    solver: Literal["gptq", "nearest", "smoothquant"] = "gptq"
    """How the program rounds: by GPTQ, to nearest, or by SmoothQuant and then GPTQ."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """How scales and all that is not rounded are stored."""

    def makes_form(self, form: str) -> str:
        return METHOD

    def run(self, job: Job, **inputs: Any) -> Made:
        model: Model = inputs["model"]
        dense = decoder(model, "quantised")
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
        copy_beside(model, job.folder)
        for path in (*made.glob("*.safetensors*"), made / "config.json"):
            path.replace(job.folder / path.name)
        read = drawn_logits(load_weights(replace(model, path=job.folder, form=METHOD), at=torch.device("cpu")))
        parity = difference(found.after, read)
        if not parity["kl"] <= SAME:
            raise _unlike("what it made, read back here,", parity, found)
        job.note(f"{found.said['program']}: what it made and what is read here are {parity['kl']:.1g} nats apart")
        return Made({**found.said, "before": before, "parity": parity, "difference": difference(ours, read)}, METHOD)


def _unlike(what: str, apart: Mapping[str, float], found: Outside) -> ModelError:
    return ModelError(
        f"{found.said['program']} and this package do not agree on {what} which differ by {apart['kl']:.1e} nats. It is not called "
        f"good. Its transformers is {found.said['transformers']}: install the version of this environment there, or use `gptq`."
    )
