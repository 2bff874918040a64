"""Masks and prompts under templates of several families, with tiny tokenizers: what is learnt is what is sampled."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from posttrain.data.chat import ChatFormat, Tokens
from posttrain.data.dressing import dress
from posttrain.data.program import Example, PromptProgram
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Conversation, Message, Prompt, Text

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (  # with the tags that some templates have and this code does not need
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADERS = (  # Llama 3: writes BOS itself, trims, no newline after the end of a turn
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m['role'] }}<|/header|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|/header|>\n\n{% endif %}"
)
INST = (  # Llama 2, Mistral: BOS before every question, the answer begins with a blank, no generation prompt
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} </s>{% endif %}{% endfor %}"
)
NEXT_TURN_ENDS = (  # GLM-4: nothing ends an answer but the beginning of the next turn
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_MARKS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
FORGETS_REASONING = (  # Qwen3: an answer's reasoning is only written while it is the last one
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last or m['role'] != 'assistant' %}{{ m['content'] }}{% else %}{{ m['content'].split('</think>')[-1] }}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}</s>{% endfor %}"
)
EXACT = {"chatml": CHATML, "marked": MARKED, "headers": HEADERS, "inst": INST, "next turn ends": NEXT_TURN_ENDS}

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|header|>", "<|/header|>", "<|eot|>"]
TURNS = (
    Message("user", "hi there"),
    Message("assistant", "hello\nfriend"),
    Message("user", "more please"),
    Message("assistant", "good bye"),
)
CHAT = Conversation(TURNS)


def _bytes(template: str | None, *, bos: bool = False, eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    """A byte-level BPE with a few merges, double newlines among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["a\n\nb\n\n hello hello"] * 4, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, chat_template=template)


