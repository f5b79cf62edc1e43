"""How fixtures are written: JSON in which a tensor is {shape, data} with base64 of little-endian float32.

`made_up` draws weights from an integer hash of the tensor's name, the same bits here and in tests/madeUp.ts, so
that a model of any size needs no file.
"""

import base64
import json
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
    """Weights that keep activations lively: matrices by fan-in, LayerNorm weights near 1, small biases."""
    shape = tuple(shape)
    centre, span = 0.0, 0.2
    if name.endswith("LayerNorm.weight"):
        centre = 1.0
    elif len(shape) > 1:
        span = 0.5 if "embeddings" in name else 2 / np.sqrt(float(shape[-1]))
    values = uniform(name, int(np.prod(shape))) * span + centre
    return torch.from_numpy(values.astype(np.float32).reshape(shape))
