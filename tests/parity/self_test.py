"""The numbers that src/model/selfTest.ts compares a device with: a tiny layer, seq_bn and lora, from the real library."""

import json
from pathlib import Path

import torch

from adapters import AutoAdapterModel, LoRAConfig, SeqBnConfig
from transformers import RobertaConfig

TARGET = Path(__file__).parents[2] / "src/model/selfTest.json"
CONFIG = dict(
    vocab_size=24, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=14, type_vocab_size=1, layer_norm_eps=1e-5, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)  # fmt: skip
IDS = [[0, 5, 6, 7, 8, 9, 2], [0, 5, 10, 2, 1, 1, 1], [0, 23, 4, 11, 2, 1, 1]]
LABELS = [1, 0, 2]


def short(x):
    """Weights as they stand in the file: few digits, so that the file is the truth."""
    return [round(v, 3) for v in x.flatten().tolist()]


def exact(x):
    return [float(f"{v:.7g}") for v in x.flatten().tolist()]


def fill(tensors):
    for tensor in tensors:
        tensor.data = torch.tensor(short(torch.randn_like(tensor) * 0.35)).reshape(tensor.shape)


def case(name, config, base):
    model = AutoAdapterModel.from_config(RobertaConfig(**CONFIG))
    model.load_state_dict(base, strict=False)
    model.add_adapter("t", config=config)
    model.add_classification_head("t", num_labels=3)
    model.train_adapter("t")
    model.eval()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    fill(trained.values())
    mask = [[int(i != 1) for i in row] for row in IDS]
    out = model(torch.tensor(IDS), attention_mask=torch.tensor(mask), labels=torch.tensor(LABELS))
    out.loss.backward()
    return {
        "method": name,
        "tensors": [{"key": k, "shape": list(p.shape), "data": short(p), "grad": exact(p.grad)} for k, p in trained.items()],
        "logits": exact(out.logits),
        "loss": out.loss.item(),
    }


if __name__ == "__main__":
    torch.manual_seed(7)
    model = AutoAdapterModel.from_config(RobertaConfig(**CONFIG))
    base = {k: p for k, p in model.named_parameters() if "pooler" not in k}
    fill(base.values())
    for key, tensor in base.items():
        if "LayerNorm.weight" in key:
            tensor.data = torch.tensor([round(v + 1, 3) for v in tensor.flatten().tolist()])
    cases = [
        case("seq_bn", SeqBnConfig(reduction_factor=2), model.state_dict()),
        case("lora", LoRAConfig(r=2, alpha=4, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True), model.state_dict()),
    ]  # fmt: skip
    weights = [{"key": k, "shape": list(p.shape), "data": short(p)} for k, p in base.items()]
    file = {"config": {"model_type": "roberta", **CONFIG}, "input_ids": IDS, "labels": LABELS, "weights": weights, "cases": cases}
    TARGET.write_text(json.dumps(file, separators=(",", ":")) + "\n")
