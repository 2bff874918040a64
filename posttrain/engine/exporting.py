"""What another program needs of a model, in a folder of its own: which forms it takes, which files, and what is compared.

transformers   the folder as it is; an adapter as PEFT has it, or merged
vllm           the same, dense or in symmetric integers
llama.cpp      one GGUF file
ollama         one GGUF file and a Modelfile
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.data.chat import ChatFormat
from posttrain.models import adapters
from posttrain.models.four_bits import FILE as FOUR_BITS
from posttrain.models.load import load_tokenizer
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from posttrain.schema.targets import Target

from .files import copy_model, replace_text
from .for_llama_cpp import file_agrees, file_of
from .ollama import write_modelfile
from .parity import transformers_agrees

FILES: tuple[Target, ...] = ("llama.cpp", "ollama")
FORMS: Mapping[Target, tuple[str, ...]] = {
    "transformers": ("dense", "adapter", "compressed-tensors"),
    "vllm": ("dense", "compressed-tensors"),
    "llama.cpp": ("gguf",),
    "ollama": ("gguf",),
}
PRECISE = "float32"


@dataclass(frozen=True)
class Exported:
    """What was compared, in sentences what the program does not know of the model, and what to type next, with FOLDER for
    the place of the files."""

    verified: Mapping[str, Any]
    lost: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = field(default=())


def steps_to(target: Target, model: Model, merge: bool) -> tuple[str, ...]:
    """The stages that a model goes through before it can be exported. Raises ModelError for one that cannot be."""
    if model.form == "reward":
        raise ModelError(
            f"{model.path} is a reward model, which scores answers and writes none: these programs run models that write. Load "
            "its folder with transformers' AutoModelForSequenceClassification."
        )
    if model.form == "adapter":
        if adapters.is_virtual(Path(model.path)) and (merge or target != "transformers"):
            raise ModelError(
                f"{model.path} holds virtual tokens, which no weight can hold, so that it cannot be merged for {target}. Export "
                "it with `--to transformers` and without `--merge`, or train with `adapter: lora`."
            )
        if target in FILES:
            return ("merge", "gguf")
        return ("merge",) if merge or target == "vllm" else ()
    if merge:
        raise ModelError(
            f"{model.path} is no adapter but {model.form}, so there is nothing to merge. Leave `--merge` out."
        )
    if model.form == "dense" and target in FILES:
        return ("gguf",)
    if model.form in FORMS[target]:
        return ()
    raise ModelError(_cannot(target, model))


def _cannot(target: Target, model: Model) -> str:
    start = f"{model.path} holds {model.form} weights, which are not exported to {target}"
    if model.form == "gguf":
        return f"{start}. Write `--to llama.cpp` or `--to ollama`, or export the model that it was made from."
    if target in FILES:
        return f"{start}: they would be rounded twice. Export the dense model, or write `gguf` with `solver: gptq` from it."
    return f"{start}. Export a model of the form {' or '.join(FORMS[target])}."


def export_folder(model: Model, target: Target, folder: Path, name: str) -> Exported:
    """Writes a model into `folder`, and has transformers itself open it. Raises ModelError where it does not compute the
    same."""
    lost: list[str] = []
    if model.form == "compressed-tensors" and not _is_symmetric(Path(model.path)):
        raise ModelError(
            f"{model.path} holds asymmetric integers, which transformers 5 does not load as they are and vLLM not in every version. "
            "Make it with `symmetric: true`, and export that."
        )
    copy_model(model, folder)
    if model.form == "adapter":
        lost += _name_base(model, folder)
    elif (settings := folder / "config.json").is_file():
        _note_stops(model, folder)
        kept = json.loads(settings.read_text(encoding="utf-8"))
        if target == "vllm" and kept.get("dtype") == PRECISE:
            lost.append(
                "precision: its numbers are float32, of which vLLM takes half unless it is told `--dtype float32`"
            )
    lost += _for_vllm(folder) if target == "vllm" else []
    said = {**transformers_agrees(model, folder), "verified": "transformers"}
    if target == "vllm":
        return Exported(said, tuple(lost), (f"vllm serve FOLDER --served-model-name {name}",))
    return Exported(said, tuple(lost), (f'{_class_of(folder)}.from_pretrained("FOLDER")',))


def export_file(model: Model, target: Target, folder: Path, name: str, kind: str | None = None) -> Exported:
    """Writes one GGUF file of a model into `folder`, with a Modelfile for Ollama. Raises ModelError where llama.cpp, or
    Ollama, would not compute the same."""
    source = file_of(model, kind)
    file = folder / source.name
    shutil.copyfile(source, file)
    vocab, said = file_agrees(model, file)
    made = model.facts.get("verified")
    if made and said["verified"] != "llama.cpp":
        said["verified"] = made
    said |= _rounding(model, source)
    lost = list(vocab.notes)
    if target == "ollama":
        compared, more = write_modelfile(model, folder, file.name, vocab)
        commands = (f"ollama create {name} -f FOLDER/Modelfile", f"ollama run {name}")
        return Exported({**said, **compared}, (*lost, *more), commands)
    if not vocab.template:
        lost.append(
            "a chat template: the model has none, and llama.cpp would take one of its own: ask it in plain text"
        )
    commands = (f"llama-server -m FOLDER/{file.name} --jinja", f"llama-cli -m FOLDER/{file.name} --jinja")
    return Exported(said, tuple(lost), commands)


def _rounding(model: Model, source: Path) -> dict[str, float]:
    """How far a file is from the model that it was written from, where the stage that wrote it says so."""
    of_type = model.facts.get("difference", {}).get(source.stem.removeprefix("model-").lower(), {})
    return {"rounding": float(of_type["kl"])} if "kl" in of_type else {}


def _is_symmetric(folder: Path) -> bool:
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config") or {}
    return all(group["weights"].get("symmetric", True) for group in (said.get("config_groups") or {}).values())


def _name_base(model: Model, folder: Path) -> list[str]:
    """Names an adapter's base so that it is found: by its name on the Hub where it came from there, else by its place."""
    if (Path(model.path) / FOUR_BITS).is_file():
        raise ModelError(
            f"{model.path} was trained on a base in four bits, which a PEFT folder does not say: it would answer with other "
            "weights. Write `--merge`, which merges it with those that it learnt on."
        )
    base = Path(str(model.base))
    hub = next((part for part in base.parts if part.startswith("models--")), None)
    where = "/".join(hub.removeprefix("models--").split("--", 1)) if hub else str(base)
    path = folder / "adapter_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": where}
    replace_text(path, json.dumps(said, indent=2, sort_keys=True) + "\n")
    return [] if hub else [f"its base: the adapter looks for it at {base}. `--merge` puts both into one folder"]


