"""What an encoder and a decoder are given for a row: token by token, as the tokenizer of the model does it."""

import pytest

from posttrain.data.program import Example, PromptProgram
from posttrain.data.seq2seq_format import EncoderDecoderFormat
from posttrain.data.trees import grown, plant
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Pair, Prompt, Text, Tokenised, ToolCall
from tests import tiny


def message(spoken: str) -> Message:
    role, _, content = spoken.partition(":")
    return Message({"s": "system", "u": "user", "a": "assistant", "t": "tool"}[role], content)


def row(*spoken: str) -> Conversation:
    return Conversation(tuple(map(message, spoken)))


@pytest.fixture(params=[False, True], ids=["t5", "bart"])
def tokenizer(request):
    return tiny.encoder_tokenizer(begins=request.param)


def texts(tokenizer, conversation, **options):
    """(what the encoder reads, what the decoder writes) of every tree."""
    trees = plant([conversation], EncoderDecoderFormat(tokenizer, **options), 1000)
    for tree in trees:
        assert len(tree.branches) == 1
        assert all(tree.branches[0].trained)
    return [tuple(tokenizer.decode(list(ids)) for ids in (tree.prompt, tree.branches[0].tokens)) for tree in trees]


def test_a_question_alone_is_given_as_it_stands(tokenizer):
    begin = "<s>" if tokenizer.bos_token else ""
    assert texts(tokenizer, row("u:How old?", "a:Six.")) == [(f"{begin}How old?</s>", f"{begin}Six.</s>")]


def test_both_sides_are_what_the_tokenizer_makes_of_them(tokenizer):
    form = EncoderDecoderFormat(tokenizer)
    asked, said = form.answer((Message("user", "Ünd"),), (Message("assistant", "Grün"),))
    assert asked == tokenizer("Ünd")["input_ids"] == form.ask(Prompt((Message("user", "Ünd"),)))
    assert said == tokenizer(text_target="Grün")["input_ids"]
    assert form.read_answer(said) == "Grün"
    assert form.stop_ids == {1}


def test_every_answer_of_a_conversation_is_learnt_by_itself():
    found = texts(tiny.encoder_tokenizer(), row("s:Be brief.", "u:Hi", "a:Hello", "u:How old?", "a:Six."))
    assert found == [
        ("Be brief.\n\nHi</s>", "Hello</s>"),
        ("Be brief.\n\nUser: Hi\nAssistant: Hello\nUser: How old?</s>", "Six.</s>"),
    ]


def test_a_turn_that_is_not_to_be_learnt_is_read_only():
    spoken = (Message("user", "Hi"), Message("assistant", "No", trained=False), *row("u:And?", "a:Yes").messages)
    assert [said for _, said in texts(tiny.encoder_tokenizer(), Conversation(spoken))] == ["Yes</s>"]


def test_ends_that_a_row_spells_are_words(tokenizer):
    form = EncoderDecoderFormat(tokenizer)
    asked, said = form.answer((Message("user", "a</s>b<pad>"),), (Message("assistant", "c</s>"),))
    assert asked.count(1) == said.count(1) == 1
    assert 0 not in asked
    assert tokenizer.decode(asked, skip_special_tokens=True) == "a</s>b<pad>"
    assert form.read_answer(said) == "c</s>"


def test_a_tokenizer_gets_no_chat_template_and_one_that_it_has_is_used():
    plain, spoken = tiny.encoder_tokenizer(), tiny.encoder_tokenizer()
    spoken.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    assert texts(spoken, row("u:Hi", "a:Hello")) == [("[user] Hi ", "Hello</s>")]
    assert texts(plain, row("u:Hi", "a:Hello")) == [("Hi</s>", "Hello</s>")]
    assert plain.chat_template is None


def test_a_prompt_program_shows_its_examples():
    program = PromptProgram(layout="plain", examples=(Example("red ->", "rako"),), k=1)
    tokenizer = tiny.encoder_tokenizer()
    form = EncoderDecoderFormat(tokenizer, program)
    asked = form.ask(Prompt((Message("user", "blue"),), plain="blue ->"))
    assert tokenizer.decode(asked) == "red -> rako\nblue -></s>"
    assert form.read_answer(tokenizer("timi\nmore")["input_ids"]) == "timi"
    chat = EncoderDecoderFormat(tokenizer, PromptProgram(examples=(Example("red", "rako"),), k=1))
    assert (
        tokenizer.decode(chat.ask(Prompt((Message("user", "blue"),)))) == "User: red\nAssistant: rako\nUser: blue</s>"
    )


def test_lengths_are_counted_on_either_side():
    form = EncoderDecoderFormat(tiny.encoder_tokenizer())
    rows = [row("u:" + "x" * 9, "a:" + "y" * 9), row("u:" + "x" * 10, "a:y"), row("u:x", "a:" + "y" * 20)]
    whole, dropped, cut = (grown(each, form, 10, "") for each in rows)
    assert (whole.cut, dropped.trees, cut.cut) == (False, (), True)
    assert [(len(tree.prompt), len(tree.branches[0].tokens)) for tree in whole.trees + cut.trees] == [(10, 10), (2, 10)]


def test_pairs_share_their_question():
    said = [(Message("assistant", text),) for text in ("Yes", "No")]
    (tree,) = plant([Pair((Message("user", "Hm?"),), *said)], EncoderDecoderFormat(tiny.encoder_tokenizer()), 99)
    assert [len(branch.tokens) for branch in tree.branches] == [4, 3]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (Text("A text."), ModelError, "gives no probability to a text by itself"),
        (row("u:Hi"), DataError, "must end with the assistant's answer"),
        (Tokenised((5, 6, 7), (True, True, True)), DataError, "must be told where a question ends"),
        (Conversation((Message("user", "Hi"), Message("assistant", "", tool_calls=(ToolCall("f"),)))), DataError, "tool"),
        (Conversation((Message("user", "Hi"), Message("assistant", "x", reasoning="y"))), DataError, "has reasoning in"),
        (Conversation((Message("user", "Hi", trained=True), Message("assistant", "x"))), DataError, "turn of the user"),
        (Conversation(row("u:Hi", "a:Ho").messages, tools=({"type": "function"},)), DataError, "offers tools"),
    ],
)  # fmt: skip
def test_what_it_cannot_write_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        plant([given], EncoderDecoderFormat(tiny.encoder_tokenizer()), 99)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = tiny.encoder_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="Set eos_token"):
        EncoderDecoderFormat(tokenizer)
