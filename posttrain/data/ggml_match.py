"""The vocabulary of a GGUF file for a tokenizer, found by its rules and compared with it on texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.functional.pretokens import WAYS, Way, pieces, ways_of

from . import ggml_vocab as reading
from .ggml_tokens import Cut, ids_of, partition
from .ggml_vocab import Kind, Source, Vocab
from .varied_texts import N_TEXTS, varied_texts

PHI3 = "phi-3"  # what is called so has no spaces behind special tokens in llama.cpp, but for these
KEPT = {"<unk>", "<s>", "<|endoftext|>"}
KNOWN_TO_DIFFER = (
    0.15  # of these hard texts: where the rules are a known way's own, llama.cpp's copy may miss this many
)


@dataclass(frozen=True)
class Found:
    """On which texts a way gave other ids. `by_rules` says that its patterns are the tokenizer's."""

    way: Way
    differ: list[str]
    by_rules: bool


def read_vocab(folder: Path, n_rows: int, turn: str | None = None) -> Vocab:
    """The vocabulary of a folder's tokenizer for a model of `n_rows` embeddings, in which the token `turn` ends a turn.
    Raises ModelError where llama.cpp would read a text differently."""
    source = reading.read_source(folder)
    tokens, kinds = reading.tokens_of(source, n_rows)
    ids = {token: id for id, token in enumerate(tokens) if kinds[id] != Kind.UNUSED}
    special = reading.special_ids(folder, ids, turn)
    before, behind = reading.ends(source)
    if before not in ([], [special.get("bos")]) or behind not in ([], [special.get("eos")]):
        raise source.refuse(
            f"it puts the tokens {before} before and {behind} behind every text, and a file can say bos and eos alone",
            "Name them as bos_token and eos_token in tokenizer_config.json",
        )
    common: dict[str, Any] = {
        "tokens": tuple(tokens),
        "special": special,
        "add_bos": bool(before),
        "add_eos": bool(behind),
        "template": reading.chat_template(folder),
        "name": PHI3 if _like_phi3(source) else "",
    }
    notes = _notes(source)
    if reading.is_byte_level(source):
        return _byte_level(source, kinds, notes, common)
    return _by_score(source, tokens, kinds, notes, common)


def compared_with(folder: Path, tokenizer: Any) -> list[str]:
    """The texts that transformers' tokenizer reads otherwise than the folder's tokenizer.json."""
    source = reading.read_source(folder)
    return _differing(source, lambda text: list(tokenizer.encode(text, add_special_tokens=False)))


def _byte_level(source: Source, kinds: list[Kind], notes: list[str], common: Mapping[str, Any]) -> Vocab:
    if source.normalised not in ("", "NFC"):
        raise source.refuse(
            f"it changes a text first ({source.normalised}), which llama.cpp does not do",
            "Train with a tokenizer that has no normalizer, or NFC",
        )
    patterns = reading.patterns_of(source)
    by_rules = [way for way in ways_of(patterns) if _same_merging(source, way)]
    tried = by_rules or [way for way in WAYS if _same_merging(source, way)]
    found = min((_compared(source, way, way in by_rules) for way in tried), key=lambda each: len(each.differ))
    if len(found.differ) > (KNOWN_TO_DIFFER * N_TEXTS if found.by_rules else 0):
        raise source.refuse(
            f"none of the {len(WAYS)} known ways to cut a text gives its tokens. The nearest, {found.way.name!r}, differs "
            f"on {len(found.differ)} of {N_TEXTS} texts, such as {found.differ[0]!r}; the rules are {list(patterns)}",
            "Take a model whose tokenizer cuts as GPT-2, Llama 3 or Qwen 2 does, or name the way in an issue",
        )
    if found.differ:
        notes.append(
            f"llama.cpp's {found.way.name!r} cuts {len(found.differ)} of {N_TEXTS} texts differently, "
            f"such as {found.differ[0]!r}"
        )
    return Vocab(
        "gpt2",
        found.way.name,
        kinds=tuple(kinds),
        merges=tuple(reading.merges_of(source)),
        checked={"texts": N_TEXTS, "differ": len(found.differ), "by": "rules" if found.by_rules else "texts"},
        notes=tuple(notes),
        **common,
    )


def _by_score(
    source: Source, tokens: list[str], kinds: list[Kind], notes: list[str], common: Mapping[str, Any]
) -> Vocab:
    if missing := [byte for byte in range(256) if f"<0x{byte:02X}>" not in source.model["vocab"]]:
        raise source.refuse(
            f"it has no token for {len(missing)} of the 256 bytes, so that some texts have none",
            "Take a model whose tokenizer falls back to bytes",
        )
    unknown = source.model.get("unk_token")
    if unknown in tokens:
        kinds[tokens.index(unknown)] = Kind.UNKNOWN
    scores = reading.scores_of(source, tokens)
    spaced = _spaced(source, reading.by_score_cut(tokens, scores), _opening(source, tokens, common))
    return Vocab(
        "llama",
        "default",
        kinds=tuple(kinds),
        scores=tuple(scores),
        prefix=spaced.prefix,
        checked={"texts": N_TEXTS, "differ": spaced.differ, "by": "texts"}
        | ({"begins": spaced.begins} if spaced.begins else {}),
        notes=(*notes, *spaced.notes),
        **common,
    )


