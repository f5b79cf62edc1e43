"""Train mini-roberta's tokenizer and weights on `out/corpus.jsonl` by masked-language modelling.

    python pretrain.py --work out --out ../../public/models/mini-roberta --minutes 60

The model is written to the output folder first as initialised, then every few minutes, always in fp16. The learning
rate falls to zero when the minutes or the steps are used up, whichever is first. A text with a verdict is shown with
it in words in six cases of ten ("Verdict: good."), before or after the text; there the verdict is masked more often
than other words. All else is as in RoBERTa, less the dropout.
"""

import argparse
import json
import math
import random
import re
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.sparse import coo_matrix, csr_matrix
from sklearn.utils.extmath import randomized_svd
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import RobertaConfig, RobertaForMaskedLM

VOCAB, HIDDEN, LAYERS, HEADS, POSITIONS = 8192, 256, 4, 4, 258
BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, VOCAB - 1
REPEATS = {"foods": 2, "gadgets": 3, "drugs": 2, "wordnet": 0.3}
ENDS = {"imdb": (1, 3)}
LENGTHS, SHARES = (32, 64, 128, 256), (0.45, 0.35, 0.15, 0.05)
TOKENS_A_BATCH, MASKED, VERDICT_MASKED = 2048, 0.2, 0.6


def sentences_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) +", text)


def passages(row: dict) -> list[list[str]]:
    """The sentences to read of a text: all, or of a long review the first and the last, where opinions are."""
    sentences = sentences_of(row["text"])
    first, last = ENDS.get(row["source"], (0, len(sentences)))
    return [sentences[:first], sentences[-last:]] if len(sentences) > first + last else [sentences]


