"""A Modelfile for a GGUF file: its template in Go, where it stops, how it is sampled, and the examples that it is shown.

What Ollama will make of it is rendered here and compared with what the model is asked with, token for token: examples,
system and several turns. Ollama puts the messages of a Modelfile before those of a chat, as a prompt program does.
"""

import json
from pathlib import Path
from typing import Any

from posttrain.data.chat import ChatFormat
from posttrain.data.ggml_vocab import Vocab, read_source
from posttrain.data.go_template import rendered
from posttrain.data.modelfile import Modelfile, read_modelfile
from posttrain.data.ollama_template import IN_LINES, Carried, conversations, in_go
from posttrain.data.program import PromptProgram
from posttrain.data.template import with_template
from posttrain.models.load import load_context, load_tokenizer
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message, Prompt

CONTEXT = 4096  # tokens that Ollama makes room for by itself
LINE = "\n"


def write_modelfile(model: Model, folder: Path, source: str, vocab: Vocab) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Writes a Modelfile for the file `source` into a folder; says what was compared, and in sentences what is lost. Raises
    ModelError where Ollama would ask the model otherwise than we do."""
    tokenizer = with_template(load_tokenizer(model))
    program = PromptProgram.load(model.path) or PromptProgram()
    plain = program.layout == "plain"
    carried = Carried(IN_LINES, system=False) if plain else in_go(tokenizer, add_bos=vocab.add_bos)
    shown, lost = _shown(program, carried.trims)
    form = ChatFormat(tokenizer, program)
    stops = [vocab.tokens[id] for id in sorted(ChatFormat(tokenizer).stop_ids)]
    parameters = {"stop": (*([LINE] if plain else []), *stops), **_sampling(Path(model.path)), **_context(model)}
    text = Modelfile(source, carried.text, parameters, shown).text()
    chats = [chat[:1] for chat in conversations(with_system=False)[:1]] if plain else None
    chats = chats or conversations(with_system=carried.system)
    _compare(text, form if shown or plain else ChatFormat(tokenizer), chats, Path(model.path), vocab)
    (folder / "Modelfile").write_text(text, encoding="utf-8", newline="\n")
    if plain:
        lost = (
            *lost,
            "a chat: the model is asked in lines of plain text, as its examples are, and answers in one line",
        )
    return {"chats": len(chats), "examples": len(shown) // 2}, (*carried.lost, *lost)


def _shown(program: PromptProgram, trims: bool) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The examples that stand before every question, and what of the program is lost."""
    if program.by_task and len({example.task for example in program.examples}) > 1:
        return (), (
            "examples: they are chosen by the task of a question, which Ollama does not know, and none is shown",
        )
    messages = [
        Message(role, words.strip() if trims else words)
        for example in program.examples[: program.k]
        for role, words in (("user", example.prompt), ("assistant", example.answer))
    ]
    return tuple(messages), ()


def _compare(text: str, form: ChatFormat, chats: list[list[Message]], folder: Path, vocab: Vocab) -> None:
    """Whether Ollama's prompts have the tokens of ours."""
    read, source = read_modelfile(text), read_source(folder)
    begins = [vocab.special["bos"]] if vocab.add_bos else []
    for chat in chats:
        wanted = form.ask(Prompt(tuple(chat)))
        found = begins + source.ids(rendered(read.template, [*read.messages, *chat]))
        if found != wanted:
            n = next((n for n, (a, b) in enumerate(zip(wanted, found, strict=False)) if a != b), len(found))
            raise ModelError(
                f"Ollama would ask the model with other tokens than it learnt: {found[n : n + 4]} in the place of "
                f"{wanted[n : n + 4]} from token {n} on. Nothing was exported. Export it to llama.cpp, whose server reads the chat "
                "template itself."
            )


def _sampling(folder: Path) -> dict[str, tuple[str, ...]]:
    """How transformers would draw by generation_config.json, in Ollama's words: what is not said there is not left to
    Ollama, which has other values of its own."""
    path = folder / "generation_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = {"temperature": 0.0, "repeat_penalty": said.get("repetition_penalty") or 1.0}
    if said.get("do_sample"):
        usual = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
        found |= {name: usual[name] if said.get(name) is None else said[name] for name in usual}
    return {name: (f"{value:g}",) for name, value in found.items()}


def _context(model: Model) -> dict[str, tuple[str, ...]]:
    """The length of texts, where Ollama would take a longer one."""
    longest = load_context(model)
    return {"num_ctx": (str(longest),)} if longest < CONTEXT else {}
