"""The written reports: what stands in them, and that nothing in them is alive."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from posttrain.report.card import card, lineage
from posttrain.report.compare import compare
from posttrain.report.html import html
from posttrain.report.markdown import markdown
from posttrain.report.terminal import WIDTH, comparison, summary
from posttrain.report.text import UNSEEN
from posttrain.schema.errors import UsageError
from posttrain.schema.findings import Findings, Metric
from posttrain.schema.record import ModelRecord, Point, RunRecord, StageRecord

PAGE_TAGS = set(
    """html head meta title style body header main section article div span p h1 h2 h4 a bdi br strong code pre ul li
    table thead tbody tr th td dl dt dd details summary figure figcaption svg path rect circle text""".split()
)
PAGE_ATTRIBUTES = set(
    """lang charset content http-equiv name class href id scope colspan tabindex role aria-label aria-labelledby dir open
    aria-hidden viewbox d x y width height rx cx cy r text-anchor""".split()
)
MARKDOWN_TAGS = set("h1 h2 h3 p strong code pre ul li table thead tbody tr th td".split())
VOID = {"meta", "br", "hr"}


class Page(HTMLParser):
    """The elements of a page, its texts by the tags they stand in, and whether every tag is closed in order."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(data for _, data in self.texts).split())


def rendered(source: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source))


@pytest.fixture(scope="module")
def attacked(attack) -> str:
    return html(attack)


# The page


def test_the_page_holds_what_a_reader_looks_for(run):
    shown = Page(html(run)).text()
    for expected in (
        "sft → dpo take chat.exact_match from 0.5 % to 81.5 %",
        "4 stages, 4 models, 2 min 41 s",
        "chat.exact_match: drop_at_most 0.05 found 0.060",
        "style.mean: at_least 0.6 found 0.710",
        "not reached",
        "step 88: the margin has been flat for 50 steps",
        "12 rows of lab:chat/train are longer than 512 tokens",
        "rows turned right",
        "8 answers before and after",
        "lora.rank 8",
        "betas 0.9, 0.95",
        "transformers 5.17.0",
        "data: lab:pairs/train, gate: {chat.exact_match: {drop_at_most: 0.05}}",
    ):
        assert expected in shown, expected


def test_the_page_is_whole_by_itself(run):
    page = Page(html(run))
    links = [a["href"] for a in page.all("a")]
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert all(link.startswith("#") and link[1:] in identities for link in links)
    assert len(identities) == len(set(identities))
    assert not re.search(r"url\(|@import|https?:|//", html(run).replace("file://", ""))
    assert len(page.all("h1")) == 1 and page.all("html") == [{"lang": "en"}]
    policy = next(m["content"] for m in page.all("meta") if "content" in m and "default-src" in m["content"])
    assert "default-src 'none'" in policy and "unsafe" not in policy
    style = next(data for tags, data in page.texts if tags[-1:] == ("style",))
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy  # or browsers drop the style


def test_every_verdict_is_a_word_and_not_only_a_colour(run):
    verdicts = [data for tags, data in Page(html(run)).texts if re.match(r"^[▲▼≈] ", data.strip())]
    assert {v.strip() for v in verdicts} >= {"▲ better", "▼ better", "≈ no clear change"}


def test_every_table_column_has_a_header_with_scope(run):
    assert all(th.get("scope") in ("col", "row") for th in Page(html(run)).all("th"))


def test_curves_have_titles_and_their_numbers(run):
    page = Page(html(run))
    charts = [svg for svg in page.all("svg") if svg["class"] == "chart"]
    assert len(charts) == 6  # loss, learning rate and speed of two stages
    assert any("loss of sft over 500 steps" in data for tags, data in page.texts if tags[-1:] == ("title",))
    assert page.text().count("Numbers") == 6