def _note_stops(model: Model, folder: Path) -> None:
    """Where an answer ends, for programs that read generation_config.json alone."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("is_encoder_decoder"):
        return
    path = folder / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = said.get("eos_token_id", config.get("eos_token_id"))
    known = {found} if isinstance(found, int) else set(found or ())
    wanted = ChatFormat(load_tokenizer(model)).stop_ids
    if not wanted <= known:
        said["eos_token_id"] = sorted(known | wanted)
        replace_text(path, json.dumps(said, indent=2, sort_keys=True) + "\n")


def _class_of(folder: Path) -> str:
    """What loads a folder."""
    if not (folder / "config.json").is_file():
        return "peft.AutoPeftModelForCausalLM"
    encodes = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder")
    return f"transformers.{'AutoModelForSeq2SeqLM' if encodes else 'AutoModelForCausalLM'}"


def _for_vllm(folder: Path) -> list[str]:
    """What vLLM reads of a folder beside the weights, where it is not there."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("is_encoder_decoder"):
        raise ModelError("vLLM has no encoder-decoders any more. Export it with `--to transformers`.")
    told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if told.get("chat_template") or (folder / "chat_template.jinja").is_file():
        return []
    return ["chats: the model has no chat template, so that /v1/chat/completions is refused; ask /v1/completions"]
