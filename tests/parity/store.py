"""How fixtures are written: JSON in which a tensor is {shape, data} with base64 of little-endian float32.

`made_up` draws weights from an integer hash of the tensor's name, the same bits here and in tests/madeUp.ts, so
that a model of any size needs no file.
"""

import base64
import json
import re
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"


def tensor(value):
    """torch tensor -> {shape, data}."""
    array = value.detach().to(torch.float32).contiguous().numpy().astype("<f4")
    return {"shape": list(array.shape), "data": base64.b64encode(array.tobytes()).decode()}


def untensor(stored):
    """The inverse of `tensor`."""
    values = np.frombuffer(base64.b64decode(stored["data"]), dtype="<f4").copy()
    return torch.from_numpy(values.reshape(stored["shape"]))


def tensors(named):
    return {name: tensor(value) for name, value in dict(named).items()}


def write(name, value):
    """Writes tests/fixtures/{name}.json, one line per top-level entry so that a difference can be read."""
    path = FIXTURES / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
    path.write_text("{\n" + rows + "\n}\n")
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} bytes")


def uniform(name, count):
    """`count` numbers in [-1, 1) on a 24-bit grid: murmur3's finaliser over fnv1a(name) + i * golden ratio."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = (seed ^ byte) * 0x01000193 % 2**32
    with np.errstate(over="ignore"):
        x = np.uint32(seed) + np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)) / 2.0**23 - 1.0


def made_up(name, shape):
    """Weights that keep activations lively: matrices by fan-in, scales and norms near 1, small biases."""
    shape = tuple(shape)
    centre, span = 0.0, 0.2
    if name.endswith(("LayerNorm.weight", "norm_before.weight", "norm_after.weight", ".scaling")):
        centre = 1.0
    elif len(shape) == 2 and shape[1] == 1:  # a factor for each output: (IA)³, DoRA
        centre, span = 1.0, 0.5
    elif ".phm_rule" in name or ".W_" in name:
        span = 0.8
    elif len(shape) > 1:
        span = 0.5 if "embeddings" in name else 2 / np.sqrt(float(shape[-1]))
        if ".adapter_fusion_layer." in name:
            span /= 4  # or its softmax would be all or nothing
    values = torch.from_numpy((uniform(name, int(np.prod(shape))) * span + centre).astype(np.float32).reshape(shape))
    if name.endswith("parametrizations.weight.original"):  # torch takes whole numbers from this diagonal
        values.fill_diagonal_(-1)
    return values


PROJECTIONS = 8


def sketch(value):
    """A tensor in few numbers: its length, then its values, or where there are many, its products with eight fixed
    directions of independent entries in [-1, 1). The distance of two tensors shows in the distance of the two sketches.
    """
    values = value.detach().to(torch.float64).flatten().numpy()
    if len(values) > PROJECTIONS:
        directions = [uniform(f"direction {k}", len(values)) for k in range(PROJECTIONS)]
        kept = [float(np.dot(values, direction)) for direction in directions]
    else:
        kept = values.tolist()
    return [float(np.linalg.norm(values)), *kept]


def by_layer(named, describe):
    """Tensors under names with `*` for the number of the layer: {shape, layers, data}, the layers' numbers in a row."""
    found = {}
    for name, value in named.items():
        number = re.search(r"\.layer\.(\d+)\.", name)
        pattern = re.sub(r"\.layer\.\d+\.", ".layer.*.", name)
        entries = found.setdefault((pattern, tuple(value.shape)), [])
        entries.append((int(number[1]) if number else None, describe(value)))
    return [
        {
            "name": pattern,
            "shape": list(shape),
            **({} if entries[0][0] is None else {"layers": [layer for layer, _ in entries]}),
            "data": tensor(torch.tensor([kept for _, kept in entries]))["data"],
        }
        for (pattern, shape), entries in found.items()
    ]


def sketches(named):
    return by_layer(named, sketch)
