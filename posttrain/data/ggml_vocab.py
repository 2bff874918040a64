"""A tokenizer as a GGUF file holds it, read from tokenizer.json itself and compared with it on texts.

transformers is not asked: for some models it puts a tokenizer of its own in the place of the file's, with other ids.
llama.cpp knows ways to cut a text by name alone and takes any name without a word, so the name is found by the file's
rules, and every text of `varied_texts` must give the ids that the file gives.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from posttrain.functional.pretokens import GPT2, Way
from posttrain.schema.errors import ModelError

from .ggml_tokens import BLANK, ByScore

NEVER = -1e9  # the score of a token that no joining makes


class Kind(IntEnum):
    """What a token is, by llama.cpp's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocab:
    """`model` is llama.cpp's name of the algorithm, `pre` of the way to cut a text; `special` are ids by the names bos,
    eos, eot, unk and pad; `prefix` says that a space goes before a text, `name` is what the file must be called for spaces behind special tokens to be dropped. `checked` tells what the comparison found."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    kinds: tuple[Kind, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    special: Mapping[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    prefix: bool = False
    template: str = ""
    name: str = ""
    checked: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """tokenizer.json and the tokenizer that it describes."""

    folder: Path
    spec: Mapping[str, Any]
    tokenizer: Any

    @property
    def model(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.spec["model"]
        return found

    @property
    def added(self) -> dict[str, int]:
        return {each["content"]: int(each["id"]) for each in self.spec.get("added_tokens") or ()}

    @property
    def normalised(self) -> str:
        """The kinds of its normalizers, in order."""
        return "+".join(each["type"] for each in steps(self.spec.get("normalizer"), "normalizers"))

    def ids(self, text: str) -> list[int]:
        """The ids that it gives a text, without those that begin or end every one."""
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def refuse(self, why: str, cure: str) -> ModelError:
        return ModelError(f"{self.folder}/tokenizer.json cannot be written for llama.cpp: {why}. {cure}")


def steps(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, a sequence laid flat."""
    if not part:
        return []
    if part["type"] == "Sequence":
        return [step for each in part[inside] for step in steps(each, inside)]
    return [part]


def read_source(folder: Path) -> Source:
    """The tokenizer of a folder. Raises ModelError where there is none, or none of a kind that llama.cpp has."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        source = Source(folder, json.loads(path.read_text(encoding="utf-8")), Tokenizer.from_file(str(path)))
        kind = source.model["type"]
    except Exception as error:  # tokenizers raises Exception itself for a file that it cannot read
        raise ModelError(
            f"{path} cannot be read ({error}). Save the tokenizer as tokenizer.json: transformers does so with "
            "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`."
        ) from error
    if kind != "BPE":
        raise source.refuse(
            f"it is a {kind} model, and byte pair encoding alone (with bytes, or with a fallback to bytes) is written",
            "Take a model whose tokenizer is one of these",
        )
    return source


def is_byte_level(source: Source) -> bool:
    """Whether it merges bytes rather than characters."""
    parts = steps(source.spec.get("pre_tokenizer"), "pretokenizers")
    return any(part["type"] == "ByteLevel" for part in parts)


def patterns_of(source: Source) -> tuple[str, ...]:
    """The patterns by which a byte-level tokenizer cuts. Raises ModelError for a rule that is none."""
    found = []
    for part in steps(source.spec.get("pre_tokenizer"), "pretokenizers"):
        pattern = part.get("pattern", {})
        if part["type"] == "ByteLevel" and part.get("add_prefix_space"):
            raise source.refuse("it puts a space before every text", "Set `add_prefix_space` to false and train again")
        if part["type"] == "ByteLevel":
            found += [GPT2] if part.get("use_regex", True) else []
        elif part["type"] == "Digits":
            found.append(r"\p{N}" if part["individual_digits"] else r"\p{N}+")
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part.get("invert"):
            found.append(pattern.get("Regex") or pattern.get("String", ""))
        elif part["type"] == "Split" and part["behavior"] == "Removed" and part.get("invert"):
            found.append(pattern.get("Regex", ""))
        else:
            found.append(f"({part['type']})")  # no entry has it; the texts decide
    return tuple(found)


def special_ids(folder: Path, ids: Mapping[str, int], turn: str | None = None) -> dict[str, int]:
    """Ids of bos, eos, unk and pad by tokenizer_config.json, and of the token `turn` that ends a turn, where that is
    another one than eos."""
    named = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    found: dict[str, int] = {}
    for name in ("bos", "eos", "unk", "pad"):
        token = named.get(f"{name}_token")
        token = str(token.get("content") if isinstance(token, dict) else token)
        if token in ids:
            found[name] = ids[token]
    stops = _json(folder / "generation_config.json").get("eos_token_id")
    stops = [stops] if isinstance(stops, int) else stops or []
    stops = [stop for stop in stops if stop in set(ids.values())]
    if stops and "eos" not in found:
        found["eos"] = stops[0]
    others = [stop for stop in ([ids[turn]] if turn and turn in ids else []) + stops if stop != found.get("eos")]
    return found | ({"eot": others[0]} if others else {})


def chat_template(folder: Path) -> str:
    """The template of a folder, wherever it stands; empty if there is none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _json(folder / "tokenizer_config.json").get("chat_template") or ""
    if isinstance(found, str):
        return found
    named = {each.get("name"): each.get("template", "") for each in found}
    return str(named.get("default", ""))


