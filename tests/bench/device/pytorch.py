"""The same steps in PyTorch: `pytorch.py BATCH LENGTH` prints milliseconds as JSON; needs torch with CUDA.

RoBERTa-base shapes with random weights, fp32 with TF32 off, eager mode, dropout off, AdamW with clipping. Attention is
torch's own fused one. Only what trains requires a gradient, so that nothing is computed for frozen weights.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

H, I, LAYERS, HEADS, VOCABULARY, POSITIONS, LABELS = 768, 3072, 12, 12, 50265, 514, 2


class Linear(nn.Linear):
    """A linear layer with an optional low-rank update beside it."""

    def __init__(self, inputs, outputs, rank=0):
        super().__init__(inputs, outputs)
        self.a = nn.Parameter(torch.randn(rank, inputs) * 0.02) if rank else None
        self.b = nn.Parameter(torch.zeros(outputs, rank)) if rank else None

    def forward(self, x):
        y = super().forward(x)
        return y if self.a is None else y + F.linear(F.linear(x, self.a), self.b)


class Layer(nn.Module):
    """One encoder layer, post-LN, with a bottleneck behind it (seq_bn) or beside its feed-forward part (par_bn)."""

    def __init__(self, method):
        super().__init__()
        rank = 8 if method == "lora" else 0
        self.query, self.key, self.value = Linear(H, H, rank), Linear(H, H), Linear(H, H, rank)
        self.dense, self.norm = Linear(H, H), nn.LayerNorm(H, eps=1e-5)
        self.up, self.down, self.end = Linear(H, I), Linear(I, H), nn.LayerNorm(H, eps=1e-5)
        self.method = method
        width = {"seq_bn": 48, "par_bn": 384}.get(method)
        self.adapter = nn.Sequential(nn.Linear(H, width), nn.ReLU(), nn.Linear(width, H)) if width else None

    def forward(self, x):
        rows, length, _ = x.shape
        heads = lambda y: y.view(rows, length, HEADS, H // HEADS).transpose(1, 2)
        o = F.scaled_dot_product_attention(heads(self.query(x)), heads(self.key(x)), heads(self.value(x)))
        y = self.norm(x + self.dense(o.transpose(1, 2).reshape(rows, length, H)))
        h = y + self.down(F.gelu(self.up(y)))
        if self.method == "seq_bn":
            h = h + self.adapter(self.end(h))
        if self.method == "par_bn":
            h = h + 4 * self.adapter(y)
        return self.end(h)


class Roberta(nn.Module):
    """The encoder with a classification head; `method` says what trains."""

    def __init__(self, method):
        super().__init__()
        self.words, self.positions = nn.Embedding(VOCABULARY, H), nn.Embedding(POSITIONS, H)
        self.types, self.norm = nn.Embedding(1, H), nn.LayerNorm(H, eps=1e-5)
        self.layers = nn.ModuleList(Layer(method) for _ in range(LAYERS))
        self.head = nn.Sequential(nn.Linear(H, H), nn.Tanh(), nn.Linear(H, LABELS))
        trained = lambda name: name.startswith("head.") or ".adapter." in name or name.endswith((".a", ".b"))
        for name, parameter in self.named_parameters():
            parameter.requires_grad = method == "full" or trained(name)

    def forward(self, ids):
        places = torch.arange(2, ids.shape[1] + 2, device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


def milliseconds(work):
    """The median of seven rounds of ten, after three to warm up."""
    for _ in range(3):
        work()
    found = []
    for _ in range(7):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(10):
            work()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - started) * 100)
    return sorted(found)[3]


def measure(method, ids, labels):
    model = Roberta(method).cuda()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(ids), labels).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    def forward():
        with torch.no_grad():
            model(ids)

    return milliseconds(step), milliseconds(forward)


def main():
    batch, length = int(sys.argv[1]), int(sys.argv[2])
    if not torch.cuda.is_available():
        sys.exit("torch has no CUDA here")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (batch, length), device="cuda")
    labels = torch.randint(0, LABELS, (batch,), device="cuda")
    found = {}
    for method in ["seq_bn", "lora", "par_bn", "full", "head"]:
        step, forward = measure(method, ids, labels)
        found[f"{method} step"] = step
        if method == "seq_bn":
            found["forward"] = forward
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "ms": found}))


main()
