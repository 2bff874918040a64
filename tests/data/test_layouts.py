"""The layouts of the families that people train, each with its quirk: what is learnt, by hand, and what is asked.

The templates are written here from what is known of the formats; the masks of a dialogue of two turns stand beside them.
`[` and `]` in an expected text enclose what is learnt.
"""

import random
from dataclasses import dataclass, replace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.data.chat import ChatFormat, Tokens
from posttrain.data.template import fitted
from posttrain.data.templates import shipped, text_of, tokens_of
from posttrain.schema.errors import DataError
from posttrain.schema.rows import Conversation, Message, Prompt, ToolCall


@dataclass(frozen=True)
class Layout:
    """A template, its special tokens, and the texts that two turns make: `⟦` and `⟧` enclose what is learnt."""

    template: str
    tokens: tuple[str, ...]
    texts: tuple[str, ...]
    eos: str = "</s>"
    bos: str | None = None
    adds_bos: bool = False


QWEN25 = """
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {{- messages[0].content if messages[0].role == 'system' else 'You are a default.' }}
    {{- '\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{% endfor %}
    {{- '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou are a default.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if m.content %}{{- '\n' + m.content }}{% endif %}
        {%- for c in m.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' + c.function.name + '", "arguments": ' }}
            {{- c.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
    {%- elif m.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""
QWEN3 = """
{%- set ns = namespace(last=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set thought = m.reasoning_content or '' %}
        {%- set said = m.content %}
        {%- if not thought and '</think>' in said %}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1] %}
            {%- set said = said.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}
        {%- else %}{{- said }}{% endif %}
        {{- '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""
LLAMA2 = """
{%- set told = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if told else messages %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {%- if m.role == 'user' %}
        {{- bos_token + '[INST] ' + (told if loop.first else '') + m.content.strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + m.content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
LLAMA3 = """
{{- bos_token }}
{%- set told = messages[0].content | trim if messages[0].role == 'system' else '' %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday is a day.\n\n' + told + '<|eot_id|>' }}
{%- for m in (messages[1:] if messages[0].role == 'system' else messages) %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
MISTRAL = """
{{- bos_token }}
{%- set told = messages[0].content if messages[0].role == 'system' else '' %}
{%- for m in (messages[1:] if told else messages) %}
    {%- if m.role == 'user' %}
        {{- '[INST] ' + (told + '\n\n' if loop.last and told else '') + m.content + '[/INST]' }}
    {%- else %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- endif %}
{%- endfor %}"""
GEMMA = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
    {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{% endif %}"""
PHI3 = """
{%- for m in messages %}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{% else %}{{- eos_token }}{% endif %}"""
PHI4 = """
{%- for m in messages %}{{- '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|im_sep|>' }}{% endif %}"""
DEEPSEEK = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- 'User: ' + m.content + '\n\n' }}
    {%- elif m.role == 'assistant' %}{{- 'Assistant: ' + m.content + eos_token }}
    {%- else %}{{- m.content + '\n\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{% endif %}"""
R1 = """
{{- bos_token }}
{%- for m in messages if m.role == 'system' %}{{- m.content }}{% endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}{{- '<|User|>' + m.content }}
    {%- elif m.role == 'assistant' %}{{- '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|Assistant|><think>\n' }}{% endif %}"""

IM = ("<|im_start|>", "<|im_end|>")
LAYOUTS = {
    "chatml": Layout(
        text_of("chatml"), IM,
        ("<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n⟦hello\nfriend<|im_end|>⟧\n"
         "<|im_start|>user\nmore please<|im_end|>\n<|im_start|>assistant\n⟦good bye<|im_end|>⟧",),
    ),
    "qwen2.5": Layout(
        QWEN25, IM,
        ("<|im_start|>system\nYou are a default.<|im_end|>\n<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n"
         "⟦hello\nfriend<|im_end|>⟧\n<|im_start|>user\nmore please<|im_end|>\n<|im_start|>assistant\n⟦good bye<|im_end|>⟧",),
        eos="<|im_end|>",
    ),
    "qwen3": Layout(
        QWEN3, IM,
        ("<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\n"
         "⟦<think>\n\n</think>\n\nhello\nfriend<|im_end|>⟧",
         "<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\nhello\nfriend<|im_end|>\n"
         "<|im_start|>user\nmore please<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\ngood bye<|im_end|>⟧"),
        eos="<|im_end|>",
    ),
    "llama2": Layout(
        LLAMA2, (),
        ("<s>[INST] hi there [/INST]⟦ hello\nfriend </s>⟧<s>[INST] more please [/INST]⟦ good bye </s>⟧",),
        bos="<s>", adds_bos=True,
    ),
    "llama3": Layout(
        LLAMA3, tokens_of(text_of("llama3")),
        ("<|begin|><|start_header_id|>system<|end_header_id|>\n\nToday is a day.\n\n<|eot_id|>"
         "<|start_header_id|>user<|end_header_id|>\n\nhi there<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n⟦hello\nfriend<|eot_id|>⟧"
         "<|start_header_id|>user<|end_header_id|>\n\nmore please<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n⟦good bye<|eot_id|>⟧",),
        eos="<|end_of_text|>", bos="<|begin|>", adds_bos=True,
    ),
    "mistral": Layout(
        MISTRAL, ("[INST]", "[/INST]"),
        ("<s>[INST] hi there[/INST]⟦ hello\nfriend</s>⟧[INST] more please[/INST]⟦ good bye</s>⟧",),
        bos="<s>", adds_bos=True,
    ),
    "gemma": Layout(
        GEMMA, ("<start_of_turn>", "<end_of_turn>"),
        ("<bos><start_of_turn>user\nhi there<end_of_turn>\n<start_of_turn>model\n⟦hello\nfriend<end_of_turn>⟧\n"
         "<start_of_turn>user\nmore please<end_of_turn>\n<start_of_turn>model\n⟦good bye<end_of_turn>⟧",),
        eos="<eos>", bos="<bos>", adds_bos=True,
    ),
    "phi3": Layout(
        PHI3, tokens_of(text_of("phi3")),
        ("<|user|>\nhi there<|end|>\n<|assistant|>\n⟦hello\nfriend<|end|>⟧\n<|user|>\nmore please<|end|>\n"
         "<|assistant|>\n⟦good bye<|end|>⟧",),
        eos="<|endoftext|>",
    ),
    "phi4": Layout(
        PHI4, (*IM, "<|im_sep|>"),
        ("<|im_start|>user<|im_sep|>hi there<|im_end|><|im_start|>assistant<|im_sep|>⟦hello\nfriend<|im_end|>⟧"
         "<|im_start|>user<|im_sep|>more please<|im_end|><|im_start|>assistant<|im_sep|>⟦good bye<|im_end|>⟧",),
    ),
    "deepseek": Layout(
        DEEPSEEK, (),
        ("<bos>User: hi there\n\nAssistant:⟦ hello\nfriend<eos>⟧User: more please\n\nAssistant:⟦ good bye<eos>⟧",),
        eos="<eos>", bos="<bos>", adds_bos=True,
    ),
    "deepseek-r1": Layout(
        R1, ("<|User|>", "<|Assistant|>"),
        ("<bos><|User|>hi there<|Assistant|><think>\n⟦\n</think>\n\nhello\nfriend<eos>⟧",
         "<bos><|User|>hi there<|Assistant|>hello\nfriend<eos><|User|>more please<|Assistant|><think>\n"
         "⟦\n</think>\n\ngood bye<eos>⟧"),
        eos="<eos>", bos="<bos>", adds_bos=True,
    ),
    "chatglm3": Layout(
        text_of("chatglm3"), tokens_of(text_of("chatglm3")),
        ("[gMASK]sop<|user|>\n hi there<|assistant|>⟦\n hello\nfriend<|user|>⟧\n more please<|assistant|>"
         "⟦\n good bye<|user|>⟧",),
    ),
    "glm4": Layout(
        text_of("glm4"), tokens_of(text_of("glm4")),
        ("[gMASK]<sop><|user|>\nhi there<|assistant|>⟦\nhello\nfriend<|user|>⟧\nmore please<|assistant|>"
         "⟦\ngood bye<|user|>⟧",),
        eos="<|endoftext|>",
    ),
    "zephyr": Layout(
        text_of("zephyr"), (),
        ("<|user|>\nhi there</s>\n<|assistant|>\n⟦hello\nfriend</s>⟧\n<|user|>\nmore please</s>\n<|assistant|>\n"
         "⟦good bye</s>⟧",),
    ),
    "vicuna": Layout(
        text_of("vicuna"), (),
        ("<s>USER: hi there ASSISTANT:⟦ hello\nfriend</s>⟧USER: more please ASSISTANT:⟦ good bye</s>⟧",),
        bos="<s>", adds_bos=True,
    ),
    "alpaca": Layout(
        text_of("alpaca"), (),
        ("Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
         "### Instruction:\nhi there\n\n### Response:\n⟦hello\nfriend</s>⟧\n\n"
         "### Instruction:\nmore please\n\n### Response:\n⟦good bye</s>⟧",),
    ),
}  # fmt: skip
LAYOUTS |= {f"shipped {name}": Layout(text_of(name), tokens_of(text_of(name)), ()) for name in shipped()}

SYSTEM = Message("system", "be kind")
TURNS = (
    Message("user", "hi there"),
    Message("assistant", "hello\nfriend"),
    Message("user", "more please"),
    Message("assistant", "good bye"),
)


def tokenizer_of(layout: Layout) -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a token for a double line break, so that text may melt where it is joined."""
    special = ["<unk>", *dict.fromkeys([layout.bos or layout.eos, layout.eos, *layout.tokens])]
    words = {token: n for n, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ĊĊ"])}
    made = Tokenizer(models.BPE(vocab=words, merges=[("Ċ", "Ċ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if layout.adds_bos and layout.bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{layout.bos} $A", special_tokens=[(layout.bos, words[layout.bos])]
        )
    made.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=layout.bos, eos_token=layout.eos, unk_token="<unk>"
    )
    tokenizer.chat_template = fitted(tokenizer, layout.template)
    return tokenizer


def with_blanks(layout: Layout) -> PreTrainedTokenizerFast:
    """Letters as tokens, and a blank put before every text and every piece between special tokens, as Llama 2's
    tokenizer does; what it does not know are bytes."""
    special = ["<unk>", *dict.fromkeys([layout.bos or layout.eos, layout.eos, *layout.tokens])]
    letters = sorted({"▁", *map(chr, range(33, 127))})
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    words = {token: n for n, token in enumerate([*special, *bytes_, *letters])}
    made = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=layout.bos, eos_token=layout.eos, unk_token="<unk>"
    )
    tokenizer.chat_template = fitted(tokenizer, layout.template)
    return tokenizer


MAKERS = {"bytes": tokenizer_of, "blanks": with_blanks}


def form_of(name: str, maker: str = "bytes") -> ChatFormat:
    return ChatFormat(MAKERS[maker](LAYOUTS[name]))


def marked(form: ChatFormat, tokens: Tokens) -> str:
    """The text of tokens, with what is learnt between ⟦ and ⟧."""
    parts: list[tuple[bool, list[int]]] = []
    for id, trained in zip(tokens.ids, tokens.trained, strict=True):
        if not parts or parts[-1][0] != trained:
            parts.append((trained, []))
        parts[-1][1].append(id)
    texts = [(trained, form.tokenizer.decode(ids, clean_up_tokenization_spaces=False)) for trained, ids in parts]
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in texts)


def check_what_is_learnt_is_what_is_sampled(form: ChatFormat, row: Conversation) -> int:
    """Before every learnt turn stand the tokens that a sampler is given, behind it a stop token. Returns how many."""
    turns = [n for n, message in enumerate(row.messages) if message.is_trained]
    found = 0
    for tokens in form.conversations(row):
        for start in range(1, len(tokens.ids)):
            if tokens.trained[start] and not tokens.trained[start - 1]:
                prompt = Prompt(row.messages[: turns[found]], tools=row.tools, template_options=row.template_options)
                assert list(tokens.ids[:start]) == form.ask(prompt)
                found += 1
        ends = [n for n in range(len(tokens.ids)) if tokens.trained[n] and not (*tokens.trained, False)[n + 1]]
        assert all(tokens.ids[end] in form.stop_ids for end in ends)
        learnt = [n for n in range(len(tokens.ids)) if tokens.trained[n] and n not in ends]
        assert not any(tokens.ids[n] in form.stop_ids for n in learnt)
    assert found == len(turns)
    return found


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.texts])
def test_the_mask_of_two_turns_is_the_one_written_by_hand(name: str):
    form = form_of(name)
    assert tuple(marked(form, tokens) for tokens in form.conversations(Conversation(TURNS))) == LAYOUTS[name].texts


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_learnt_is_what_is_sampled(name: str):
    form = form_of(name)
    assert check_what_is_learnt_is_what_is_sampled(form, Conversation(TURNS)) == 2
    odd = (TURNS[0], Message("assistant", "\n\n a \n"), TURNS[2], Message("assistant", ""), TURNS[0], TURNS[1])
    assert check_what_is_learnt_is_what_is_sampled(form, Conversation(odd)) == 3
    if name != "gemma":
        assert check_what_is_learnt_is_what_is_sampled(form, Conversation((SYSTEM, *TURNS))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_many_random_dialogues_are_exact(name: str, maker: str):
    draw, form = random.Random(0), form_of(name, maker)
    words = ["", " ", "\n", "\n\n", "a", "hello", "é", "</s>", "<|im_end|>", "[/INST]", "<|user|>", ":", "###", "🙂"]

    def said() -> str:
        return "".join(draw.choice(words) for _ in range(draw.randint(0, 6)))

    for _ in range(25):
        turns = [Message(role, said()) for _ in range(draw.randint(1, 3)) for role in ("user", "assistant")]
        turns = [replace(t, trained=False if t.role == "assistant" and draw.random() < 0.3 else None) for t in turns]
        n = sum(turn.is_trained for turn in turns)
        assert check_what_is_learnt_is_what_is_sampled(form, Conversation(tuple(turns))) == n


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_special_tokens_that_a_user_types_stay_text(name: str, maker: str):
    layout, form = LAYOUTS[name], form_of(name, maker)
    typed = " ".join([layout.eos, *layout.tokens])
    count = {id: form.ask(Prompt(TURNS[:1])).count(id) for id in form.tokenizer.all_special_ids}
    asked = form.ask(Prompt((Message("user", f"hi {typed} there"),)))
    assert {id: asked.count(id) for id in count} == count
    asked_text = form.tokenizer.decode(asked, clean_up_tokenization_spaces=False)
    assert f"hi {typed} there".replace(" ", "") in asked_text.replace(" ", "")


REASONED = Message("assistant", "four", reasoning="two and two")
LATER = (Message("user", "and you?"), Message("assistant", "fine"))


def test_qwen3_learns_reasoning_and_forgets_it_in_later_prompts():
    form = form_of("qwen3")
    first, last = (marked(form, t) for t in form.conversations(Conversation((TURNS[0], REASONED, *LATER))))
    assert first.endswith("assistant\n⟦<think>\ntwo and two\n</think>\n\nfour<|im_end|>⟧")
    assert "two and two" not in last
    assert last.endswith("⟦<think>\n\n</think>\n\nfine<|im_end|>⟧")
    inline = Message("assistant", "<think>\ntwo and two\n</think>\n\nfour")
    assert marked(form, next(iter(form.conversations(Conversation((TURNS[0], inline)))))) == first


def test_qwen3_without_thinking_is_asked_so_and_learns_the_answer_alone():
    form = form_of("qwen3")
    row = Conversation(TURNS[:2], template_options={"enable_thinking": False})
    (tokens,) = form.conversations(row)
    assert marked(form, tokens).endswith("assistant\n<think>\n\n</think>\n\n⟦hello\nfriend<|im_end|>⟧")
    assert check_what_is_learnt_is_what_is_sampled(form, row) == 1


@pytest.mark.parametrize("answer", [REASONED, Message("assistant", "<think>\ntwo and two\n</think>\n\nfour")])
def test_r1_learns_the_reasoning_that_its_template_leaves_out(answer: Message):
    form = form_of("deepseek-r1")
    first, last = (marked(form, t) for t in form.conversations(Conversation((TURNS[0], answer, *LATER))))
    assert first.endswith("<|Assistant|><think>\n⟦two and two\n</think>\n\nfour<eos>⟧")
    assert "two and two" not in last


def test_mistral_moves_the_system_to_the_last_question_and_answers_keep_their_prompt():
    form = form_of("mistral")
    texts = [marked(form, tokens) for tokens in form.conversations(Conversation((SYSTEM, *TURNS)))]
    assert texts == [
        "<s>[INST] be kind\n\nhi there[/INST]⟦ hello\nfriend</s>⟧",
        "<s>[INST] hi there[/INST] hello\nfriend</s>[INST] be kind\n\nmore please[/INST]⟦ good bye</s>⟧",
    ]


CALLS = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1, "b": "<|im_end|>"}', "call00001"),))
TOOLS = ({"type": "function", "function": {"name": "add", "description": "adds <|im_start|>"}},)
WITH_TOOLS = Conversation(
    (TURNS[0], CALLS, Message("tool", "3", tool_call_id="call00001", name="add"), Message("assistant", "it is 3")),
    tools=TOOLS,
)


@pytest.mark.parametrize("name", ["qwen2.5", "chatml"])
def test_tools_stand_first_and_calls_are_learnt(name: str):
    form = form_of(name)
    assert check_what_is_learnt_is_what_is_sampled(form, WITH_TOOLS) == 2
    tokens = list(form.conversations(WITH_TOOLS))
    called = marked(form, tokens[0])
    assert '"name": "add"' in called.partition("⟦")[0]
    assert '"arguments": {"a": 1, "b": "<|im_end|>"}}' in called.partition("⟦")[2]
    assert marked(form, tokens[-1]).endswith("⟦it is 3<|im_end|>⟧")


def test_the_token_that_begins_a_tools_turn_ends_a_call_where_nothing_else_does():
    with_calls = (
        "{{ '<|assistant|>' ~ m.tool_calls[0].function.name ~ '\n' ~ m.tool_calls[0].function.arguments | tojson }}"
    )
    template = (
        "{{ '[gMASK]<sop>' }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
        f"{{% for m in messages %}}{{% if m.tool_calls %}}{with_calls}{{% else %}}"
        "{{ '<|' ~ ('observation' if m.role == 'tool' else m.role) ~ '|>\n' ~ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    form = ChatFormat(tokenizer_of(replace(LAYOUTS["glm4"], template=template)))
    (tokens,) = form.conversations(WITH_TOOLS)
    learnt = marked(form, tokens)
    assert '⟦add\n{"a": 1, "b": "<|im_end|>"}<|observation|>⟧\n3<|assistant|>⟦\nit is 3<|user|>⟧' in learnt
    assert form.tokenizer.convert_tokens_to_ids("<|observation|>") in form.stop_ids
    assert check_what_is_learnt_is_what_is_sampled(form, WITH_TOOLS) == 2


def test_a_turn_of_the_user_can_be_learnt_and_one_of_the_assistant_left_out():
    form = form_of("chatml")
    turns = (TURNS[0], replace(TURNS[1], trained=False), replace(TURNS[2], trained=True), TURNS[3])
    (tokens,) = form.conversations(Conversation(turns))
    assert marked(form, tokens) == (
        "<|im_start|>user\nhi there<|im_end|>\n<|im_start|>assistant\nhello\nfriend<|im_end|>\n"
        "<|im_start|>user\n⟦more please<|im_end|>⟧\n<|im_start|>assistant\n⟦good bye<|im_end|>⟧"
    )
    silent = tuple(replace(turn, trained=False) for turn in TURNS)
    assert not list(form.conversations(Conversation(silent)))


@pytest.mark.parametrize(
    ("name", "row", "what"),
    [
        ("phi3", Conversation((TURNS[0], REASONED)), "leaves out the reasoning of an answer ('two and two')"),
        ("phi3", Conversation((TURNS[0], CALLS)), "leaves out a tool call of an answer ('add')"),
        ("phi3", Conversation(TURNS, tools=TOOLS), "does not show the tools that a row offers ('add' is one)"),
        ("chatml", Conversation(TURNS, template_options={"chat_template": "x"}), "hands 'chat_template' to"),
    ],
)
def test_what_a_template_would_leave_out_is_refused(name: str, row: Conversation, what: str):
    with pytest.raises(DataError) as caught:
        list(form_of(name).conversations(row))
    assert what in str(caught.value)


def test_a_prompt_that_is_written_anew_beyond_recognition_is_refused():
    template = (
        "{% for m in messages %}{{ m.content if add_generation_prompt else m.content | upper }};{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    form = ChatFormat(tokenizer_of(replace(LAYOUTS["chatml"], template=template)))
    with pytest.raises(DataError, match="writes the prompt differently once it is answered"):
        list(form.conversations(Conversation((TURNS[0], Message("assistant", "AB")))))


def test_no_layout_writes_the_first_token_of_a_sequence():
    assert not [name for name, template in shipped().items() if "bos_token" in template]


def test_a_conversation_that_the_assistant_begins_is_learnt_from_its_first_token_on():
    form = form_of("chatml")
    (tokens,) = form.conversations(Conversation((TURNS[1], TURNS[2], TURNS[3])))
    assert marked(form, tokens).startswith("<|im_start|>assistant\n⟦hello\nfriend<|im_end|>⟧\n<|im_start|>user\nmore")
