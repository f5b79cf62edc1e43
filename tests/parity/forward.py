"""Forward passes of base models, of every form of a weights file, and of the two larger models."""

import hashlib
import shutil
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer, RobertaForMaskedLM, RobertaModel

from models import CORPUS, MINI, base_model, base_tensors, classification, config_fields, config_of, fill, seq_bn
from models import setup_of, with_setup, write_config, write_weights
from store import FIXTURES, tensor, uniform, write

PAD = 1


def batch(name, vocab, lengths, num_labels, width=None):
    """Rows of made-up ids `<s> … </s>`, padded on the right to `width` or to the longest."""
    S = width or max(lengths)
    draws = (uniform(f"batch {name}", len(lengths) * S) * 0.5 + 0.5).reshape(len(lengths), S)
    ids = [[0, *(4 + int(u * (vocab - 4)) for u in row[: n - 2]), 2] + [PAD] * (S - n) for row, n in zip(draws, lengths)]
    mask = [[1] * n + [0] * (S - n) for n in lengths]
    labels = [(row[1] * 7 + n) % num_labels for row, n in zip(ids, lengths)]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def inputs(host):
    return {key: torch.tensor(host[key]) for key in ("input_ids", "attention_mask")}


def hidden_states(model, host):
    """Embeddings and every layer's output, each [B,S,H]."""
    with torch.no_grad():
        return model.roberta(**inputs(host), output_hidden_states=True).hidden_states


def write_base():
    cases = []
    for size, vocab, lengths, width in [
        ("tiny-roberta", 400, [11, 7, 3], 11),
        ("tiny-roberta", 400, [64], 64),
        ("tiny-roberta", 400, [2, 5, 9, 4, 17], 19),
        ("odd-roberta", 40, [7, 13, 2], 13),
        ("micro-roberta", 20, [12, 3], 12),
    ]:
        host = batch(f"base {size} {width}", vocab, lengths, 2, width)
        states = hidden_states(base_model(size), host)
        cases.append({"model": size, **host, "hidden_states": [tensor(state) for state in states]})
    write("base", {"cases": cases})


def write_variants():
    """One model under every guise that a safetensors file may have, with the hidden state each must give."""
    folder = FIXTURES / "variants"
    folder.mkdir(exist_ok=True)
    config = config_of("micro-roberta")
    model = base_model("micro-roberta")
    write_config(folder, config)
    plain = base_tensors(model)
    masked = fill(RobertaForMaskedLM(config).eval()).state_dict()
    masked = {k: v.contiguous() for k, v in {**masked, **plain}.items()}
    old = lambda k: k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    embeddings = plain["roberta.embeddings.word_embeddings.weight"]
    pooler = {k: v for k, v in model.state_dict().items() if "pooler" in k}
    decoder = {"lm_head.decoder.weight": embeddings.clone(), "lm_head.decoder.bias": masked["lm_head.bias"].clone()}
    positions = torch.arange(config.max_position_embeddings)[None]
    files = {
        "bare": {k.removeprefix("roberta."): v for k, v in plain.items()},
        "gamma_beta": {old(k): v for k, v in plain.items()},
        "float16": {k: v.half() for k, v in plain.items()},
        "bfloat16": {k: v.bfloat16() for k, v in plain.items()},
        "pooler": {**plain, **pooler},
        "untied_decoder": {**masked, **decoder},
        "tied_decoder": {k: v for k, v in masked.items() if "decoder" not in k},
        "position_ids": {**plain, "roberta.embeddings.position_ids": positions},
    }
    host = batch("variants", config.vocab_size, [9, 4], 2)
    expected = {}
    for name, state in files.items():
        write_weights(folder / f"{name}.safetensors", state)
        expected[name] = tensor(opened(folder, name)(**inputs(host)).last_hidden_state)
    write("variants/expected", {**host, "last_hidden_state": expected})


def opened(folder, name):
    """What transformers itself makes of one file, in float32."""
    with TemporaryDirectory() as copy:
        shutil.copy(folder / "config.json", copy)
        shutil.copy(folder / f"{name}.safetensors", f"{copy}/model.safetensors")
        return RobertaModel.from_pretrained(copy, dtype=torch.float32).eval()


def write_made_up():
    """roberta-base's exact shapes: logits, token 0 in full and eight dimensions of every token after each layer."""
    host = batch("roberta-base", 50265, [12, 7], 2)
    model = with_setup("roberta-base", setup_of(head=classification(2)))
    states = hidden_states(model, host)
    with torch.no_grad():
        logits = model(**inputs(host)).logits
    narrow = [tensor(state[:, :, :8]) for state in states]
    write(
        "made-up",
        {"config": config_fields(model.config), **host, "logits": tensor(logits),
         "first_token": tensor(states[-1][:, 0]), "hidden_states": narrow},
    )  # fmt: skip


def mini_sha256():
    return hashlib.sha256((MINI / "model.safetensors").read_bytes()).hexdigest()


def write_mini():
    """mini-roberta with a made-up seq_bn and head; ids are stored, so no tokenizer is needed to check."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    encoded = tokenizer(CORPUS[:4], padding=True)
    host = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"], "labels": [1, 0, 1, 0]}
    base = hidden_states(base_model("mini-roberta"), host)
    setup = setup_of(seq_bn(), classification(2))
    with torch.no_grad():
        out = with_setup("mini-roberta", setup)(**inputs(host), labels=torch.tensor(host["labels"]), output_hidden_states=True)
    write(
        "mini-roberta",
        {"sha256": mini_sha256(), "texts": CORPUS[:4], **host, "setup": setup,
         "base_last_hidden_state": tensor(base[-1]), "logits": tensor(out.logits), "loss": out.loss.item(),
         "last_hidden_state": tensor(out.hidden_states[-1])},
    )  # fmt: skip
