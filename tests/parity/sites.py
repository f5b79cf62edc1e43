"""Single places on both sides of the sizes at which kernels change their ways: a frozen linear layer with LoRA on it,
and a bottleneck, of made-up weights. Tokens 16 to 320, input width 768 to 4096, rank 4 to 64."""

import torch

from store import made_up, sketches, write

SIZES = [  # tokens, input, output, rank
    (16, 768, 768, 4), (17, 3072, 768, 64), (31, 768, 3072, 8), (32, 1024, 768, 16), (33, 4096, 1024, 5),
    (63, 768, 768, 48), (64, 768, 768, 64), (65, 1000, 768, 63), (127, 769, 770, 7), (128, 3072, 768, 8),
    (129, 768, 768, 33), (255, 2048, 768, 16), (256, 768, 768, 64), (257, 768, 768, 4), (320, 768, 3072, 64),
    (320, 4096, 768, 12),
]  # fmt: skip


def place(N, K, M, r):
    """y = x·Wᵀ + b + 2·(x·Aᵀ)·Bᵀ, z = y + Up(gelu(Down(y))); what flows back is made up too."""
    name = f"site {N} {K} {M} {r}"
    weight = lambda what, shape: made_up(f"{name} {what}", shape).double()
    trained = {
        "x": weight("x", (N, K)), "lora_A": weight("lora_A", (r, K)), "lora_B": weight("lora_B", (M, r)),
        "down.weight": weight("down.weight", (r, M)), "down.bias": weight("down.bias", (r,)),
        "up.weight": weight("up.weight", (M, r)), "up.bias": weight("up.bias", (M,)),
    }  # fmt: skip
    for value in trained.values():
        value.requires_grad_()
    x, A, B, down, down_bias, up, up_bias = trained.values()
    linear = torch.nn.functional.linear
    y = linear(x, weight("weight", (M, K)), weight("bias", (M,))) + 2 * linear(linear(x, A), B)
    z = y + linear(torch.nn.functional.gelu(linear(y, down, down_bias)), up, up_bias)
    z.backward(weight("dz", (N, M)))
    return {"sizes": [N, K, M, r], "found": sketches({"z": z, **{key: value.grad for key, value in trained.items()}})}


def write_sites():
    write("sites", {"cases": [place(*sizes) for sizes in SIZES]})
