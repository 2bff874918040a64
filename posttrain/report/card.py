"""A model card: where a model comes from, what it learnt from, with which settings, and what was measured before and after.

Written in Markdown with the front matter that the Hugging Face Hub reads. It says nothing that the record does not hold.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from posttrain.schema.errors import UsageError, nearest
from posttrain.schema.record import ModelRecord, RunRecord, StageRecord

from . import numbers
from .compare import compare
from .flat import flat
from .markdown import changes, grid
from .text import code, fence

FRONT = """---
library_name: {library}
pipeline_tag: {task}
tags:
- posttrain
---"""

LOAD_DENSE = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""

LOAD_PACKED = """# pip install compressed-tensors; vLLM and SGLang need nothing more
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

how = CompressedTensorsConfig(dequantize=True)  # as floating-point numbers; without, only symmetric integers load
model = AutoModelForCausalLM.from_pretrained("FOLDER", quantization_config=how)
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""

LOAD_GPTQ = f"""# pip install optimum gptqmodel; vLLM and SGLang need nothing more
{LOAD_DENSE}"""

LOAD_MODELOPT = """# transformers 5.23 takes its integers for weights; posttrain reads it as what it is
from tensorrt_llm import LLM

model = LLM("FOLDER")"""

LOAD_GGUF = """# pip install llama-cpp-python; llama.cpp, Ollama and LM Studio open the file too
from llama_cpp import Llama

model = Llama("FOLDER/FILE")
model.create_chat_completion([{"role": "user", "content": "Hello"}])"""

LOAD_ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""

LOAD_REWARD = """from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")"""

LOAD_REWARD_ADAPTER = """from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
base = AutoModelForSequenceClassification.from_pretrained("BASE", num_labels=1)
base.resize_token_embeddings(max(len(tokenizer), base.config.vocab_size))
base.config.pad_token_id = tokenizer.pad_token_id
model = PeftModel.from_pretrained(base, "FOLDER")"""

LOAD = {
    "dense": LOAD_DENSE,
    "compressed-tensors": LOAD_PACKED,
    "gptq": LOAD_GPTQ,
    "awq": LOAD_DENSE,
    "modelopt": LOAD_MODELOPT,
    "gguf": LOAD_GGUF,
    "adapter": LOAD_ADAPTER,
    "reward": LOAD_REWARD,
}
LIBRARY = {"adapter": "peft", "gguf": "gguf"}


def card(record: RunRecord, model_name: str, *, use: bool = True) -> str:
    """The card of one model of a run, with how it is loaded for `use`. Raises UsageError when the run has no model of that
    name."""
    models = {model.name: model for model in record.models}
    if model_name not in models:
        raise UsageError(f"The run {record.name!r} has no model {model_name!r}. {nearest(model_name, models)}")
    model, stages = models[model_name], lineage(record, model_name)
    base = models.get(stages[0].source) if stages else None
    parts = [
        FRONT.format(
            library="peft" if _is_reward_adapter(model, stages) else LIBRARY.get(model.form, "transformers"),
            task="text-classification" if model.form == "reward" else "text-generation",
        ),
        f"# {code(model.name)}",
        _origin(record, model, stages, base),
        *_lineage(stages),
        *_data(stages),
        *_measured(base, model),
        *_settings(stages),
        *(_loading(model, stages) if use else ()),
    ]
    if record.recipe:
        parts += ["## Recipe", f"`posttrain run` with this file makes {code(record.name)} again:"]
        parts += [fence(record.recipe, language="yaml")]
    return "\n\n".join(parts) + "\n"


def lineage(record: RunRecord, model_name: str) -> tuple[StageRecord, ...]:
    """The stages that lead from the base to a model, in the order they ran."""
    makers = {stage.model: stage for stage in record.stages if stage.model}
    chain: list[StageRecord] = []
    name = model_name
    while name in makers and makers[name] not in chain:
        chain.append(makers[name])
        name = makers[name].source
    return tuple(reversed(chain))