def train_tokenizer(texts: list[str], path: Path) -> Tokenizer:
    """Byte-level BPE, laid out as roberta-base's file is, with <mask> as the last id; learnt from single sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - 1, special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator((sentence for text in texts for sentence in sentences_of(text)), trainer)
    model = json.loads(bpe.to_str())["model"]
    vocab = {**dict(sorted(model["vocab"].items(), key=lambda item: item[1])), "<mask>": MASK}

    def special(token):
        flags = {"single_word": False, "lstrip": token == "<mask>", "rstrip": False, "normalized": True}
        return {"id": vocab[token], "content": token, **flags, "special": True}

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(token) for token in (*specials, "<mask>")],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": {**level, "type": "RobertaProcessing", "sep": ["</s>", EOS], "cls": ["<s>", BOS]},
        "decoder": {**level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocab,
            "merges": [" ".join(pair) for pair in model["merges"]],
        },
    }
    path.write_text(json.dumps(file, ensure_ascii=False, indent=0), encoding="utf8")
    return Tokenizer.from_file(str(path))


def embeddings(texts: list[list[int]], reach: int = 4) -> np.ndarray:
    """Word vectors from co-occurrence in the corpus: positive PMI, then a truncated SVD."""
    counts = csr_matrix((VOCAB, VOCAB), dtype=np.float32)
    for start in range(0, len(texts), 4000):
        ids = np.concatenate([np.array(text + [PAD] * reach) for text in texts[start : start + 4000] if text])
        for gap in range(1, reach + 1):
            pair = (ids[:-gap] != PAD) & (ids[gap:] != PAD)
            weight = np.full(pair.sum(), 1 / gap, dtype=np.float32)
            counts = counts + coo_matrix((weight, (ids[:-gap][pair], ids[gap:][pair])), shape=counts.shape).tocsr()
    counts = (counts + counts.T).tocoo()
    totals = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    smooth = totals**0.75
    pmi = np.log(counts.data * smooth.sum() / (totals[counts.row] * smooth[counts.col]))
    positive = csr_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), shape=counts.shape)
    left, values, _ = randomized_svd(positive, HIDDEN, n_iter=4, random_state=0)
    vectors = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    noise = np.random.default_rng(0).normal(0, 0.02, vectors.shape)
    return np.where(norms > 1e-6, vectors / np.maximum(norms, 1e-6) * 0.5, noise).astype(np.float32)


class Windows:
    """Turns the corpus into batches of windows, afresh for every pass; a window is (token ids, position of the verdict or 0)."""

    def __init__(self, tokenizer: Tokenizer, rows: list[dict], rng: random.Random):
        self.tokenizer, self.rows, self.rng = tokenizer, rows, rng
        self.opening, self.closing = self.encode(["Verdict:", " Verdict:"])
        self.verdicts = {word: self.encode([f" {word}."])[0] for word in ("good", "bad", "mixed")}

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [item.ids for item in self.tokenizer.encode_batch(texts, add_special_tokens=False)]

    def pieces(self, row: dict, sentences: list[list[int]]):
        """Cut a passage into (token ids, verdict, its place, room for ids), whole sentences where they fit."""
        while sentences:
            size, place = self.rng.choices(LENGTHS, SHARES)[0] - 2, self.rng.random()
            verdict, ids = row["verdict"] if place < 0.6 else None, []
            room = size - (len(self.closing) + 2 if verdict else 0)
            while sentences and (not ids or len(ids) + len(sentences[0]) <= room):
                ids += sentences.pop(0)
            if len(ids) > room:
                sentences.insert(0, ids[room:])
            if len(ids) >= 4:
                yield ids[:room], verdict, "before" if place < 0.35 else "after", room

    def window(self, ids: list[int], verdict: str | None, place: str, room: int) -> tuple[list[int], int]:
        if verdict and place == "before":
            return [BOS, *self.opening, *self.verdicts[verdict], *ids, EOS], 1 + len(self.opening)
        # The text opens the window, with no space before it: encode it again.
        ids = self.encode([self.tokenizer.decode(ids).lstrip()])[0][:room]
        if verdict:
            return [BOS, *ids, *self.closing, *self.verdicts[verdict], EOS], 1 + len(ids) + len(self.closing)
        return [BOS, *ids, EOS], 0

    def __iter__(self):
        order = [row for row in self.rows for _ in range(int(REPEATS.get(row["source"], 1) + self.rng.random()))]
        self.rng.shuffle(order)
        for start in range(0, len(order), 2000):
            parts = [(row, sentences) for row in order[start : start + 2000] for sentences in passages(row)]
            ids = iter(self.encode([f" {sentence}" for _, sentences in parts for sentence in sentences]))
            parts = [(row, [next(ids) for _ in sentences]) for row, sentences in parts]
            windows = [self.window(*piece) for row, sentences in parts for piece in self.pieces(row, sentences)]
            windows.sort(key=lambda window: len(window[0]))
            batches = []
            while windows:
                count = max(1, TOKENS_A_BATCH // len(windows[-1][0]))
                batches.append(windows[-count:])
                del windows[-count:]
            self.rng.shuffle(batches)
            yield from batches


def masked(windows, rng: np.random.Generator):
    """Inputs, attention mask, the masked positions and their targets."""
    ids = np.full((len(windows), max(len(window) for window, _ in windows)), PAD)
    chance = np.zeros(ids.shape)
    for i, (window, position) in enumerate(windows):
        ids[i, : len(window)] = window
        chance[i, 1 : len(window) - 1] = MASKED
        if position:
            chance[i, position] = VERDICT_MASKED
    where = rng.permutation(np.flatnonzero(rng.random(ids.shape) < chance))
    inputs, fate = ids.ravel().copy(), rng.random(len(where))
    targets = inputs[where]
    inputs[where[fate < 0.8]] = MASK
    swapped = where[fate > 0.9]
    inputs[swapped] = rng.integers(UNK + 1, MASK, len(swapped))
    return tuple(torch.from_numpy(a) for a in (inputs.reshape(ids.shape), (ids != PAD).astype(np.int64), where, targets))


def save(model: RobertaForMaskedLM, folder: Path):
    """fp16 weights; the decoder is the word embedding and is left out."""
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items() if "lm_head.decoder" not in name}
    part = folder / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.chmod(0o644)
    part.replace(folder / "model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="a folder with weights to go on from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    rows = [json.loads(line) for line in open(args.work / "corpus.jsonl", encoding="utf8")]
    texts = [row["text"] for row in rows]
    if args.resume:
        tokenizer = Tokenizer.from_file(str(args.resume / "tokenizer.json"))
        shutil.copy(args.resume / "tokenizer.json", args.out)
    else:
        tokenizer = train_tokenizer(texts, args.out / "tokenizer.json")
    windows = Windows(tokenizer, rows, random.Random(args.seed))

    config = RobertaConfig(
        architectures=["RobertaForMaskedLM"],
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        torch_dtype="float32",
    )
    config.save_pretrained(args.out)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = RobertaForMaskedLM(config)
    print(f"{len(texts):,} texts; {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    if args.resume:
        model.load_state_dict(load_file(args.resume / "model.safetensors"), strict=False)
    else:
        model.roberta.embeddings.word_embeddings.weight.data.copy_(torch.from_numpy(embeddings(windows.encode(texts))))
    save(model, args.out)
    model.train()

    def loss_of(inputs, attention, where, targets):
        hidden = model.roberta(inputs, attention_mask=attention)[0].flatten(0, 1)[where]
        return cross_entropy(model.lm_head(hidden).float(), targets)

    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
    began = saved = time.time()
    step, recent, progress = 0, [], 0.0
    while progress < 1:
        for batch in windows:
            progress = max(step / args.steps, (time.time() - began) / 60 / args.minutes)
            if progress >= 1:
                break
            rate = args.lr * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * progress))
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(*masked(batch, rng))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            recent.append(loss.item())
            step += 1
            if step % 50 == 0:
                speed = step * TOKENS_A_BATCH / (time.time() - began)
                print(f"step {step} {progress:.1%} loss {np.mean(recent[-50:]):.3f} lr {rate:.1e} {speed:,.0f} tokens/s", flush=True)
            if time.time() - saved > args.save_minutes * 60:
                save(model, args.out)
                saved = time.time()
    save(model, args.out)
    print(f"done: {step} steps, {step * TOKENS_A_BATCH:,} tokens with padding, {(time.time() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
