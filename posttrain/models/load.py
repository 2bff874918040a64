"""Model artifacts to policies and back: the only place that reads and writes weights."""

import os
import warnings
from functools import cache
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from safetensors import SafetensorError

from posttrain.data.chat import ChatFormat
from posttrain.data.program import PromptProgram
from posttrain.data.seq2seq_format import EncoderDecoderFormat
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError

from . import attention, modelopt_layout, seq2seq
from .adapters import NAME, is_adapted, reload, save_adapter
from .expert_names import stacked
from .four_bits import configuration, keep_gradients, note_base, noted, take_rounded
from .gguf_file import gguf_weights, holds_gguf
from .packed import is_packed, packed_weights, stored_inputs
from .policy import Policy
from .precision import choose_threads, device, use_fast_matmul
from .rounded_inputs import round_inputs_as_said, round_inputs_as_stored
from .scorer import Scorer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .policy import Weights


SCORES = "ForSequenceClassification"  # how the name of an architecture ends whose head gives numbers
UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)  # what the libraries raise for bad files


@cache
def _transformers() -> Any:
    """The library, loaded when first needed and told to be quiet."""
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
    getLogger("bitsandbytes").setLevel(ERROR)  # it looks for a faster kernel on the hub and warns that there is none
    attention.register()
    return transformers


def load_tokenizer(model: Model) -> "PreTrainedTokenizerBase":
    """The tokenizer in the model's folder. Raises ModelError when there is none."""
    try:
        return _transformers().AutoTokenizer.from_pretrained(model.path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{model.path} holds no tokenizer that loads ({_first_line(error)}). Put its tokenizer.json there."
        ) from error


def load_format(model: Model, tokenizer: "PreTrainedTokenizerBase", program: PromptProgram | None = None) -> ChatFormat:
    """How this model is talked to: its chat template and its prompt program, or another one."""
    form = EncoderDecoderFormat if _config(Path(model.base or model.path)).is_encoder_decoder else ChatFormat
    return form(tokenizer, program or PromptProgram.load(model.path))


def load_context(model: Model) -> int:
    """The longest text that a model knows positions for; of an encoder-decoder the longest question, or answer."""
    return seq2seq.longest(_config(Path(model.base or model.path)))


def load_config(model: Model) -> Any:
    """A model's configuration as transformers has it; of an adapter, that of its base. Raises ModelError."""
    return _config(Path(model.base or model.path))


def load_weights(
    model: Model, *, four_bits: bool = False, scores: bool = False, at: torch.device | None = None
) -> "Weights":
    """The model of a folder in fp32, with its adapter on its base if it is one; the base in four bits if the adapter
    was trained so, or on request. `scores` gives it a head of one number in place of its own. It is where models are
    computed with, or `at` another place. Raises ModelError."""
    use_fast_matmul()
    path = Path(model.base or model.path)
    quantised = configuration(lambda: skeleton(path, scores)) if four_bits else noted(Path(model.path))
    weights: Any = _load_dense(
        path, scores, **{"quantization_config": quantised, "device_map": {"": device()}} if quantised else {}
    )
    keep_gradients(weights)
    choose_threads(weights.num_parameters())
    weights = weights.to(at or device())
    return carry(weights, model) if model.base else weights


def carry(weights: Any, model: Model) -> "PeftModel":
    """Weights with the adapter of a folder on them, ready to be trained further. Raises ModelError."""
    try:
        return reload(weights, Path(model.path))
    except UNREADABLE as error:
        raise ModelError(
            f"{model.path} cannot be loaded as an adapter of {model.base}: {_first_line(error)}. Give a folder with "
            "adapter_config.json and adapter_model.safetensors of one."
        ) from error


def load_rounded(model: Model, adapted: "PeftModel") -> "PeftModel":
    """An adapter in fp32 on the weights that its base in four bits computes with; `adapted` is the two together."""
    dense: Any = _load_dense(Path(model.base or model.path))
    dense = dense.to(device())
    take_rounded(dense, adapted.get_base_model())
    return carry(dense, model)


def load_policy(model: Model, *, dtype: str = "float32", **options: Any) -> Policy:
    """A policy that answers as the artifact does. Raises ModelError for a model that scores answers and writes none."""
    if model.form == "reward":
        raise ModelError(f"{model.path} is a reward model, which writes nothing. Name a model that answers.")
    weights = load_weights(model)
    adapter = NAME if model.form == "adapter" else None
    return Policy(weights, load_tokenizer(model), dtype=dtype, adapter=adapter, **options)


def load_scorer(model: Model, *, dtype: str = "float32", **options: Any) -> Scorer:
    """A reward model that scores as the artifact does. Raises ModelError for another kind of model."""
    if model.form != "reward":
        raise ModelError(
            f"{model.path} is no reward model: it holds {model.form} weights. Train one with a `reward` stage, or name a "
            "sequence-classification model with one label."
        )
    options = {"adapter": NAME if model.base else None, "offset": float(model.facts.get("offset", 0.0)), **options}
    return Scorer(load_weights(model, scores=True), load_tokenizer(model), dtype=dtype, **options)


