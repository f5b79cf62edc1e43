"""torch's random numbers, and the library's initial weights drawn from them."""

import torch
from adapters import AutoAdapterModel

from models import NAME, config_of, library_config, lora, seq_bn, trainable
from store import tensor, tensors, write

SIZES = [1, 2, 7, 15, 16, 17, 33, 1000]
SEEDS = [0, 1, 42, 2**32 - 1]


def write_random():
    """Each list of draws is made by one generator, size after size, so that leftover state shows."""
    cases = []
    for seed in SEEDS:
        made = {}
        for kind, draw in {
            "randperm": lambda n, g: torch.randperm(n, generator=g),
            "uniform": lambda n, g: torch.empty(n).uniform_(-0.25, 0.75, generator=g),
            "normal": lambda n, g: torch.empty(n).normal_(0.5, 0.02, generator=g),
        }.items():
            generator = torch.Generator().manual_seed(seed)
            made[kind] = [tensor(draw(n, generator)) for n in SIZES]
        cases.append({"seed": seed, **made})
    write("random", {"sizes": SIZES, "cases": cases})


def write_initial():
    """Order of draws after `torch.manual_seed(seed)`, as the library makes modules:

    seq_bn, per layer: nn.Linear's own start for adapter_down (weight, bias) and adapter_up (weight, bias), both
    uniform and thrown away; then normal for down.weight and up.weight. lora, per layer in the order query, key,
    value, intermediate, output: uniform for lora_A. Head: nn.Linear's own start for `.1` (weight, bias) and `.4`
    (weight, bias), thrown away; then normal for `.1.weight` and `.4.weight`.
    """
    cases = []
    for size, adapter, num_labels, seed in [
        ("tiny-roberta", seq_bn(), 2, 42),
        ("tiny-roberta", lora(), 2, 42),
        ("tiny-roberta", lora(r=2, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True), 3, 7),
        ("odd-roberta", seq_bn(reduction_factor=5, leave_out=[1]), 3, 1),
        ("micro-roberta", seq_bn(), 2, 3),
    ]:
        model = AutoAdapterModel.from_config(config_of(size))
        torch.manual_seed(seed)
        model.add_adapter(NAME, config=library_config(adapter))
        model.add_classification_head(NAME, num_labels=num_labels)
        model.train_adapter(NAME)
        made = {"model": size, "adapter": adapter, "num_labels": num_labels, "seed": seed}
        cases.append({**made, "tensors": tensors(trainable(model))})
    write("initial", {"cases": cases})