def ends(source: Source) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and behind every text."""
    bare = source.tokenizer.encode("a", add_special_tokens=False).ids
    full = source.tokenizer.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
    return full[:at], full[at + len(bare) :]


def tokens_of(source: Source, n_rows: int) -> tuple[list[str], list[Kind]]:
    """Every token and its kind, as many as the model has rows. Raises ModelError for ids beyond them."""
    words = {**source.model["vocab"], **source.added}
    if beyond := {word: id for word, id in words.items() if id >= n_rows}:
        word, id = max(beyond.items(), key=lambda each: each[1])
        raise source.refuse(
            f"{word!r} has the id {id} and the model {n_rows} rows of embeddings",
            "Resize the model's embeddings, or put the tokenizer that it was trained with there",
        )
    tokens = [f"[PAD{i}]" for i in range(n_rows)]
    kinds = [Kind.UNUSED] * n_rows
    for word, id in source.model["vocab"].items():
        tokens[id], kinds[id] = word, Kind.NORMAL
        if source.model.get("byte_fallback") and len(word) == 6 and word.startswith("<0x") and word.endswith(">"):
            kinds[id] = Kind.BYTE
    for each in source.spec.get("added_tokens") or ():
        tokens[each["id"]] = each["content"]
        kinds[each["id"]] = Kind.CONTROL if each["special"] else Kind.USER_DEFINED
    if len(set(tokens)) < n_rows:
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise source.refuse(f"two ids have the text {twice!r}", "Rename one of them")
    return tokens, kinds


def merges_of(source: Source) -> list[str]:
    """Merges as llama.cpp reads them: two tokens and a space between."""
    return [each if isinstance(each, str) else " ".join(each) for each in source.model["merges"]]


def scores_of(source: Source, tokens: Sequence[str]) -> list[float]:
    """Scores that join in the order of the merges: the earlier a merge, the higher what it makes."""
    scores = dict.fromkeys(tokens, NEVER)
    for rank, merge in enumerate(merges_of(source)):
        word = merge.replace(" ", "")
        scores[word] = max(scores.get(word, NEVER), -float(rank))
    return [scores[token] for token in tokens]


def byte_level_cut(source: Source, way: Way) -> Any:
    """How llama.cpp's `gpt2` reads a stretch of text by a way."""
    from tokenizers.models import BPE

    from posttrain.functional.pretokens import pieces

    merges = [(left, right) for left, right in (each.split(" ") for each in merges_of(source))]
    model = BPE(vocab=dict(source.model["vocab"]), merges=merges, ignore_merges=way.whole)
    letters = byte_letters()

    def cut(text: str) -> list[int]:
        words = ("".join(letters[byte] for byte in piece.encode()) for piece in pieces(text, way.patterns))
        return [token.id for word in words for token in model.tokenize(word)]

    return cut


def by_score_cut(tokens: Sequence[str], scores: Sequence[float]) -> ByScore:
    """How llama.cpp's `llama` reads a stretch of text."""
    return ByScore({token: id for id, token in enumerate(tokens)}, scores)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it can be seen, else one beyond."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) if byte in seen else chr(256 + hidden.index(byte)) for byte in range(256)]


def starts_with_space(source: Source) -> bool:
    """Whether a space goes before a text, as SentencePiece does."""
    for each in steps(source.spec.get("normalizer"), "normalizers"):
        if each["type"] == "Prepend" and each["prepend"] == BLANK:
            return True
    parts = steps(source.spec.get("pre_tokenizer"), "pretokenizers")
    return any(part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never" for part in parts)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
