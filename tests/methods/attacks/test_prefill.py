"""Prefill: the model goes on behind words that are put into its mouth, and they are part of its answer."""

from posttrain.schema.rows import Message, Prompt
from tests.besieged import attack, goal, local, played, scene


def test_the_answer_is_begun():
    moves = played(attack("prefill", beginnings=["Sure:", "First,"]), goal("x"), scene())
    assert sorted(move.messages[-1].content for move in moves) == ["First,", "Sure:"]
    assert all(move.messages[-1].role == "assistant" and move.messages[-2].content == "x" for move in moves)


def test_a_local_model_reads_its_prompt_with_the_beginning_behind_it():
    """What it says next is what it says behind those very tokens."""
    weights, begun = local(), (Message("user", "hi"), Message("assistant", "Sure"))
    plain = weights.form.ask(Prompt(begun[:1]))
    letters = weights.form.tokenizer("Sure", add_special_tokens=False)["input_ids"]
    seen: list[list[int]] = []
    weights.form.ask = lambda row, ask=weights.form.ask: seen.append(ask(row)) or ask(row)  # type: ignore[method-assign]
    (said,) = weights.replies([begun], [1])
    assert seen == [plain]
    assert said.text is not None
    assert said.text.startswith("Sure")
    behind = weights.form.read_answer([*letters, *_greedy(weights, [*plain, *letters], 8)])
    assert said.text == behind


def _greedy(weights, ids, n):
    import torch

    found = []
    for _ in range(n):
        logits = weights.policy.model(input_ids=torch.tensor([[*ids, *found]]), use_cache=False).logits
        found.append(int(logits[0, -1].argmax()))
        if found[-1] in weights.form.stop_ids:
            break
    return found
