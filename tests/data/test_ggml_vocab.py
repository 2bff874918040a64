"""A tokenizer for llama.cpp: its way of cutting is found and checked, and what would read otherwise is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from posttrain.data.ggml_match import compared_with, read_vocab
from posttrain.data.ggml_tokens import partition
from posttrain.data.ggml_vocab import Kind, byte_letters
from posttrain.data.varied_texts import N_TEXTS
from posttrain.schema.errors import ModelError
from tests import gguf_models, tiny

KNOWN = [way for way in gguf_models.CUTS if way != "unknown"]


def folder_of(path: Path, tokenizer: Tokenizer, **said: Any) -> Path:
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    named = {"eos_token": "<|endoftext|>", "pad_token": {"content": "<|pad|>"}} | said
    (path / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    return path


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["model"] |= changes.pop("model", {})
    path.write_text(json.dumps(spec | changes), encoding="utf-8")
    return folder


@pytest.mark.parametrize("way", KNOWN)
def test_the_way_is_found_by_its_rules_and_the_texts_agree(tmp_path, way):
    vocab = read_vocab(folder_of(tmp_path, gguf_models.byte_level(way)), 720)
    assert (vocab.model, vocab.pre, vocab.checked["by"]) == ("gpt2", way, "rules")
    assert vocab.checked["texts"] == N_TEXTS
    assert vocab.checked["differ"] == 0 or way == "tekken"  # whose patterns llama.cpp itself only approximates
    assert bool(vocab.notes) == (way == "tekken")


def test_a_way_that_is_only_written_differently_is_found_by_the_texts(tmp_path):
    tokenizer = gguf_models.byte_level("gpt-2")
    gpt2 = r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([gguf_models.split(gpt2), gguf_models.bytes_of()])
    vocab = read_vocab(folder_of(tmp_path, tokenizer), 720)
    assert (vocab.pre, vocab.checked["by"], vocab.checked["differ"]) == ("gpt-2", "texts", 0)


def test_an_unknown_way_is_refused(tmp_path):
    with pytest.raises(
        ModelError, match=rf"none of the \d+ known ways.*differs on \d+ of {N_TEXTS} texts.*Take a model whose"
    ):
        read_vocab(folder_of(tmp_path, gguf_models.byte_level("unknown")), 720)


def test_rules_of_one_way_with_the_merging_of_another_are_told_apart(tmp_path):
    """Whole pieces are tokens in Llama 3 whatever the merges say, and not in another model with the same patterns."""
    folder = folder_of(tmp_path, gguf_models.byte_level("llama-bpe"))
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    merges = spec["model"]["merges"]
    assert read_vocab(edited(folder, model={"ignore_merges": False}), 720).pre == "llama-bpe"  # all are reached
    fewer = {"merges": merges[:-200]}
    assert read_vocab(edited(folder, model=fewer | {"ignore_merges": False}), 720).pre == "smaug-bpe"
    assert read_vocab(edited(folder, model=fewer | {"ignore_merges": True}), 720).pre == "llama-bpe"


def test_without_merges_no_cut_matters(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    vocab = read_vocab(tmp_path, tiny.VOCABULARY)
    assert (vocab.checked["differ"], vocab.merges) == (0, ())
    assert vocab.template == tiny.CHAT


@pytest.mark.parametrize("prefix", [True, False])
def test_a_tokenizer_with_a_fallback_to_bytes(tmp_path, prefix):
    folder = folder_of(tmp_path, gguf_models.falling_back(prefix), **gguf_models.SENTENCES)
    vocab = read_vocab(folder, 920)
    assert (vocab.model, vocab.prefix, vocab.add_bos, vocab.add_eos) == ("llama", prefix, True, False)
    assert vocab.checked == {"texts": N_TEXTS, "differ": 0, "by": "texts"}
    assert vocab.special == {"bos": 1, "eos": 2, "unk": 0}
    assert (vocab.kinds[0], vocab.kinds[1], vocab.kinds[3]) == (Kind.UNKNOWN, Kind.CONTROL, Kind.BYTE)
    joined = [id for id, score in enumerate(vocab.scores) if score > -1e8]
    assert vocab.scores[joined[0]] > vocab.scores[joined[-1]]  # what is merged first has the higher score


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_where_a_space_goes_before_a_text(tmp_path, scheme):
    """`first` puts it before the text and not behind a special token: llama.cpp has both or none, and chats need none.
    Neither it nor `always` puts one where there is one, which llama.cpp does."""
    tokenizer = gguf_models.falling_back(scheme != "never", scheme=scheme)
    vocab = read_vocab(folder_of(tmp_path, tokenizer, **gguf_models.SENTENCES), 920)
    assert vocab.prefix == (scheme == "always")
    assert vocab.checked.get("begins") == ("<s>" if scheme == "first" else None)
    told = {"always": "where there is one already", "first": "those that begin with '<s>'"}
    assert [told[scheme] in note for note in vocab.notes] == [True] * (scheme != "never")
    assert (vocab.checked["differ"] > 0) == (scheme == "always")


def test_spaces_behind_special_tokens(tmp_path):
    """llama.cpp drops them for what is called phi-3 alone; elsewhere it is told."""
    vocab = read_vocab(folder_of(tmp_path, gguf_models.like_phi3(), **gguf_models.SENTENCES), 920)
    assert (vocab.name, vocab.notes) == ("phi-3", ())
    one = gguf_models.byte_level("qwen2")
    one.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False)])
    vocab = read_vocab(folder_of(tmp_path, one), 720)
    assert vocab.name == ""
    assert "keeps the spaces beside '<|end|>'" in vocab.notes[0]


def test_tokens_and_ends(tmp_path):
    folder = folder_of(tmp_path, gguf_models.byte_level("qwen2", size=600), bos_token="<|user|>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}), encoding="utf-8")
    vocab = read_vocab(folder, 640)
    assert len(vocab.tokens) == len(set(vocab.tokens)) == 640
    assert vocab.kinds[0] == Kind.CONTROL
    assert vocab.kinds[600] == Kind.USER_DEFINED  # <tool>
    assert (vocab.tokens[-1], vocab.kinds[-1]) == ("[PAD639]", Kind.UNUSED)
    assert vocab.special == {"bos": 3, "eos": 0, "pad": 1, "eot": 2}
    assert read_vocab(folder, 640, turn="<|assistant|>").special["eot"] == 4
    assert "eot" not in read_vocab(folder_of(tmp_path / "b", gguf_models.byte_level("qwen2")), 720).special


def test_the_template_wherever_it_stands(tmp_path):
    tokenizer = gguf_models.byte_level("qwen2")
    assert read_vocab(folder_of(tmp_path, tokenizer, chat_template="one"), 720).template == "one"
    several = [{"name": "tool", "template": "no"}, {"name": "default", "template": "two"}]
    assert read_vocab(folder_of(tmp_path, tokenizer, chat_template=several), 720).template == "two"
    (tmp_path / "chat_template.jinja").write_text("three", encoding="utf-8")
    assert read_vocab(tmp_path, 720).template == "three"


def test_what_llama_cpp_does_not_do_is_told_or_refused(tmp_path):
    composed = gguf_models.byte_level("qwen2", normalizer=normalizers.NFC())
    assert "does not compose" in read_vocab(folder_of(tmp_path, composed), 720).notes[0]
    lower = gguf_models.byte_level("qwen2", normalizer=normalizers.Lowercase())
    with pytest.raises(ModelError, match=r"changes a text first \(Lowercase\).*Train with a tokenizer"):
        read_vocab(folder_of(tmp_path, lower), 720)
    ahead = gguf_models.byte_level("gpt-2")
    ahead.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(ModelError, match=r"a space before every text.*Set `add_prefix_space` to false"):
        read_vocab(folder_of(tmp_path, ahead), 720)
    with pytest.raises(ModelError, match=r"has the id \d+ and the model 500 rows"):
        read_vocab(folder_of(tmp_path, gguf_models.byte_level("qwen2")), 500)
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(ModelError, match=r"it is a Unigram model.*Take a model whose tokenizer is one"):
        read_vocab(folder_of(tmp_path, unigram), 720)
    with pytest.raises(ModelError, match=r"cannot be read .*Save the tokenizer as tokenizer.json"):
        read_vocab(tmp_path / "nowhere", 720)


def test_a_fallback_without_all_bytes_is_refused(tmp_path):
    folder = folder_of(tmp_path, gguf_models.falling_back(True), **gguf_models.SENTENCES)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = {word if word != "<0x00>" else "<0xZZ>": id for word, id in spec["model"]["vocab"].items()}
    with pytest.raises(ModelError, match=r"no token for 1 of the 256 bytes"):
        read_vocab(edited(folder, model={"vocab": vocab}), 920)


def test_another_reading_by_transformers_is_seen(tmp_path):
    folder = folder_of(tmp_path, gguf_models.byte_level("qwen2"))
    assert len(compared_with(folder, tiny.tokenizer())) > 500
    from transformers import PreTrainedTokenizerFast

    assert compared_with(folder, PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))) == []


def test_added_tokens_stand_apart_the_longest_first():
    assert list(partition("a<x><xy>b<x", {"<x>": 1, "<xy>": 2, "<x": 3})) == ["a", 1, 2, "b", 3]
    assert list(partition("", {"<x>": 1})) == []


def test_every_byte_has_a_letter_of_its_own():
    letters = byte_letters()
    assert len(set(letters)) == 256
    assert (letters[ord("a")], letters[ord(" ")], letters[0]) == ("a", "Ġ", "Ā")
