"""Every head that the app has, over an adapter that trains with it, and the weights that train without any adapter."""

from adapters import LoRAConfig, PromptTuningConfig, SeqBnConfig, SeqBnInvConfig

from models import classification, masked_lm, setup_of

BELOW = SeqBnConfig(reduction_factor=4).to_dict()


def task_heads(size):
    """name -> (kind of labels, setup)"""
    head = lambda **changes: ("class", setup_of(BELOW, classification(3, **changes)))
    multilabel = lambda **changes: (
        "multilabel", setup_of(BELOW, classification(4, head_type="multilabel_classification", **changes))
    )  # fmt: skip
    alone = lambda base: setup_of(train={"base": base})
    lm = masked_lm(size)
    two = {"a": classification(3), "b": classification(4, layers=1)}
    prompt = PromptTuningConfig(prompt_length=3).to_dict()
    return {
        "head alone": ("class", alone("none")),
        "bias only": ("class", alone("bias")),
        "full": ("class", alone("all")),
        "1 layer": head(layers=1),
        "3 layers": head(layers=3, activation_function="relu"),
        "2 layers gelu": head(activation_function="gelu"),
        "2 layers without activation": head(activation_function=None),
        "without bias": head(bias=False),
        "pooler": head(use_pooler=True),
        "mean": head(pooling="mean"),
        "mean over a prompt": ("class", setup_of(prompt, classification(3, pooling="mean"))),
        "multilabel": multilabel(),
        "multilabel 1 layer": multilabel(layers=1),
        "regression": ("float", setup_of(BELOW, classification(1))),
        "frozen head": ("class", setup_of(BELOW, train={"heads": []})),
        "one of two heads": ("class", setup_of(BELOW, heads=two, active_heads=["b"], train={"heads": ["b"]})),
        "masked_lm": ("tokens", setup_of(BELOW, lm)),
        "masked_lm frozen": ("tokens", setup_of(LoRAConfig(r=2).to_dict(), lm, train={"heads": []})),
        "masked_lm over an invertible adapter": ("tokens", setup_of(SeqBnInvConfig(reduction_factor=4).to_dict(), lm)),
        "masked_lm over a prompt": ("tokens", setup_of(prompt, lm)),
        "masked_lm full": ("tokens", setup_of(None, lm, train={"base": "all"})),
    }
