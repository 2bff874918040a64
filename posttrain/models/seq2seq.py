"""Encoder-decoders: an encoder reads the question, and a decoder that looks at it writes the answer.

T5 (Raffel et al. 2020, arXiv 1910.10683), FLAN-T5 (arXiv 2210.11416), mT5 (arXiv 2010.11934), BART (arXiv 1910.13461).

    encoder   a row a question     How old is Ada? </s>
    decoder   a row an answer      <start> She is 36 .          each predicts the next     She is 36 . </s>

A question is encoded once, whatever the number of its answers. Shapes: T questions of S tokens, B answers, N trained
tokens, D width, V vocabulary.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from posttrain.functional.divergence import Head
from posttrain.functional.layout import Tree, answer_order, padded
from posttrain.schema.errors import ModelError

from .attention import Unsupported
from .expected import Expected

if TYPE_CHECKING:
    from .policy import Policy

POSITIONS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_decoder_position_embeddings")


def expects(policy: "Policy", trees: Sequence[Tree], way: str) -> Expected:
    """What stands before every trained token, and the answers they belong to.

    `padded` computes all answers at once; `logits` is the definition, one answer after the other through transformers
    alone. There is no packed way: relative positions and encoders look at whole rows.
    """
    if way == "packed":
        raise Unsupported("an encoder-decoder reads padded rows")
    if way == "logits":
        return _defined(policy, trees)
    with policy.precision(), policy.answering():
        hidden, mask = encode(policy, [tree.prompt for tree in trees])
        asked = torch.tensor([tree for _, tree, _ in answer_order(trees)], device=policy.device)
        hidden, mask = hidden[asked], mask[asked]
        rows, at, targets, answers = _decoder_rows(policy, trees)
        model, head = policy.causal(), policy.model.get_output_embeddings()
        with _before(head, at) as states:
            _decode(model, hidden, mask, rows)
        return Expected(Head(states[0], head.weight, _bias(model, head)), targets, answers)


def encode(policy: "Policy", prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(T, S, D), (T, S): what the encoder makes of the questions, virtual tokens before them if there are any, and where
    there is something."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*p, *[policy.pad_id] * (width - len(p))] for p in prompts], device=policy.device)
    lengths = torch.tensor([len(p) for p in prompts], device=policy.device)
    mask = (torch.arange(width, device=policy.device) < lengths[:, None]).long()
    inputs = {"input_ids": ids}
    if policy.n_virtual:
        words = policy.causal().get_input_embeddings()(ids)
        virtual = policy.model.get_prompt(batch_size=len(ids)).to(words.dtype)
        inputs = {"inputs_embeds": torch.cat([virtual, words], 1)}
        mask = torch.cat([mask.new_ones(virtual.shape[:2]), mask], 1)
    encoded = policy.causal().get_encoder()(**inputs, attention_mask=mask)
    return encoded.last_hidden_state, mask


def _decoder_rows(policy: "Policy", trees: Sequence[Tree]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, W) tokens that the decoder is given, and for each trained token the flat place that predicts it, the token
    itself and its answer, (N,) each."""
    start = (start_token(policy.causal()),)
    layout = padded([Tree(start, tree.branches) for tree in trees], policy.pad_id)
    rows, at, targets, answers = (
        torch.tensor(x, dtype=torch.long, device=policy.device)
        for x in (layout.rows, layout.predict_at, layout.targets, layout.answers)
    )
    return rows[:, :-1], at - at // rows.shape[1], targets, answers  # nothing is predicted from the last token


def _decode(model: Any, hidden: Tensor, mask: Tensor, rows: Tensor, **more: Any) -> Any:
    """What a model makes of decoder rows (B, W) that look at encoded questions. Padding on the right needs no mask."""
    from transformers.modeling_outputs import BaseModelOutput

    encoded = BaseModelOutput(last_hidden_state=hidden)
    more = {"use_cache": False, **more}
    return model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=rows, **more)