def _origin(record: RunRecord, model: ModelRecord, stages: Sequence[StageRecord], base: ModelRecord | None) -> str:
    size = f"{numbers.measured(model.bytes, 'bytes')}, form {code(model.form)}, digest {code(model.digest)}"
    if not stages or base is None:
        return f"The model that the run {code(record.name)} starts from ({size})."
    way = " → ".join(code(stage.name) for stage in stages)
    return f"Made by the run {code(record.name)} from {code(base.path or base.name)} through {way} ({size})."


def _lineage(stages: Sequence[StageRecord]) -> Iterator[str]:
    if stages:
        rows = [[code(stage.name), code(stage.method), code(stage.source)] for stage in stages]
        yield "## Lineage"
        yield grid(("stage", "method", "from"), rows, "lll")


def _data(stages: Sequence[StageRecord]) -> Iterator[str]:
    """What each stage read: as the recipe names it, and what was decided on reading it."""
    rows = [
        [code(stage.name), code(source)]
        for stage in stages
        for source in dict.fromkeys([*_texts(stage.settings.get("data")), *_texts(stage.facts.get("data"))])
    ]
    if rows:
        yield "## Data"
        yield grid(("stage", "rows"), rows, "ll")


def _texts(value: Any) -> Iterable[str]:
    if value is None:
        return []
    return [_source(part) for part in value] if isinstance(value, list | tuple) else [_source(value)]


def _source(value: Any) -> str:
    """One source of rows: a path, or a mapping with one."""
    if not isinstance(value, Mapping):
        return str(value)
    more = ", ".join(f"{name}: {shown}" for name, shown in flat(value) if name != "path")
    return f"{value.get('path', '')} ({more})" if more else str(value.get("path", ""))


def _measured(base: ModelRecord | None, model: ModelRecord) -> Iterator[str]:
    """Before and after where there is a before, and what else there is."""
    found = compare(base, model).changes if base else ()
    known = {change.name for change in found}
    alone = [
        [code(f"{name}.{metric}"), numbers.value(m), numbers.interval(m.low, m.high, m.unit) or "–"]
        for name, findings in model.findings.items()
        for metric, m in findings.metrics.items()
        if f"{name}.{metric}" not in known
    ]
    if found or alone:
        yield "## Measured"
    if base and found:
        yield f"Before: {code(base.name)}. After: {code(model.name)}."
        yield changes(found)
    if alone:
        yield grid(("metric", "value", "95 % interval"), alone, "lrr")


def _settings(stages: Sequence[StageRecord]) -> Iterator[str]:
    rows = [
        [code(f"{stage.name}.{name}"), code(value, 200)]
        for stage in stages
        for name, value in flat(stage.settings)
        if name != "data"
    ]
    if rows:
        yield "## Settings"
        yield grid(("setting", "value"), rows, "ll")


def _loading(model: ModelRecord, stages: Sequence[StageRecord]) -> Iterator[str]:
    load = LOAD_REWARD_ADAPTER if _is_reward_adapter(model, stages) else LOAD.get(model.form)
    if load is None:
        return
    yield "## Use"
    places = ["`FOLDER` is the place of these files"]
    if "BASE" in load:
        places.append("`BASE` that of the model it began with")
    if "FILE" in load and stages:
        places.append(f"`FILE` one of {', '.join(map(code, stages[-1].facts.get('files', ())))}")
    yield ", ".join(places) + "."
    yield fence(load, language="python")
    offset = stages[-1].facts.get("offset") if stages else None
    if model.form == "reward" and isinstance(offset, int | float):
        yield f"An average answer that it was trained on scores {offset:.4g}: take that off, and such an answer is worth nothing."


def _is_reward_adapter(model: ModelRecord, stages: Sequence[StageRecord]) -> bool:
    return model.form == "reward" and bool(stages and stages[-1].settings.get("adapter"))