def _load_dense(path: Path, scores: bool = False, **options: Any) -> "PreTrainedModel":
    config = _config(path)
    encodes = config.is_encoder_decoder
    if scores:
        if encodes or type(config) not in _transformers().MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise _cannot_score(path)
        options["num_labels"] = 1
    read = rebuild if is_packed(config) or holds_gguf(path) else _auto(encodes, scores).from_pretrained
    for implementation in ("sdpa" if encodes else attention.NAME, "eager"):
        try:
            weights = read(
                path, dtype=torch.float32, attn_implementation=implementation, trust_remote_code=False, **options
            )
            if implementation == attention.NAME and _wants_eager(weights):
                continue
            return _headed(weights, path) if scores else weights
        except UNREADABLE as error:
            failure = error
    kind = "a reward model" if scores else "an encoder-decoder" if encodes else "a causal language model"
    raise ModelError(
        f"{path} cannot be loaded as {kind}: {_first_line(failure)}. "
        "Give a folder with config.json and model.safetensors of one."
    ) from failure


def rebuild(path: Path, **options: Any) -> "PreTrainedModel":
    """A causal model whose weights are stored in few bits, as the numbers that these stand for. Raises ModelError where a
    weight is missing."""
    config = _config(path)
    state = packed_weights(path, config) if is_packed(config) else gguf_weights(path, config)
    rounding = config.__dict__.pop("quantization_config", {})
    if rounding and any(".experts." in name for name in state):
        with torch.device("meta"):
            skeleton = _auto(False).from_config(config)
        state = stacked(skeleton, state)
    options.pop("trust_remote_code")
    kind = _transformers().MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    weights, said = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
    if said["missing_keys"] or said["unexpected_keys"]:
        names = sorted({*said["missing_keys"], *said["unexpected_keys"]})
        raise ModelError(
            f"{path} lacks weights, or has some that are not the model's ({names[0]}). Copy the model again."
        )
    if rounding.get("quant_method") == modelopt_layout.METHOD:
        round_inputs_as_stored(weights, stored_inputs(path))
    round_inputs_as_said(weights, rounding)
    if (path / "generation_config.json").is_file():
        weights.generation_config = _transformers().GenerationConfig.from_pretrained(path)
    model: PreTrainedModel = weights
    return model


def _cannot_score(path: Path) -> ModelError:
    return ModelError(
        f"{path} is a {_config(path).model_type} model, of which transformers has none that reads a text from left to "
        f"right and gives it one number (`{SCORES}` with a layer `score`). Take another one for the reward model, such "
        "as a Llama, Mistral, Qwen, Gemma, Phi or GPT-2."
    )


def _headed(weights: Any, path: Path) -> Any:
    """A model with a head of one number. A fresh head begins with nothing, so that every answer begins equal. Raises
    ModelError for a head that is another kind of layer, as models have that read from both sides."""
    if not hasattr(weights, "score"):
        raise _cannot_score(path)
    architectures = _config(path).architectures or []
    if not any(name.endswith(SCORES) for name in architectures):
        torch.nn.init.zeros_(weights.score.weight)
    return weights


def _auto(encodes: bool, scores: bool = False) -> Any:
    """The class that loads models of a kind."""
    if scores:
        return _transformers().AutoModelForSequenceClassification
    return _transformers().AutoModelForSeq2SeqLM if encodes else _transformers().AutoModelForCausalLM


def skeleton(path: Path, scores: bool) -> "PreTrainedModel":
    """A model with its names and shapes, and any weights."""
    config = _config(path)
    model: PreTrainedModel = _auto(config.is_encoder_decoder, scores).from_config(config)
    return model


def _config(path: Path) -> Any:
    """A model's config. Raises ModelError."""
    try:
        return _transformers().AutoConfig.from_pretrained(path, trust_remote_code=False)
    except UNREADABLE as error:
        raise ModelError(
            f"{path} cannot be loaded as a language model: {_first_line(error)}. "
            "Give a folder with config.json and model.safetensors of one."
        ) from error


def _wants_eager(weights: "PreTrainedModel") -> bool:
    """Capped attention scores, and sinks that take a share of them as in GPT-OSS, are computed by transformers' eager attention
    alone."""
    return getattr(weights.config, "attn_logit_softcapping", None) is not None or not weights._supports_sdpa


def save_weights(
    weights: "Weights",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    *,
    source: Model,
    state: "dict[str, torch.Tensor] | None" = None,
) -> None:
    """Writes weights (of an adapter: it alone), tokenizer, template and prompt program, in the ecosystem's formats. A
    `state` is written in place of the weights' own, as of matrices that are packed."""
    if is_adapted(weights):
        # the base by its folder's name: a whole path would give the same adapter another digest on another machine;
        # without its embeddings: PEFT would ask the hub whether they changed
        weights.peft_config[NAME].base_model_name_or_path = Path(source.base or source.path).name
        save_adapter(weights, folder)
        note_base(weights.get_base_model(), folder)
    elif weights.config.is_encoder_decoder:
        seq2seq.note_generation(weights, sorted(EncoderDecoderFormat(tokenizer).stop_ids))
        weights.save_pretrained(str(folder))
    elif weights.get_output_embeddings() is None:  # it scores, and writes nothing
        weights.save_pretrained(str(folder))
    else:
        stops = ChatFormat(tokenizer).stop_ids  # so that any other program stops where this one does
        weights.generation_config.eos_token_id = sorted(stops) or None
        weights.save_pretrained(str(folder), state_dict=state)
    tokenizer.save_pretrained(folder)
    if program := PromptProgram.load(source.path):
        program.save(folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT leaves an empty template of a card


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".!")
