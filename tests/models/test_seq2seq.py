"""Encoder-decoders: log-probabilities, samples and saved folders are those of transformers itself."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from peft import PeftModel

from posttrain.data.batch import Batch
from posttrain.engine.loop import step_shares
from posttrain.engine.sources import model as source
from posttrain.engine.store import Store
from posttrain.functional.layout import Branch, Tree, answer_order
from posttrain.methods.objectives.dpo import DPO
from posttrain.methods.objectives.sft import SFT
from posttrain.models import seq2seq
from posttrain.models.activations import checkpoint_layers
from posttrain.models.adapters import Adapter, attach
from posttrain.models.load import load_format, load_policy, load_weights, save_weights
from posttrain.models.policy import Models, Policy
from posttrain.models.sampler import Sampling, TransformersSampler
from posttrain.schema.artifacts import Model
from posttrain.schema.errors import DataError, ModelError
from posttrain.schema.rows import Message, Prompt
from tests import tiny

PAIRS = Batch(tiny.trees(5, 2, seed=1, longest=30))
UNLIKE = Batch((*PAIRS.trees, *tiny.trees(2, 3, seed=4), *tiny.trees(1, 1, seed=5)))
PROMPTS = [[7, 8, 9, 1], [10] * 20, [11, 12, 1], [13, 14, 15, 16, 17, 1]]
FAMILIES = list(tiny.ENCODER_DECODERS)


def separately(model, batch):
    """The definition: each answer alone, its labels given to transformers, which shifts them itself."""
    logps = []
    for _, t, branch in answer_order(batch.trees):
        answer = batch.trees[t].branches[branch]
        labels = torch.tensor([answer.tokens])
        logits = model(input_ids=torch.tensor([batch.trees[t].prompt]), labels=labels).logits[0]
        table = logits.log_softmax(-1)
        logps += [table[i, token] for i, token in enumerate(answer.tokens) if answer.trained[i]]
    return torch.stack(logps)


def saved(tmp_path: Path, family: str, **changes) -> Model:
    folder = tmp_path / family
    tiny.encoder_decoder(family, **changes).save_pretrained(folder)
    tiny.encoder_tokenizer(begins=family == "bart").save_pretrained(folder)
    return source(Store(tmp_path / "store"), str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_logps_are_those_of_transformers(family):
    model = tiny.encoder_decoder(family)
    policy = Policy(model, tiny.encoder_tokenizer())
    assert policy.layout == "padded", policy.why
    with torch.no_grad():
        truth = separately(model, UNLIKE)
        assert truth.std() > 0.1
        assert (policy.logps(UNLIKE) - truth).abs().max() < 1e-5


def test_a_head_that_is_more_than_a_matrix_is_computed_whole():
    model = tiny.encoder_decoder("bart")
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.tanh())
    policy = Policy(model, tiny.encoder_tokenizer())
    assert policy.layout == "logits"
    assert "padded rows differ by" in policy.why
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(model, PAIRS)).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("objective", [SFT(), DPO(nll=0.3)])
def test_a_cut_changes_no_gradient(family, objective):
    batch = PAIRS if isinstance(objective, DPO) else Batch(tiny.trees(6, 1, seed=2))
    gradients = []
    for layout, micro_tokens in (("padded", 10**6), ("padded", 40), ("padded", 1), ("logits", 10**6)):
        policy, reference = (
            Policy(tiny.encoder_decoder(family, seed), tiny.encoder_tokenizer(), layout=layout) for seed in (1, 9)
        )
        step_shares(Models(policy, reference), objective, batch, micro_tokens)
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable() if p.grad is not None]))
    assert gradients[0].norm() > 1e-3
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() / gradients[0].norm() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_computed_again_give_the_same_gradient(family):
    gradients = []
    for again in (False, True):
        policy = Policy(tiny.encoder_decoder(family), tiny.encoder_tokenizer())
        if again:
            assert checkpoint_layers(policy.model) == 4
        policy.answer_logps(PAIRS).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy.trainable()]))
    assert gradients[0].norm() > 1
    assert (gradients[0] - gradients[1]).norm() / gradients[0].norm() < 1e-6


def test_a_shared_question_is_encoded_once(monkeypatch):
    policy = Policy(tiny.encoder_decoder(), tiny.encoder_tokenizer())
    encoded = []
    encode = seq2seq.encode
    monkeypatch.setattr(
        seq2seq, "encode", lambda policy, prompts: encoded.append(len(prompts)) or encode(policy, prompts)
    )
    policy.score(PAIRS)
    assert encoded == [len(PAIRS.trees)]
    assert len(PAIRS) == 2 * len(PAIRS.trees)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_generate(family):
    model = tiny.encoder_decoder(family)
    policy = Policy(model, tiny.encoder_tokenizer())
    free = TransformersSampler(policy, frozenset()).sample(PROMPTS, Sampling(max_new_tokens=12))
    stop_ids = frozenset({free[0][3], free[2][5]})  # tokens that will come up, so that rows leave the batch early
    model.generation_config.eos_token_id = sorted(stop_ids)
    model.generation_config.forced_eos_token_id = None
    wanted = [
        model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, 1:].tolist() for prompt in PROMPTS
    ]
    assert len({len(answer) for answer in wanted}) > 1
    for batch in (64, 2):
        sampler = TransformersSampler(policy, stop_ids, batch=batch)
        assert sampler.sample(PROMPTS, Sampling(max_new_tokens=12)) == wanted


def test_a_row_draws_the_same_whoever_is_beside_it():
    policy = Policy(tiny.encoder_decoder("bart"), tiny.encoder_tokenizer(begins=True))
    sampling = Sampling(max_new_tokens=10, temperature=1.0)
    together = TransformersSampler(policy, frozenset()).sample(PROMPTS, sampling, seed=5)
    in_pairs = TransformersSampler(policy, frozenset(), batch=2).sample(PROMPTS, sampling, seed=5)
    assert together == in_pairs
    assert {answer[0] for answer in together} == {2}, "BART's answers begin with <s>, by its generation config"


def test_questions_and_answers_have_their_lengths_each_for_itself():
    bart = Policy(tiny.encoder_decoder("bart", max_position_embeddings=24), tiny.encoder_tokenizer())
    sampler = TransformersSampler(bart, frozenset())
    assert bart.context == 24
    assert [len(answer) for answer in sampler.sample([[5] * 24], Sampling(max_new_tokens=50))] == [24]
    with pytest.raises(DataError, match="A prompt has 25 tokens and the model reads 24"):
        sampler.sample([[5] * 25], Sampling())
    long = Batch((Tree((5,) * 24, (Branch((6,) * 24, (True,) * 24),)),))
    assert bart.score(long).isfinite().all()
    assert Policy(tiny.encoder_decoder("t5"), tiny.encoder_tokenizer()).context > 10**9


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_answers_alike_in_plain_transformers(family, tmp_path):
    model = saved(tmp_path, family)
    policy = load_policy(model)
    policy.model.generation_config.update(
        num_beams=3, min_new_tokens=9, no_repeat_ngram_size=1
    )  # as bart-large-cnn has
    folder = tmp_path / "out"
    save_weights(policy.model, policy.tokenizer, folder, source=model)
    plain = hf.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    questions = ["How old is Ada?", "Name a planet.", "?"]
    form = load_format(model, policy.tokenizer)
    ours = TransformersSampler(policy, form.stop_ids).sample(
        [form.ask(Prompt((Message("user", text),))) for text in questions], Sampling(max_new_tokens=15)
    )
    for text, answer in zip(questions, ours, strict=True):
        theirs = plain.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=15)[0, 1:].tolist()
        assert answer == theirs
    with torch.no_grad():
        assert (policy.logps(PAIRS) - separately(plain, PAIRS)).abs().max() < 1e-5
    tied = plain.get_input_embeddings().weight.equal(plain.get_output_embeddings().weight)
    assert tied == (family in ("t5", "bart"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("adapter", ["lora", "ia3", {"prompt": {"tokens": 8}}, {"p_tuning": {"tokens": 8}}], ids=str)
def test_an_adapter_is_that_of_plain_peft(family, adapter, tmp_path):
    base = saved(tmp_path, family)
    weights, tokenizer = load_weights(base), tiny.encoder_tokenizer()
    adapted = attach(weights, Adapter.model_validate(adapter), tokenizer, seed=0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    policy, bare = (Policy(adapted, tokenizer, adapter=name) for name in ("default", None))
    assert policy.layout == "padded", policy.why
    save_weights(adapted, tokenizer, tmp_path / "adapter", source=base)
    plain = PeftModel.from_pretrained(tiny.encoder_decoder(family), str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        truth = separately(plain, PAIRS)
        without = separately(tiny.encoder_decoder(family), PAIRS)
        assert (truth - without).abs().max() > 0.01
        assert (policy.logps(PAIRS) - truth).abs().max() < 1e-5
        assert (bare.logps(PAIRS) - without).abs().max() < 1e-5
        wanted = [
            plain.generate(
                input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=6
            )
            for prompt in PROMPTS
        ]
    answers = TransformersSampler(policy, frozenset({1})).sample(PROMPTS, Sampling(max_new_tokens=6))
    unforced = [answer[:5] for answer in answers]  # the sixth of BART's is forced to be </s> before it is saved by us
    assert unforced == [ids[0, 1:].tolist()[:5] for ids in wanted]
    policy.answer_logps(PAIRS).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in policy.trainable())


def test_prefix_tuning_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"has an encoder\. Use `adapter: prompt`"):
        attach(tiny.encoder_decoder(), Adapter.model_validate("prefix"), tiny.encoder_tokenizer(), seed=0)


def test_a_decoder_that_does_not_say_how_it_begins_is_refused():
    model = tiny.encoder_decoder("t5", decoder_start_token_id=None)
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        Policy(model, tiny.encoder_tokenizer())


def test_a_folder_of_another_kind_is_refused_in_its_words(tmp_path):
    model = saved(tmp_path, "t5")
    (Path(model.path) / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot be loaded as an encoder-decoder"):
        load_weights(model)
