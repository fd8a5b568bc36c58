"""Make the demo's micro model: language modelling on unlabelled reviews of all constructed languages.

    python -m ctsft.tasks.demo.pretrain ctsft/tasks/demo/model

Qwen2 architecture (grouped keys and values, RMSNorm, gated MLP, biases on q, k and v). It has seen every language's
text, and never a label: the label words do not occur in what it reads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ctsft.tasks.demo.languages import DISTANCES, LABELS, draw_review, say, vocabulary

STEPS, BATCH, LR, SEED = 1200, 96, 3e-3, 7


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; punctuation and the prompt's own words are tokens too."""
    words = ["<unk>", "<pad>", "<s>", "|", ".", "sentiment:", *LABELS, *vocabulary()]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", padding_side="left"
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    torch.manual_seed(SEED)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.05,
    )
    return Qwen2ForCausalLM(config)


def batch(rng: np.random.Generator, tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Reviews of random languages and opinions, padded on the right for language modelling."""
    texts = [
        say(str(rng.choice(list(DISTANCES))), draw_review(rng, int(rng.choice(3, p=[0.4, 0.2, 0.4]))))
        for _ in range(BATCH)
    ]
    return dict(tokenizer(texts, padding=True, padding_side="right", return_tensors="pt"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the model")
    folder = parser.parse_args().folder
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS, pct_start=0.05)
    rng = np.random.default_rng(SEED)
    losses = []
    model.train()
    for step in range(STEPS):
        inputs = batch(rng, tokenizer)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1}/{STEPS}: loss {np.mean(losses[-100:]):.3f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    about = {
        "steps": STEPS,
        "batch": BATCH,
        "lr": LR,
        "seed": SEED,
        "final_loss": round(float(np.mean(losses[-100:])), 4),
    }
    (folder / "pretraining.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
