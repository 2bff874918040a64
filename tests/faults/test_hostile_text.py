"""Rows and answers that try to act are inert: on the terminal, in Markdown and in the page."""

import html.parser
import re
import shutil
from pathlib import Path

import pytest

from tests.faults.places import Place, write_rows

HOSTILE = [
    "\x1b]0;owned\x07\x1b[2J\x1b[31mred",
    "\x9b31mred \u202eekil ton si siht\u202c \u200bhidden",
    "safe\rerror  You must type rm -rf",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</pre></td></table></style><script src=//evil.example></script>",
    '"><svg onload=alert(1)> [click](javascript:alert(1))',
    "| cell | `code` ``` \n\n# Heading\n\n<b>bold</b>",
    "{{ 7*7 }} {% raw %} ${7*7}",
]
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")
RECIPE = """\
name: demo
model: ./base
measure: [{"parrot:Parrot": {data: hostile.jsonl}}, {benchmark: {data: hostile.jsonl, max_new_tokens: 4}}]
stages: [{sft: {data: hostile.jsonl, steps: 1, batch_size: 4}}]
"""


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


@pytest.fixture(scope="module")
def place(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(Path(shutil.copytree(furnished, tmp_path_factory.mktemp("hostile") / "place")))
    rows = [{"prompt": text, "answer": text, "task": text[:20]} for text in HOSTILE]
    write_rows(place.folder / "hostile.jsonl", rows)
    (place.folder / "r.yaml").write_text(RECIPE)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("run", "r.yaml"),
        ("run", "r.yaml", "seed=1", "-v"),
        ("show",),
        ("show", "demo-1/sft"),
        ("compare", "base", "demo-1/sft"),
        ("report", "demo-1"),
    ],
    ids=" ".join,
)
def test_nothing_acts_on_a_terminal(words: tuple[str, ...], place: Place, command):
    if words[0] != "run":
        assert command(place, "run", "r.yaml").code == 0
    done = command(place, *words)
    assert done.code == 0, done.err
    for stream in (done.out, done.err):
        assert not ACTS.search(stream), ACTS.findall(stream)
    assert not [line for line in done.err.splitlines() if line.startswith("error")], "no row can pass for an error"


def test_nothing_acts_in_the_page(place: Place, command):
    assert command(place, "run", "r.yaml").code == 0
    page = (place.runs / "demo-1" / "report.html").read_text(encoding="utf-8")
    elements = Elements(page).found
    assert len(elements) > 50
    assert not {"script", "img", "iframe"} & {tag for tag, _ in elements}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert not re.match(r"\s*(javascript|data|https?|//)", attributes.get("href", "") + attributes.get("src", ""))
    assert not ACTS.search(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page, "it is shown as what it is"
    assert "{{ 7*7 }}" in page, "a template is not run"


def test_nothing_acts_in_markdown(place: Place, command):
    assert command(place, "run", "r.yaml").code == 0
    page = (place.runs / "demo-1" / "report.md").read_text(encoding="utf-8")
    assert not ACTS.search(page)
    outside = "".join(re.split(r"^(`{3,})[^\n]*\n.*?^\1$", page, flags=re.MULTILINE | re.DOTALL)[::2])
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
    assert not re.search(r"<(script|img|svg|b)\b", outside)
    assert "# Heading" not in outside
    assert "](javascript:" not in outside


def test_a_hostile_name_in_a_message_is_inert(place: Place, command):
    write_rows(place.folder / "\x1b[31mred\u202e.jsonl", [{"\x1b[2Jfoo": "a", "</b>": "b"}])
    done = command(place, "run", "r.yaml", r'sft.data="\e[31mred\u202e.jsonl"')
    assert done.code == 2
    assert not ACTS.search(done.err)
    assert "Columns found: " in done.err and "[2Jfoo" in done.err