def test_what_a_stage_that_makes_data_found_is_seen_at_once(run):
    """It has nothing but its facts to show; those of a model are folded, as its numbers stand above them."""

    def shown(model: str | None) -> bool:
        late = replace(run.stages[-1], state="made", model=model, facts={"families": {"direct": {"complied": 37}}})
        page = html(replace(run, stages=(*run.stages[:-1], late)))
        return bool(re.search(r"<details open><summary>Facts</summary>(?:(?!</details>).)*37", page, re.DOTALL))

    assert shown(None) and not shown("few_shot")


def test_the_same_record_gives_the_same_page(run):
    assert html(run) == html(run)


# Hostile text


def test_nothing_in_a_hostile_page_is_alive(attacked, hostile):
    page = Page(attacked)
    assert {tag for tag, _ in page.tags} <= PAGE_TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= PAGE_ATTRIBUTES
    assert all(a["href"].startswith("#") for a in page.all("a"))
    assert len(page.all("meta")) == 4 and len(page.all("style")) == 1
    assert hostile[0] in page.text() and "49" not in [data for _, data in page.texts]


def test_no_unseen_character_reaches_a_page_or_a_terminal(attack, attacked):
    two = compare(*attack.models[:2])
    for shown in (
        attacked,
        markdown(attack),
        "\n".join(summary(attack)),
        "\n".join(comparison(two, most=40)),
    ):
        assert not UNSEEN.search(shown)
        assert shown.encode()
        assert "␛]0;owned␇" in shown


def test_a_megabyte_of_answer_is_folded_and_cut(attacked):
    assert "Show the first 100,000 of 1,000,000 characters" in attacked
    assert len(attacked) < 10_000_000
    shown = [data for tags, data in Page(attacked).texts if tags[-1:] == ("pre",) and data.startswith(("<b>0", "<b>1"))]
    assert shown and max(map(len, shown)) == 100_000


@pytest.mark.parametrize("write", [markdown, lambda record: card(record, record.models[1].name)])
def test_nothing_in_hostile_markdown_is_alive(attack, hostile, write):
    written = write(attack)
    front = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- posttrain\n---\n"
    page = rendered(written.removeprefix(front))
    assert {tag for tag, _ in page.tags} <= MARKDOWN_TAGS
    assert {name for _, attributes in page.tags for name in attributes} <= {"class", "style"}
    inert = ("code",)
    for part in (
        "alert(",
        "javascript:",
        "evil.example",
        "a@evil",
        "[click]",
        "![x]",
        "7 * 7",
        "owned",
        "txt.exe",
    ):
        places = [tags for tags, data in page.texts if part in data]
        assert places and all(tags[-1:] == inert for tags in places), part


def test_hostile_cells_stay_in_their_table(attack):
    """Every row of a Markdown table has as many cells as its head, whatever pipes its texts hold."""
    rows = re.findall(r"<tr>.*?</tr>", MarkdownIt().enable("table").render(markdown(attack)), re.S)
    assert rows
    for table in re.split(r"(?=<tr>\s*<th)", "".join(rows))[1:]:
        counts = {row.count("</t") for row in re.findall(r"<tr>.*?</tr>", table, re.S)}
        assert len(counts - {0}) == 1
    assert "│ cell │" in markdown(attack)


# Markdown, cards, terminal


def test_markdown_holds_the_same_numbers(run):
    page = rendered(markdown(run))
    for expected in ("0.5 %", "81.5 %", "▲ better", "✕ failed", "Wins, ties half", "wrong → right", "2.13.0"):
        assert expected in page.text(), expected
    assert len(page.all("h1")) == 1


def test_a_card_tells_where_a_model_comes_from(run):
    shown = card(run, "dpo")
    assert shown.startswith("---\nlibrary_name: transformers\n")
    assert [stage.name for stage in lineage(run, "dpo")] == ["sft", "dpo"]
    assert "through `sft` → `dpo`" in shown
    assert "| `sft` | `4000 rows of lab:chat/train: messages` |" in shown
    assert "| `sft.learning_rate` | `0.0006` |" in shown
    assert "Before: `base`. After: `dpo`." in shown
    assert "| `chat.exact_match` | 0.5 % | **81.5 %** |" in shown


