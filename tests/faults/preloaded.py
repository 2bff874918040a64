"""What a run imports, imported once by the server that forks runs."""

import transformers.models.llama.modeling_llama  # noqa: F401

import posttrain.pipeline.run
from posttrain.engine.method import stage_class

USED = [stage_class(name) for name in ("sft", "dpo", "few_shot", "benchmark", "preference_accuracy", "size")]
assert posttrain.pipeline.run
