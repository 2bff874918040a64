"""What transformers by itself makes of a folder: run as a program of its own, that nothing of this package can change.

    python plain_transformers.py FOLDER ASKED.json ANSWERED.safetensors

ASKED.json holds `texts` to be read, `conversations` to be rendered, `ids` (rows, T) to be gone on from, and how many tokens
to write behind the first conversation. What is answered is the token ids of the texts, the rendered conversations, the
logits (rows, T, V) in fp32, and the tokens written.
"""

import json
import sys
from pathlib import Path
from typing import Any


def opened(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model, as a user's three lines load them."""
    import torch
    import transformers as hf

    hf.utils.logging.set_verbosity_error()
    hf.utils.logging.disable_progress_bar()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    if (folder / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        return tokenizer, AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = hf.AutoConfig.from_pretrained(folder)
    kind = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    return tokenizer, kind.from_pretrained(folder, dtype=torch.float32).eval()


def answered(folder: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """What it said, and the logits."""
    import torch

    tokenizer, model = opened(folder)
    ids = torch.tensor(asked["ids"])
    said: dict[str, Any] = {
        "tokens": [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked["texts"]],
        "rendered": [
            tokenizer.apply_chat_template(each, tokenize=False, add_generation_prompt=True)
            for each in asked["conversations"]
        ],
        "written": [],
    }
    with torch.no_grad():
        more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {"use_cache": False}
        logits = model(input_ids=ids, **more).logits.float()
        if asked["prompt"]:
            prompt = torch.tensor([asked["prompt"]])
            mask = torch.ones_like(prompt)
            found = model.generate(
                input_ids=prompt, attention_mask=mask, do_sample=False, max_new_tokens=asked["new_tokens"]
            )
            said["written"] = found[0, prompt.shape[1] :].tolist()
    return said, logits


def main(words: list[str]) -> None:
    """The program."""
    from safetensors.torch import save_file

    folder, asked, place = map(Path, words)
    said, logits = answered(folder, json.loads(asked.read_text(encoding="utf-8")))
    save_file({"logits": logits.contiguous()}, place, metadata={"said": json.dumps(said)})


if __name__ == "__main__":
    main(sys.argv[1:])
