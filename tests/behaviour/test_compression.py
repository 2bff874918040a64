"""Compression of a real small model (stories260K) keeps what the papers claim: on stories that calibration did not see."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from tests.behaviour.seeds import SEEDS, at_least

SHARED = Path(__file__).parents[3] / "shared"
MODEL, STORIES = SHARED / "models" / "stories260K", SHARED / "data" / "tinystories-sample" / "tinystories.txt"
BEGINS = re.compile(r"Once upon a time|One day|Once there was|There was once|Once,")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (MODEL.is_dir() and STORIES.is_file()), reason="the shared models are not here"),
]

LOOKS = {"sequences": 64, "length": 256}
ROWS = {"group": None}  # one scale for each row: 172 columns have no larger groups
FILE = {"types": ["q4_0"], "compare": "never"}
STAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "rtn4": ("rtn", {"bits": 4, **ROWS}),
    "rtn3": ("rtn", {"bits": 3, **ROWS}),
    "gptq4": ("gptq", {"bits": 4, **ROWS, **LOOKS}),
    "gptq3": ("gptq", {"bits": 3, **ROWS, **LOOKS}),
    "plain3": ("gptq", {"bits": 3, "correct": 0, "polish": 0, "search": False, **ROWS, **LOOKS}),
    "awq4": ("awq", {"bits": 4, **ROWS, **LOOKS}),
    "awq3": ("awq", {"bits": 3, **ROWS, **LOOKS}),
    "both3": ("awq", {"bits": 3, "solver": "gptq", **ROWS, **LOOKS}),
    "stock_file": ("gguf", FILE),
    "solved_file": ("gguf", {**FILE, "solver": "gptq", "polish": 4, "sequences": 150, "length": 256}),
    "magnitude": ("prune", {"by": "magnitude", **LOOKS}),
    "wanda": ("prune", {"by": "wanda", **LOOKS}),
    "sparsegpt": ("prune", {"by": "sparsegpt", **LOOKS}),
}


def stories() -> list[str]:
    """The file parts paragraphs, and no stories: one begins where its first words say so."""
    found: list[list[str]] = []
    for paragraph in filter(None, (each.strip() for each in STORIES.read_text(encoding="utf-8").split("\n\n"))):
        if BEGINS.match(paragraph) or not found:
            found.append([])
        found[-1].append(paragraph)
    return ["\n".join(story) for story in found]


Measured = dict[str, dict[str, float]]
"""Perplexity and KL of the model, and of every one that was made of it, by name."""


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Measured]:
    """What is measured, for each seed: which stories are looked at."""
    return [run_of(tmp_path_factory.mktemp("stories"), seed) for seed in SEEDS]


@pytest.fixture(scope="module", params=SEEDS)
def measured(request: pytest.FixtureRequest, every: list[Measured]) -> Measured:
    return every[request.param]


def looks_at_nothing(name: str) -> bool:
    method, options = STAGES[name]
    return method == "rtn" or (method == "gguf" and "solver" not in options)


def run_of(folder: Path, seed: int) -> Measured:
    told = stories()
    half = len(told) // 2
    paths = {}
    for part, some in (("looked-at", told[:half]), ("test", told[half:])):
        paths[part] = str(folder / f"{part}.jsonl")
        Path(paths[part]).write_text("".join(json.dumps({"text": story}) + "\n" for story in some), encoding="utf-8")
    data = {"data": paths["looked-at"]}
    recipe = {
        "name": "compression",
        "model": str(MODEL),
        "seed": seed,
        "measure": [
            {"perplexity": {"data": paths["test"]}},
            {"fidelity": {"data": paths["test"], "against": "base"}},
        ],
        "stages": [
            {method: {"name": name, "from": "base", **options, **({} if looks_at_nothing(name) else data)}}
            for name, (method, options) in STAGES.items()
        ],
    }
    models = pt.run(recipe, out=folder / "runs").record.models
    return {
        model.name: {
            "perplexity": model.findings["perplexity"].metrics["perplexity"].value,
            "kl": model.findings["fidelity"].metrics["kl"].value,
        }
        for model in models
    }


def test_gptq_closes_the_gap_of_rounding(every):
    """Six tenths of what rounding to nearest loses, in the mean of seeds, which differ by some hundredths: one alone may
    miss it by a tenth."""
    closed = []
    for measured in every:
        rounded, solved = (measured[name]["perplexity"] - measured["base"]["perplexity"] for name in ("rtn4", "gptq4"))
        closed.append(1 - solved / rounded)
        assert measured["gptq4"]["kl"] < 0.5 * measured["rtn4"]["kl"]
    assert at_least(0.6, closed) if len(closed) > 1 else closed[0] > 0.5


def test_a_file_that_is_solved_loses_half_of_what_a_stock_one_loses(every):
    """About: .49 to .51 with seeds, and a margin beside."""
    shares = [measured["solved_file"]["kl"] / measured["stock_file"]["kl"] for measured in every]
    assert sum(shares) / len(shares) < 0.54


def test_three_bits_still_tell_stories(measured):
    assert measured["rtn3"]["perplexity"] > 18
    assert measured["gptq3"]["perplexity"] < 10
    assert measured["gptq3"]["kl"] < 0.4 * measured["rtn3"]["kl"]


def test_looking_back_and_narrower_scales_are_worth_it(measured):
    assert measured["gptq3"]["kl"] < 0.6 * measured["plain3"]["kl"]


@pytest.mark.parametrize("bits", [4, 3])
def test_awq_beats_rounding_to_nearest(measured, bits):
    for metric in ("perplexity", "kl"):
        assert measured[f"awq{bits}"][metric] < measured[f"rtn{bits}"][metric]


def test_scales_and_gptq_go_together(measured):
    assert measured["both3"]["kl"] < 0.6 * measured["awq3"]["kl"]


@pytest.mark.parametrize("by", ["wanda", "sparsegpt"])
def test_half_of_the_weights_go_at_less_than_half_the_loss_of_magnitude(measured, by):
    assert measured[by]["perplexity"] < 0.5 * measured["magnitude"]["perplexity"]
    assert measured[by]["kl"] < 0.75 * measured["magnitude"]["kl"]
