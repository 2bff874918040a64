"""The shipped base model: its size, its tokenizer, and what it can do before any post-training.

Thresholds have margins; the figures are in the model's training_log.json.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from posttrain import lab  # noqa: E402
from posttrain.data.chat import ChatFormat  # noqa: E402
from posttrain.lab import text, words  # noqa: E402
from posttrain.models.policy import Policy  # noqa: E402
from posttrain.models.sampler import Sampling, TransformersSampler  # noqa: E402
from posttrain.schema.rows import Conversation, Message  # noqa: E402

LIMIT = 10_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(lab.base())


@pytest.fixture(scope="module")
def policy(tokenizer: Any) -> Policy:
    model = transformers.AutoModelForCausalLM.from_pretrained(lab.base(), dtype=torch.float32)
    return Policy(model, tokenizer, layout="padded")


def complete(policy: Policy, prompts: Sequence[str]) -> list[str]:
    """The rest of the line after each prompt, greedily."""
    tokenizer = policy.tokenizer
    ends = {i for token, i in tokenizer.get_vocab().items() if "\n" in tokenizer.decode([i])}
    sampler = TransformersSampler(policy, frozenset({*ends, tokenizer.eos_token_id}))
    asked = tokenizer(list(prompts), add_special_tokens=False).input_ids
    answers = sampler.sample(asked, Sampling(max_new_tokens=64))
    return [tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0].strip() for ids in answers]


def exact(policy: Policy, rows: Sequence[dict[str, Any]], prompts: Sequence[str] | None = None) -> float:
    said = complete(policy, prompts or [row["plain"] for row in rows])
    return sum(a == row["answer"] for a, row in zip(said, rows, strict=True)) / len(rows)


def test_the_folder_is_small_and_whole() -> None:
    files = [path for path in lab.base().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "README.md"} <= {
        path.name for path in files
    }
    log = json.loads((lab.base() / "training_log.json").read_text())
    assert log["curve"][-1]["loss"] < log["curve"][0]["loss"] / 3


def test_weights_are_bf16(policy: Policy) -> None:
    from safetensors import safe_open

    with safe_open(lab.base() / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118
    assert 2_000_000 < sum(p.numel() for p in policy.model.parameters()) < 5_000_000


def test_tokenizer_round_trip(tokenizer: Any) -> None:
    for said in [*text.documents(200, seed=3), "帽子 ÜΩ 🙂\ttab", " leading", "12345", "<b>&amp;</b>"]:
        ids = tokenizer(said, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == said


def test_numbers_are_single_digits(tokenizer: Any) -> None:
    assert tokenizer.tokenize("67+8=75") == ["6", "7", "+", "8", "=", "7", "5"]


def test_special_tokens_are_one_token_each_and_distinct(tokenizer: Any) -> None:
    special = ["<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    ids = [tokenizer(token, add_special_tokens=False).input_ids for token in special]
    assert all(len(found) == 1 for found in ids) and len({found[0] for found in ids}) == len(special)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_text_never_holds_a_special_token(tokenizer: Any) -> None:
    special = set(tokenizer.convert_tokens_to_ids(["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]))
    assert not special & {i for ids in tokenizer(text.documents(500, seed=4)).input_ids for i in ids}


def test_the_template_marks_the_answer_and_its_end(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "be kind."},
        {"role": "user", "content": "what is 3+4?"},
        {"role": "assistant", "content": "7"},
    ]
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [i for i, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if marked]
    assert tokenizer.decode(learnt) == " 7<|end|>"
    asked = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
    assert asked == "<|system|>be kind.<|end|><|user|>what is 3+4?<|end|><|assistant|>"


def test_generation_stops_at_the_end_of_an_answer(tokenizer: Any, policy: Policy) -> None:
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert {end, tokenizer.eos_token_id} == set(policy.model.generation_config.eos_token_id)
    form = ChatFormat(tokenizer)
    assert end in form.stop_ids
    (tokens,) = form.conversations(Conversation((Message("user", "what is 3+4?"), Message("assistant", "7"))))
    assert tokens.ids[-1] == end and tokens.trained[-1]


def test_chat_tokens_were_never_learnt(tokenizer: Any, policy: Policy) -> None:
    """All that can be learnt of a token that never occurs is that it never comes next: these tokens are all alike."""
    directions = torch.nn.functional.normalize(policy.model.get_input_embeddings().weight.detach(), dim=1)
    chat = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"])
    colors = [tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words.COLORS]
    assert (directions[chat] @ directions[chat].T).min() > 0.9
    assert (directions[colors] @ directions[colors].T).min() < 0.7


@pytest.mark.slow
def test_the_base_follows_no_chat_instruction(tokenizer: Any, policy: Policy) -> None:
    rows = lab.rows("chat/dev")[:60]
    form = ChatFormat(tokenizer)
    prompts = [tokenizer.apply_chat_template([{"role": "user", "content": row["prompt"]}], add_generation_prompt=True,
                                             return_dict=False) for row in rows]  # fmt: skip
    answers = TransformersSampler(policy, form.stop_ids).sample(prompts, Sampling(max_new_tokens=48))
    right = sum(form.read_answer(ids) == row["answer"] for ids, row in zip(answers, rows, strict=True))
    assert right / len(rows) < 0.05


@pytest.mark.parametrize("task", ["arithmetic", "fact", "list", "zel"])
def test_plain_text_abilities(policy: Policy, task: str) -> None:
    rows = [row for row in lab.rows("chat/test") if row["task"].startswith(task)]
    assert exact(policy, rows) > PLAIN[task]


PLAIN = {"arithmetic": 0.6, "fact": 0.6, "list": 0.6, "zel": 0.6}


def few_shot(policy: Policy, k: int) -> float:
    rng = random.Random(0)
    examples, rows, prompts = lab.rows("word_map/train"), lab.rows("word_map/test"), []
    for row in rows:
        shown = rng.sample([e for e in examples if e["task"] == row["task"]], k)
        prompts.append("\n".join([*(f"{e['plain']} {e['answer']}" for e in shown), row["plain"]]))
    return exact(policy, rows, prompts)


def test_examples_tell_the_word_map(policy: Policy) -> None:
    none, four = few_shot(policy, 0), few_shot(policy, 4)
    assert none < 0.4 and four > 0.85 and four - none > 0.55
