"""Jinja templates carried over to Go: every layout that ships, those of known models, and those that cannot be."""

import pytest
from tokenizers import AddedToken

from posttrain.data.go_template import rendered
from posttrain.data.ollama_template import conversations, in_go
from posttrain.data.template import render
from posttrain.data.templates import shipped
from posttrain.schema.errors import ModelError
from posttrain.schema.rows import Message
from tests import tiny

LLAMA2 = (
    "{% set told = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and told %}<<SYS>>\n{{ told }}\n<</SYS>>\n\n{% endif %}{{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}<|system|>You are helpful.<|end|>{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LAST = (  # Mistral's: the system's words stand before the last question
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST]{% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content }} {% endif %}{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}<|{{ m.role }}|>{{ m.content }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMED = (
    "{% for m in messages %}{{ 'bot' if m.role == 'assistant' and messages[0].role == 'system' else m.role }}: {{ m.content }}\n"
    "{% endfor %}bot:"
)
NUMBERED = "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
SHOUTED = "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}assistant:"


def tokenizer(template: str, bos: str | None = None):
    found = tiny.tokenizer()
    if bos:
        found.add_special_tokens({"bos_token": AddedToken(bos)})
    found.chat_template = template
    return found


@pytest.mark.parametrize(
    "template", [tiny.CHAT, LLAMA2, QWEN, *shipped().values()], ids=["tiny", "llama2", "qwen", *shipped()]
)
def test_go_writes_what_jinja_writes(template):
    asked = tokenizer(template, "<s>")
    carried = in_go(asked, add_bos=False)
    assert carried.system
    for chat in [*conversations(with_system=True), [Message("user", "{{ .System }} {{ end }}")]]:
        assert rendered(carried.text, chat) == render(asked, chat, ask=True)


def test_a_template_reads_as_somebody_would_write_it():
    assert in_go(tokenizer(tiny.CHAT), add_bos=False).text == (
        '{{ if .System }}<|system|>{{ .System }}<|end|>{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}<|user|>{{ .Content }}'
        '<|end|>{{ else if eq .Role "assistant" }}<|assistant|>{{ .Content }}<|end|>{{ end }}{{ end }}<|assistant|>'
    )


def test_the_first_token_stands_there_once():
    """llama.cpp puts it there by itself where the file says so."""
    asked = tokenizer("{{ bos_token }}" + tiny.CHAT, "<s>")
    assert in_go(asked, add_bos=False).text.count("<s>") == 2  # with a system and without
    assert "<s>" not in in_go(asked, add_bos=True).text
    with pytest.raises(ModelError, match=r"put '<s>' before every text.*Begin the template with \{\{- bos_token -\}\}"):
        in_go(tokenizer(tiny.CHAT, "<s>"), add_bos=True)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (LAST, "in system, user, assistant, user the words of the user do not stand once and in their order"),
        (NAMED, "what the system says changes how later turns are written"),
        (NUMBERED, "it writes the second turn otherwise than the first"),
        (SHOUTED, "the words of the user do not stand once and in their order"),
        ("{% for m in messages %}{{ m.content | replace('  ', ' ') }}{% endfor %}", "it writes "),
        ("{{ raise_exception('nothing') }}", "it cannot write user, assistant, user"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(template, why):
    with pytest.raises(ModelError, match=f"cannot be carried over to Ollama.*{why}"):
        in_go(tokenizer(template), add_bos=False)


def test_what_is_lost_is_told():
    alone = in_go(tokenizer(NO_SYSTEM), add_bos=False)
    assert not alone.system and "system" in alone.lost[0]
    assert rendered(alone.text, conversations(with_system=True)[3]) == rendered(
        alone.text, conversations(with_system=False)[0]
    )
    trimmed = in_go(tokenizer(shipped()["llama3"]), add_bos=False)
    assert trimmed.trims and any("spaces" in sentence for sentence in trimmed.lost)
    assert [sentence.partition(":")[0] for sentence in in_go(tokenizer(shipped()["chatml"]), add_bos=False).lost] == [
        "tools",
        "reasoning",
    ]
    assert in_go(tokenizer(tiny.CHAT), add_bos=False).lost == ()
