"""Writes tests/fixtures/torch: what real torch saves, in its formats and dtypes, with the values as float32 bits.

python tests/parity/make_torch_files.py     (made with torch 2.13.0, CPU)
"""

import collections
import json
import os
import pickle
from pathlib import Path

import torch

folder = Path(__file__).parent.parent / "fixtures" / "torch"
folder.mkdir(parents=True, exist_ok=True)
generator = torch.Generator().manual_seed(7)


def random(*shape):
    return torch.randn(*shape, generator=generator)


table = random(6, 5)
halves = torch.tensor([0.0, -0.0, 1.0, 65504.0, float("inf"), -float("inf"), 6e-8, -6e-8, 6.1e-5, 0.333], dtype=torch.float16)
tensors = {
    "float32": random(3, 4),
    "float16": halves,
    "bfloat16": torch.cat([random(5), torch.tensor([float("inf"), 1e-40, -3e38])]).to(torch.bfloat16),
    "float64": random(2, 3).double(),
    "int64": torch.tensor([[0, 1, -5, 514]]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "four": random(2, 3, 2, 2),
    "whole": table,
    "rows": table[2:4],
    "columns": table[:, 1:3],
    "transposed": table.t(),
    "every_other": table[::2, ::2],
    "parameter": torch.nn.Parameter(random(2, 2)),
    "ключ 🙂": random(2),
}
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2))


def bits(tensor):
    values = tensor.detach().float().contiguous().reshape(-1)
    return {"shape": list(tensor.shape), "bits": (values.view(torch.int32).long() & 0xFFFFFFFF).tolist()}


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/executed-by-adaptab-test",)


torch.save(tensors, folder / "zip.bin")
torch.save(tensors, folder / "legacy.bin", _use_new_zipfile_serialization=False)
torch.save(module.state_dict(), folder / "state_dict.bin")
torch.save(module.state_dict(), folder / "state_dict_legacy.bin", _use_new_zipfile_serialization=False)
torch.save({"weight": torch.zeros(2), "evil": Evil()}, folder / "evil.bin")
for protocol in (0, 2, 4):
    (folder / f"evil_protocol{protocol}.bin").write_bytes(pickle.dumps(Evil(), protocol=protocol))
torch.save(module, folder / "module.bin")
expected = {"tensors": {k: bits(v) for k, v in tensors.items()}, "module": {k: bits(v) for k, v in module.state_dict().items()}}
(folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