@contextlib.contextmanager
def _before(head: nn.Module, at: Tensor) -> Iterator[list[Tensor]]:
    """Within: the hidden states (N, D) that reach the head at flat places `at` are noted, scaled as the model scales
    them, and the head itself has nothing to do."""
    states: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        states.append(inputs[0].flatten(0, 1)[at])
        return (inputs[0][:, :0],)

    hook = head.register_forward_pre_hook(note)
    try:
        yield states
    finally:
        hook.remove()


def _bias(model: Any, head: Any) -> Tensor | None:
    """(V,): what is added to the logits. BART keeps it outside its head."""
    outside = getattr(model, "final_logits_bias", None)
    if outside is None:
        return head.bias
    return outside.flatten() if head.bias is None else head.bias + outside.flatten()


def _defined(policy: "Policy", trees: Sequence[Tree]) -> Expected:
    """The definition: every answer by itself, through the whole model and its whole logits."""
    found, learnt, answers = [], [], []
    with policy.precision(), policy.answering():
        for answer, t, b in answer_order(trees):
            tree = Tree(trees[t].prompt, (trees[t].branches[b],))
            rows, at, targets, _ = _decoder_rows(policy, [tree])
            ids = torch.tensor([tree.prompt], device=policy.device)
            logits = policy.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=rows, use_cache=False
            ).logits
            found.append(logits[0, at])
            learnt.append(targets)
            answers.append(torch.full_like(targets, answer))
    return Expected(torch.cat(found), torch.cat(learnt), torch.cat(answers))


class Writing:
    """Answers on their way: `logits` after each token, and rows that are finished leave."""

    def __init__(self, policy: "Policy", prompts: Sequence[Sequence[int]]):
        from transformers import DynamicCache, EncoderDecoderCache

        self.model = policy.causal()
        self.hidden, self.mask = encode(policy, prompts)
        self.start = torch.full((len(prompts),), start_token(self.model), device=policy.device)
        config = self.model.config
        self.cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def logits(self, tokens: Tensor | None) -> Tensor:
        """(rows, V): what follows the last tokens (rows,), or begins an answer."""
        given = self.start if tokens is None else tokens
        made = _decode(
            self.model, self.hidden, self.mask, given[:, None], past_key_values=self.cache, use_cache=True
        ).logits[:, -1]
        first = self.model.generation_config.forced_bos_token_id if tokens is None else None
        if first is None:
            return made
        return torch.full_like(made, -torch.inf).index_fill(1, torch.tensor([first], device=made.device), 0.0)

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.cache.batch_select_indices(rows)
        self.hidden, self.mask = self.hidden[rows], self.mask[rows]


def start_token(model: Any) -> int:
    """What the decoder is given before the first token of an answer. Raises ModelError where the model does not say."""
    for config in (model.generation_config, model.config):
        if (token := getattr(config, "decoder_start_token_id", None)) is not None:
            return int(token)
    raise ModelError(
        f"{type(model).__name__} does not say which token its decoder begins with. Set decoder_start_token_id in its "
        "config.json; for T5 that is pad_token_id."
    )


def longest(config: Any) -> int:
    """The longest question and the longest answer, each for itself; T5's positions are relative and know no end."""
    return min((n for name in POSITIONS if (n := getattr(config, name, None))), default=sys.maxsize)


def note_generation(model: Any, stops: Sequence[int]) -> None:
    """Makes any other program write the answers that were measured here: greedy ones, begun and ended as in training.

    What a config says of beams, lengths and repetition is for the model before it was trained. A head apart from the
    embeddings is said to be, which transformers before 5 reads as both "do not tie" and "do not scale"."""
    from transformers import GenerationConfig

    before = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=before.bos_token_id,
        pad_token_id=before.pad_token_id,
        eos_token_id=list(stops),
        decoder_start_token_id=start_token(model),
        forced_bos_token_id=before.forced_bos_token_id,
    )
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if getattr(model.config, "scale_decoder_outputs", None) is False and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False
