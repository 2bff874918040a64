"""Go's template language as Ollama runs it: what is rendered, what is merged, and what is not understood."""

import pytest

from posttrain.data.go_template import literal, rendered
from posttrain.schema.rows import Message

ASKED = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "More")]
CHAT = (
    '{{ if .System }}S:{{ .System }}|{{ else }}none|{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}U:{{ .Content }}|'
    '{{ else if eq .Role "assistant" }}A:{{ .Content }}|{{ end }}{{ end }}A:'
)


def test_a_chat_is_rendered_as_by_hand():
    assert rendered(CHAT, ASKED) == "S:Be brief.|U:Hi|A:Ho|U:More|A:"
    assert rendered(CHAT, ASKED[1:2]) == "none|U:Hi|A:"


def test_neighbours_of_one_role_become_one_as_in_ollama():
    twice = [
        Message("user", "a"),
        Message("user", "b"),
        Message("system", "x"),
        Message("user", "c"),
        Message("system", "y"),
    ]
    assert rendered(CHAT, twice) == "S:x\n\ny|U:a\n\nb|U:c|A:"


def test_the_first_is_told_from_the_others():
    template = "{{ $first := true }}{{ range .Messages }}{{ if $first }}{{ $first = false }}{{ else }}, {{ end }}{{ .Content }}{{ end }}"
    assert rendered(template, ASKED[1:]) == "Hi, Ho, More"


def test_braces_in_a_template_are_text_and_in_words_they_are_words():
    template = literal("a {{ b }} {% c %} ") + "{{ range .Messages }}{{ .Content }}{{ end }}"
    assert rendered(template, [Message("user", "{{ .System }}")]) == "a {{ b }} {% c %} {{ .System }}"
    for text in ("{", "{{", "{{{", "{{{{{ x }", "}}"):
        assert rendered(literal(text) + template, []) == text + "a {{ b }} {% c %} "


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Prompt }}",
        "{{ if .Tools }}x{{ end }}",
        "{{- .System }}",
        "{{ range .Messages }}x",
        "x{{ end }}",
        "{{ .Content }}",
    ],
)
def test_other_words_are_an_error(template):
    with pytest.raises(ValueError, match=r"not understood|no action|has no end|ends nothing"):
        rendered(template, ASKED)
