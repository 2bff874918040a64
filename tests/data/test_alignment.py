"""Where the tokens of two tokenizers end at the same letter: by hand, within letters, behind blanks, and in long texts."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.data.alignment import WINDOW, aligned, groups, spelt_out
from posttrain.data.chat import ChatFormat
from posttrain.functional.layout import Branch, Tree
from posttrain.schema.rows import Conversation, Message
from tests import tiny


def pieces(*words: str) -> tuple[str, list[int]]:
    text, ends = "", []
    for word in words:
        text += word
        ends.append(len(text))
    return text, ends


def test_the_groups_of_the_page():
    ours, theirs = pieces("H", "ello", ",", " wor", "ld", "\0"), pieces("Hel", "lo", ",", " world", "\0")
    assert groups(ours, theirs) == [(0, 1, 0, 1), (2, 2, 2, 2), (3, 4, 3, 3), (5, 5, 4, 4)]
    assert groups(theirs, ours) == [(0, 1, 0, 1), (2, 2, 2, 2), (3, 3, 3, 4), (4, 4, 5, 5)]


def test_blanks_before_an_answer_are_its_templates():
    assert groups(pieces("so", " it"), pieces(" ", "so it")) == [(0, 1, 0, 1)]
    assert groups(pieces("\n\n", " so", "it"), pieces("so", "it")) == [(0, 1, 0, 0), (2, 2, 1, 1)]


def test_nothing_is_aligned_behind_the_first_letter_that_differs():
    assert groups(pieces("a", "b", "cd"), pieces("a", "b", "ce")) == [(0, 0, 0, 0), (1, 1, 1, 1)]
    assert groups(pieces("x", "b"), pieces("y", "b")) == []
    assert groups(pieces("a", "b", "c", "\0"), pieces("ab")) == [(0, 1, 0, 0)]  # one was cut
    assert groups(pieces(), pieces("a")) == []


def test_a_letter_of_several_tokens_ends_with_the_last():
    """Three bytes of a sign, and two of another; the tokens before do not end where these begin to."""
    bytewise = tiny.tokenizer()
    ids = bytewise("a€é.", add_special_tokens=False)["input_ids"]
    assert len(ids) == 7
    assert spelt_out(bytewise, ids) == ("a€é.", [1, 1, 1, 2, 2, 3, 4])
    whole = pieces("a", "€é", ".")
    assert groups(spelt_out(bytewise, ids), whole) == [(0, 0, 0, 0), (1, 5, 1, 1), (6, 6, 2, 2)]


def test_special_tokens_are_a_letter_whatever_their_name():
    ours, theirs = tiny.tokenizer(), tiny.other_tokenizer()
    assert spelt_out(ours, [*ours("so")["input_ids"], ours.eos_token_id]) == ("so\0", [1, 2, 3])
    assert spelt_out(theirs, [theirs.eos_token_id]) == ("\0", [1])


@pytest.mark.parametrize("made", [tiny.tokenizer, tiny.other_tokenizer])
def test_long_texts_are_what_they_are_at_once(made):
    tokenizer = made()
    text = "ünï €uro 日本語 words, " * 12
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 3 * WINDOW
    spelt, ends = spelt_out(tokenizer, ids)
    assert spelt == text and ends[-1] == len(text)
    for n in (1, 40, WINDOW + 1, 2 * WINDOW, len(ids) - 3):
        assert ends[n - 1] == len(tokenizer.decode(ids[:n]).rstrip("\ufffd"))


def test_a_tokenizer_that_leaves_out_the_first_blank():
    words = {token: i for i, token in enumerate(["<unk>", "</s>", "▁the", "▁w", "orld", "▁", "s", "▁is"])}
    made = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    ids = [2, 3, 4, 7, 3, 4] * 20
    spelt, ends = spelt_out(tokenizer, ids)
    assert spelt == " ".join(["the world is world"] * 20)
    assert ends[:4] == [3, 5, 9, 12]


def test_every_answer_of_a_conversation_by_its_own_tokens():
    """Templates differ in all that is not learnt, in the end of a turn too."""
    ours, theirs = tiny.tokenizer(), tiny.other_tokenizer()
    said = [Message("user", "say hello"), Message("assistant", "hello world")]
    row = Conversation((*said, Message("user", "abc"), Message("assistant", "the world")))
    trees = []
    for tokenizer in (ours, theirs):
        (tokens,) = ChatFormat(tokenizer).conversations(row)
        first = tokens.trained.index(True)
        trees.append(Tree(tokens.ids[:first], (Branch(tokens.ids[first:], tokens.trained[first:]),)))
    found = aligned(*trees, ours, theirs)
    assert found[0].tolist()[0] == 0
    assert found[-1].tolist()[1::2] == [tree.branches[0].n_trained() - 1 for tree in trees]
    assert (found[1:, 0] == found[:-1, 1] + 1).all() and (found[1:, 2] == found[:-1, 3] + 1).all()
    assert len(found) == trees[1].branches[0].n_trained()  # bytes end wherever a longer token does
    alone = Tree(trees[0].prompt, (Branch(trees[0].branches[0].tokens[:3], (True,) * 3),))
    assert aligned(alone, trees[1], ours, theirs).shape == (0, 4)