def _pieces(template: str | None) -> PreTrainedTokenizerFast:
    """Like Llama 2's tokenizer: a blank is put before every text and every piece between special tokens."""
    alphabet = sorted(set("▁\n:abcdefghijklmnopqrstuvwxyzHUA[]/INST"))
    vocabulary = {piece: n for n, piece in enumerate([*SPECIAL, "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=template
    )


MAKERS: dict[str, Callable[[str | None], PreTrainedTokenizerFast]] = {"bytes": _bytes, "pieces": _pieces}


def _learnt(tokenizer: PreTrainedTokenizerBase, tokens: Tokens) -> list[str]:
    """The runs of learnt tokens, decoded."""
    runs: list[list[int]] = []
    previous = False
    for id, trained in zip(tokens.ids, tokens.trained, strict=True):
        if trained:
            runs = runs if previous else [*runs, []]
            runs[-1].append(id)
        previous = trained
    return [tokenizer.decode(run) for run in runs]


def _one(form: ChatFormat, row: Conversation) -> Tokens:
    """The one text that a conversation is learnt as."""
    (tokens,) = form.conversations(row)
    return tokens


def _ends(template: str) -> str:
    """What ends a turn in a template of this file."""
    return {HEADERS: "<|eot|>", INST: "</s>", NEXT_TURN_ENDS: "<|im_start|>"}.get(template, "<|im_end|>")


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", EXACT)
def test_only_the_answers_and_what_ends_them_are_learnt(name: str, maker: str) -> None:
    tokenizer = MAKERS[maker](EXACT[name])
    tokens = _one(ChatFormat(tokenizer), CHAT)
    end = _ends(EXACT[name])
    learnt = [run.replace(" ", "") for run in _learnt(tokenizer, tokens)]
    assert learnt == [f"hello\nfriend{end}", f"goodbye{end}"]
    assert tokens.ids[-1] == tokenizer.convert_tokens_to_ids(end)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", [*EXACT, "default"])
def test_what_is_learnt_stands_exactly_where_a_sampler_begins(name: str, maker: str) -> None:
    tokenizer = MAKERS[maker](EXACT.get(name))
    form = ChatFormat(tokenizer)
    prompt, completion = form.answer(TURNS[:3], TURNS[3:])
    assert form.ask(Prompt(TURNS[:3])) == prompt
    assert _one(form, CHAT).ids == (*prompt, *completion)
    assert form.read_answer(completion) == "good bye"
    assert completion[-1] in form.stop_ids
    assert not set(completion[:-1]) & form.stop_ids


@pytest.mark.parametrize("name", EXACT)
def test_the_tokens_are_those_of_the_whole_rendered_text(name: str) -> None:
    """An oracle: the text rendered and tokenised at once begins with our tokens (what follows the last stop is cut)."""
    tokenizer = _bytes(EXACT[name])
    ids = _one(ChatFormat(tokenizer), CHAT).ids
    whole = tokenizer.apply_chat_template([m.as_dict() for m in TURNS], tokenize=True, return_dict=False)
    n = len(ids) - (name == "next turn ends")
    assert tuple(whole[:n]) == ids[:n]
    assert tokenizer.decode(whole[n:]).strip() == ""


def test_the_template_writes_bos_and_nobody_adds_another() -> None:
    form = ChatFormat(_bytes(HEADERS, bos=True))
    bos = form.tokenizer.bos_token_id
    assert _one(form, CHAT).ids.count(bos) == 1
    assert form.ask(Prompt(TURNS[:1])).count(bos) == 1
    assert ChatFormat(_bytes(CHATML, bos=True)).ask(Prompt(TURNS[:1])).count(bos) == 0


def test_system_and_tool_turns_are_not_learnt() -> None:
    tokenizer = _bytes(CHATML)
    turns = (Message("system", "be kind"), *TURNS[:2], Message("tool", "42"), Message("assistant", "so 42"))
    assert _learnt(tokenizer, _one(ChatFormat(tokenizer), Conversation(turns))) == [
        "hello\nfriend<|im_end|>",
        "so 42<|im_end|>",
    ]


def test_an_empty_answer_is_its_end() -> None:
    tokenizer = _bytes(CHATML)
    tokens = _one(ChatFormat(tokenizer), Conversation((TURNS[0], Message("assistant", ""))))
    assert _learnt(tokenizer, tokens) == ["<|im_end|>"]


def test_an_answer_that_would_melt_into_the_prompt_is_told_apart() -> None:
    """`assistant\\n` + `\\n…` is one double newline to the tokenizer; a sampler only ever gets the single one."""
    tokenizer = _bytes(CHATML)
    form = ChatFormat(tokenizer)
    assert tokenizer.tokenize("assistant\n\nb")[-2] == "ĊĊ"
    prompt, completion = form.answer(TURNS[:1], (Message("assistant", "\nhello"),))
    assert prompt == form.ask(Prompt(TURNS[:1]))
    assert tokenizer.decode(completion) == "\nhello<|im_end|>"


def test_without_a_mark_the_end_of_sequence_ends_every_answer_in_a_text_of_its_own() -> None:
    tokenizer = _bytes(NO_MARKS)
    form = ChatFormat(tokenizer)
    assert form.stop_ids == {tokenizer.eos_token_id}
    first, last = form.conversations(CHAT)
    assert tokenizer.decode(first.ids) == "user: hi there\nassistant: hello\nfriend</s>"
    assert _learnt(tokenizer, first) == ["hello\nfriend</s>"]
    assert tokenizer.decode(last.ids).startswith("user: hi there\nassistant: hello\nfriend\nuser: more")
    assert _learnt(tokenizer, last) == ["good bye</s>"]


def test_stop_ids_are_the_end_of_turn_and_the_end_of_sequence() -> None:
    tokenizer = _bytes(CHATML)
    assert ChatFormat(tokenizer).stop_ids == set(tokenizer.convert_tokens_to_ids(["<|im_end|>", "</s>"]))


def test_a_template_that_rewrites_earlier_turns_gets_a_text_for_every_answer() -> None:
    form = ChatFormat(_bytes(FORGETS_REASONING))
    thought = Message("assistant", "<think>hm</think>hello")
    first, last = form.conversations(Conversation((TURNS[0], thought, *TURNS[2:])))
    assert _learnt(form.tokenizer, first) == ["<think>hm</think>hello<|im_end|>"]
    assert _learnt(form.tokenizer, last) == ["good bye<|im_end|>"]
    assert "<think>" not in form.tokenizer.decode(last.ids)
    assert list(last.ids[: last.trained.index(True)]) == form.ask(Prompt((TURNS[0], thought, TURNS[2])))


def test_the_last_answer_can_be_learnt_where_earlier_ones_were_rewritten() -> None:
    form = ChatFormat(_bytes(FORGETS_REASONING))
    turns = (TURNS[0], Message("assistant", "<think>hm</think>hello"), TURNS[2])
    prompt, completion = form.answer(turns, TURNS[3:])
    assert "<think>" not in form.tokenizer.decode(prompt)
    assert form.read_answer(completion) == "good bye"


def test_what_a_template_raises_is_told_with_the_turns() -> None:
    form = ChatFormat(_bytes(ALTERNATES))
    with pytest.raises(
        DataError, match=r"cannot write these turns \(user, user\): roles must alternate\. Change the rows"
    ):
        form.ask(Prompt((TURNS[0], TURNS[0])))


@pytest.mark.parametrize("turns", [(), TURNS[:1], TURNS[:3]])
def test_a_conversation_without_a_last_answer_is_refused(turns: tuple[Message, ...]) -> None:
    with pytest.raises(DataError, match="must end with the assistant's answer"):
        list(ChatFormat(_bytes(CHATML)).conversations(Conversation(turns)))


def test_a_completion_of_several_turns_is_refused() -> None:
    with pytest.raises(DataError, match="must be one message of the assistant"):
        ChatFormat(_bytes(CHATML)).answer(TURNS[:1], TURNS[1:])


def test_a_tokenizer_that_cannot_end_an_answer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Set eos_token in its tokenizer_config\.json"):
        list(ChatFormat(_bytes(None, eos=None)).conversations(CHAT))


def test_the_default_template_needs_no_new_token_and_is_saved(tmp_path: Path) -> None:
    tokenizer = _bytes(None)
    n = len(tokenizer)
    assert _one(ChatFormat(tokenizer), CHAT)
    assert tokenizer.chat_template is None, "asking a model changes nothing"
    assert dress(tokenizer, None, grows=False).name == "plain"
    form = ChatFormat(tokenizer)
    assert tokenizer.decode(_one(form, CHAT).ids) == (
        "User: hi there\nAssistant: hello\nfriend</s>\nUser: more please\nAssistant: good bye</s>"
    )
    assert len(tokenizer) == n
    tokenizer.save_pretrained(tmp_path)
    again = ChatFormat(AutoTokenizer.from_pretrained(tmp_path))
    assert _one(again, CHAT) == _one(form, CHAT)


def test_the_default_template_writes_bos_where_the_tokenizer_does() -> None:
    form = ChatFormat(_bytes(None, bos=True))
    assert form.ask(Prompt(TURNS[:1]))[0] == form.tokenizer.bos_token_id
    assert _one(form, CHAT).ids.count(form.tokenizer.bos_token_id) == 1


def test_text_is_learnt_but_for_its_first_token() -> None:
    tokenizer = _bytes(None, bos=True)
    tokens = ChatFormat(tokenizer).text(Text("a story"))
    assert tokenizer.decode(tokens.ids) == "<s>a story</s>"
    assert tokens.trained == (False, *[True] * (len(tokens.ids) - 1))
    assert ChatFormat(tokenizer).text(Text("<s>a story")).ids == tokens.ids


def test_read_answer_stops_at_the_first_stop_token() -> None:
    form = ChatFormat(_bytes(CHATML))
    ids = form.tokenizer("  hello\nyou <|im_end|>\n<|im_start|>user")["input_ids"]
    assert form.read_answer(ids) == "hello\nyou"


EXAMPLES = (Example("red ->", "rako", "zel"), Example("dog ->", "dogs", "plural"), Example("blue ->", "timi", "zel"))
ASKED = Prompt((Message("system", "be kind"), Message("user", "Green?")), task="zel", plain="green ->")


def test_a_plain_program_asks_in_running_text() -> None:
    form = ChatFormat(_bytes(CHATML, bos=True), PromptProgram("plain", EXAMPLES, k=2, by_task=True))
    assert form.tokenizer.decode(form.ask(ASKED)) == "<s>red -> rako\nblue -> timi\ngreen ->"
    line = form.tokenizer(" moso\nblack -> ", add_special_tokens=False)["input_ids"]
    assert form.read_answer(line) == "moso"
    assert set(form.tokenizer("a\n", add_special_tokens=False)["input_ids"][-1:]) <= form.stop_ids


def test_a_plain_program_reads_special_tokens_as_text() -> None:
    form = ChatFormat(_bytes(CHATML), PromptProgram("plain"))
    asked = form.ask(Prompt((Message("user", "hi"),), plain="hi</s>there ->"))
    assert form.tokenizer.eos_token_id not in asked
    assert form.tokenizer.decode(asked) == "hi</s>there ->"


def test_a_plain_program_keeps_the_end_of_line_out_of_chat() -> None:
    newline = _bytes(CHATML)("a\n")["input_ids"][-1]
    assert newline not in ChatFormat(_bytes(CHATML)).stop_ids


def test_a_chat_program_shows_examples_as_turns() -> None:
    form = ChatFormat(_bytes(CHATML), PromptProgram("chat", EXAMPLES, k=1))
    assert form.tokenizer.decode(form.ask(ASKED)) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nred -><|im_end|>\n<|im_start|>assistant\nrako<|im_end|>\n"
        "<|im_start|>user\nGreen?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_real_tokenizer_without_template(shared: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models/stories260K"))
    form = ChatFormat(tokenizer)
    tokens = _one(form, CHAT)
    assert [run.strip() for run in _learnt(tokenizer, tokens)] == ["hello\nfriend</s>", "good bye</s>"]
    assert tuple(form.ask(Prompt(TURNS[:3]))) == tokens.ids[: len(form.ask(Prompt(TURNS[:3])))]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("given", ["hel", "hello", "hello\nfriend", "é is", "x"])
def test_words_that_are_given_are_not_learnt_and_the_rest_of_the_turn_is(name: str, given: str) -> None:
    form = ChatFormat(_bytes(EXACT[name]))
    told = Message("assistant", "é is no answer" if given == "é is" else "hello\nfriend")
    if not told.content.startswith(given):
        given = ""
    (whole,) = form.conversations(Conversation((TURNS[0], told)))
    (part,) = form.conversations(Conversation((TURNS[0], replace(told, given=given))))
    left = [id for id, learnt in zip(part.ids, part.trained, strict=True) if learnt]
    all_of_it = [id for id, learnt in zip(whole.ids, whole.trained, strict=True) if learnt]
    assert part.ids == whole.ids and all_of_it[len(all_of_it) - len(left) :] == left
    n_given = len(all_of_it) - len(left)
    said = [form.tokenizer.decode(all_of_it[:n], skip_special_tokens=False).lstrip() for n in (n_given, n_given + 1)]
    assert given.startswith(said[0]) and (not given or not given.startswith(said[1]))