@dataclass(frozen=True)
class Spaced:
    """Whether a space goes before a text, and on how many texts that differs from the tokenizer. With `begins` the texts
    were those that begin with this token."""

    prefix: bool
    differ: int = 0
    begins: str = ""
    notes: tuple[str, ...] = ()


def _spaced(source: Source, cut: Cut, opening: str) -> Spaced:
    """llama.cpp puts a space before every stretch of text, or before none. Raises ModelError where neither will do."""

    def compared(prefix: str, begins: str = "") -> list[str]:
        return _differing(source, lambda text: ids_of(text, source.added, cut, prefix), begins=begins)

    prefix = reading.starts_with_space(source)
    differ = compared(" " if prefix else "")
    if not differ:
        return Spaced(prefix)
    if prefix and opening and not compared("", opening):
        told = f"a text gets no leading space from llama.cpp: those that begin with {opening!r}, as chats do, agree"
        return Spaced(False, begins=opening, notes=(told,))
    if prefix and all(_leads_with_space(text, source) for text in differ):
        told = "llama.cpp puts a space before a text, and behind a special token, also where there is one already: "
        return Spaced(True, len(differ), notes=(f"{told}{len(differ)} of {N_TEXTS} texts differ",))
    raise source.refuse(
        f"llama.cpp reads {len(differ)} of {N_TEXTS} texts differently, such as {differ[0]!r}",
        "Convert this model with llama.cpp's own convert_hf_to_gguf.py, and compare the tokens",
    )


def _same_merging(source: Source, way: Way) -> bool:
    """Whether a way takes whole pieces as the tokenizer does, or the merges lead to every token anyway."""
    if way.whole == bool(source.model.get("ignore_merges")):
        return True
    by_merges = reading.byte_level_cut(source, Way(way.name, ()))
    letters = {letter: byte for byte, letter in enumerate(reading.byte_letters())}
    for token, id in source.model["vocab"].items():
        if set(token) <= letters.keys():
            try:
                text = bytes(letters[each] for each in token).decode()
            except UnicodeDecodeError:
                continue  # part of a character: no piece is that
            if len(pieces(text, way.patterns)) == 1 and by_merges(text) != [id]:
                return False
    return True


def _compared(source: Source, way: Way, by_rules: bool) -> Found:
    cut = reading.byte_level_cut(source, way)
    differ = _differing(source, lambda text: ids_of(text, source.added, cut), way)
    return Found(way, differ, by_rules)


def compared_texts(source: Source, begins: str = "") -> list[str]:
    """What a tokenizer is compared on: composed where it composes, without what llama.cpp is known not to do; each with
    the token that it `begins` with."""
    texts = varied_texts([token for token in source.added if token not in _strips(source)])
    if source.normalised == "NFC":
        texts = [source.tokenizer.normalizer.normalize_str(text) for text in texts]
    return [begins + text for text in texts]


def _opening(source: Source, tokens: list[str], common: Mapping[str, Any]) -> str:
    """A special token that texts can begin with; empty if there is none."""
    bos = common["special"].get("bos")
    return tokens[bos] if bos is not None else next(iter(source.added), "")


def _differing(source: Source, read: Callable[[str], list[int]], way: Way | None = None, begins: str = "") -> list[str]:
    """The texts that give other ids or are cut otherwise. Where no pair is ever merged, a cut changes nothing."""
    merges = bool(source.model["merges"])
    return [
        text
        for text in compared_texts(source, begins)
        if read(text) != source.ids(text) or (way and merges and not _cut_alike(source, text, way))
    ]


def _leads_with_space(text: str, source: Source) -> bool:
    """Whether a stretch of text begins with a space."""
    return any(isinstance(part, str) and part.startswith(" ") for part in partition(text, source.added))


def _cut_alike(source: Source, text: str, way: Way) -> bool:
    cut = [offsets for _, offsets in source.tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    return [text[start:end] for start, end in cut] == pieces(text, way.patterns)


def _notes(source: Source) -> list[str]:
    notes = []
    if source.normalised == "NFC":
        notes.append("llama.cpp does not compose characters (NFC): a text with loose accents gives other tokens there")
    if (strips := _strips(source)) and not _like_phi3(source):
        notes.append(f"llama.cpp keeps the spaces beside {', '.join(map(repr, strips[:3]))}, which the tokenizer drops")
    return notes


def _strips(source: Source) -> list[str]:
    """Added tokens that take the spaces beside them away."""
    return [each["content"] for each in source.spec.get("added_tokens") or () if each["lstrip"] or each["rstrip"]]


def _like_phi3(source: Source) -> bool:
    """Whether its tokens drop the spaces behind them as llama.cpp has it for Phi-3, and for that alone."""
    added = source.spec.get("added_tokens") or ()
    drops = {each["content"] for each in added if each["rstrip"]}
    named = {each["content"] for each in added}
    return named >= KEPT | {"</s>"} and drops == named - KEPT and not any(each["lstrip"] for each in added)