@pytest.mark.parametrize(
    ("form", "library", "said"),
    [
        ("compressed-tensors", "transformers", "CompressedTensorsConfig(dequantize=True)"),
        ("gptq", "transformers", "# pip install optimum gptqmodel"),
        ("gguf", "gguf", "`FILE` one of `model-Q4_0.gguf`, `model-Q8_0.gguf`."),
    ],
)
def test_the_card_of_few_bits_says_how_to_load_them(run, form, library, said):
    facts = {"files": {"model-Q4_0.gguf": {}, "model-Q8_0.gguf": {}}}
    models = tuple(replace(model, form=form) if model.name == "dpo" else model for model in run.models)
    stages = tuple(replace(stage, facts=facts) if stage.name == "dpo" else stage for stage in run.stages)
    shown = card(replace(run, models=models, stages=stages), "dpo")
    assert f"library_name: {library}\n" in shown
    assert said in shown


def test_the_card_of_the_base_shows_its_numbers_alone(run):
    shown = card(run, "base")
    assert "The model that the run `quickstart` starts from" in shown
    assert "| `chat.exact_match` | 0.5 % |" in shown and "## Lineage" not in shown


def test_a_card_of_nothing_names_the_nearest(run):
    with pytest.raises(UsageError, match=r"no model 'dop'.*Did you mean 'dpo'"):
        card(run, "dop")


def test_terminal_lines_fit_and_align(run):
    lines = summary(run) + comparison(compare(run.models[1], run.models[2]))
    assert all(len(line) <= WIDTH for line in lines)
    table = lines[:5]
    assert table[0].index("chat.exact_match") == table[2].index("83.5 %")
    assert table[2].startswith("sft") and "83.5 % ▲ better" in table[2]
    assert any("drop_at_most 0.05" in line and "FAILED" in line for line in lines)


def test_a_terminal_without_unicode_gets_ascii(run, attack):
    for record in (run, attack):
        assert all(line.isascii() for line in summary(record, ascii_only=True))
    assert "83.5 % ^ better" in "\n".join(summary(run, ascii_only=True))


def test_wide_tables_are_broken_into_blocks(run):
    many = {f"measure_{i:02d}": Findings(f"measure_{i:02d}", "m", {"value": Metric(i / 20)}) for i in range(20)}
    models = tuple(replace(model, findings=many) for model in run.models)
    lines = summary(replace(run, models=models, stages=()))
    assert all(len(line) <= WIDTH for line in lines)
    assert sum(line.startswith("base") for line in lines) > 1
    assert all(any(name in line for line in lines) for name in many)


# Little to report


EMPTY = RunRecord("empty", "", (), ())
BASE = ModelRecord("base", "d", "p", "dense", 1)
NO_MODEL = StageRecord("sample", "sample", "generator", "base", None, "made")
LONE = StageRecord("sft", "sft", "objective", "base", "sft", "failed", curve=(Point(1, float("nan")),))


@pytest.mark.parametrize(
    "record",
    [
        EMPTY,
        replace(EMPTY, models=(BASE,)),
        replace(EMPTY, models=(BASE,), stages=(NO_MODEL, LONE)),
        replace(EMPTY, stages=(LONE,)),
        replace(EMPTY, models=(replace(BASE, findings={"m": Findings("m", "m", {})}),)),
    ],
)
def test_records_with_little_in_them_are_reported(record):
    page = Page(html(record))
    assert "Nothing was measured" in page.text() and not page.all("svg")
    assert "Nothing was measured" in rendered(markdown(record)).text()
    assert summary(record)[0] == "Nothing was measured."
    for stage in record.stages:
        assert stage.name in page.text()
    for model in record.models:
        assert f"# `{model.name}`" in card(record, model.name)


def test_two_models_with_nothing_in_common_say_so():
    assert comparison(compare(BASE, BASE)) == ["base and base have no measurement in common."]
