"""torch's random numbers, and the library's initial weights drawn from them."""

import torch

from compositions import compositions
from task_heads import task_heads
from methods import methods
from models import base_model, built, lora, parameters, seq_bn, setup_of
from store import by_layer, tensor, write

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
    """Each adapter, then a fusion or a head, after one `torch.manual_seed`, in the library's order of making modules.

    Of each tensor its first eight values, its mean and its length are kept. DoRA starts from the base's weights, which
    are the made-up ones.
    """
    cases = [initial("odd-roberta", name, setup_of(config)) for name, config in methods().items()]
    for name in ("Fuse", "Fuse static", "Fuse at both places"):
        setup = compositions()[name]
        cases.append(initial("odd-roberta", name, {**setup, "train": {**setup["train"], "adapters": ["a", "b"]}}))
    for name in ("1 layer", "3 layers", "without bias", "multilabel", "regression"):
        cases.append(initial("odd-roberta", name, task_heads("odd-roberta")[name][1]))
    cases += [
        initial("tiny-roberta", "seq_bn on another model", setup_of(seq_bn()), 7),
        initial("micro-roberta", "lora on a small model", setup_of(lora()), 3),
        initial("tiny-roberta", "seq_bn with a seed of its own", setup_of(seq_bn(init_weights_seed=5))),
        initial("tiny-roberta", "lora with a seed of its own", setup_of(lora(init_weights_seed=5))),
        initial("tiny-roberta", "two adapters", compositions()["Stack"], 11),
    ]
    write("initial", {"cases": cases})


def initial(size, name, setup, seed=42):
    model = base_model(size)
    torch.manual_seed(seed)
    built(model, setup)
    of_base = {key for key, _ in base_model(size).named_parameters()}
    fresh = {key: value for key, value in parameters(model).items() if key not in of_base}
    fresh |= {key: value for key, value in model.named_buffers() if key.endswith(".base")}
    return {"model": size, "name": name, "setup": setup, "seed": seed, "tensors": by_layer(fresh, beginning)}


def beginning(value):
    flat = value.detach().flatten().double()
    return [flat.mean().item(), flat.norm().item(), *flat[:8].tolist()]
