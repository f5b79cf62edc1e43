"""Every composition block on every method that the library lets it stand on, as the app's ModelSetup."""

from adapters import (
    BnConfig,
    DoRAConfig,
    DoubleSeqBnConfig,
    DynamicAdapterFusionConfig,
    IA3Config,
    LoRAConfig,
    NoReftConfig,
    ParBnConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    SeqBnConfig,
    SeqBnInvConfig,
    StaticAdapterFusionConfig,
)

from models import classification, setup_of

ROWS, TOKENS = 5, 11  # of the batch that every composition is given

BOTTLENECKS = {
    "a": SeqBnConfig(reduction_factor=4),
    "b": SeqBnConfig(reduction_factor=2, non_linearity="gelu"),
    "c": SeqBnConfig(reduction_factor=8, original_ln_before=False),
}
DOUBLE = {name: DoubleSeqBnConfig(reduction_factor=r) for name, r in (("a", 4), ("b", 2))}
PARALLEL = {name: ParBnConfig(reduction_factor=r) for name, r in (("a", 4), ("b", 2))}
LORAS = {
    "a": LoRAConfig(r=2, alpha=1, attn_matrices=["k", "v"], intermediate_lora=True),
    "b": LoRAConfig(r=3, alpha=2, attn_matrices=["k", "v"], intermediate_lora=True),
    "c": LoRAConfig(r=2, alpha=3, attn_matrices=["k", "v"], intermediate_lora=True),
}
UNLIKE = {"a": LoRAConfig(r=2, alpha=1, attn_matrices=["q", "k"], intermediate_lora=True), "b": LoRAConfig(r=2, alpha=1)}
SQUARE = {name: LoRAConfig(r=r, alpha=1) for name, r in (("a", 2), ("b", 3))}
IA3S = {name: IA3Config() for name in "ab"}
PREFIXES = {
    "a": PrefixTuningConfig(prefix_length=3, bottleneck_size=5),
    "b": PrefixTuningConfig(prefix_length=3, flat=True),
    "c": PrefixTuningConfig(prefix_length=2, flat=True, use_gating=True),
}


def block(kind, *children, **fields):
    return {"type": kind, "children": list(children), **fields}


def stack(*children):
    return block("Stack", *children)


def average(*children, weights=None, normalize_weights=True):
    return block("Average", *children, weights=weights, normalize_weights=normalize_weights)


def split(*children):
    sizes = [TOKENS - 3 * (len(children) - 1), *[3] * (len(children) - 1)]
    return block("Split", *children, splits=sizes)


def batch_split(*children):
    return block("BatchSplit", *children, batch_sizes=[ROWS - len(children) + 1, *[1] * (len(children) - 1)])


def parallel(*children):
    return block("Parallel", *children)


def fuse(*children):
    return block("Fuse", *children)


def composed(configs, active, **changes):
    """All adapters of `active` train unless `changes` has another `train`."""
    used = {name: config.to_dict() for name, config in configs.items() if name in names_in(active)}
    return setup_of(adapters=used, active=active, **changes)


def names_in(setup):
    return {setup} if isinstance(setup, str) else set().union(*map(names_in, setup["children"]))


def two_heads(*names):
    return {"heads": {name: classification(2 + i) for i, name in enumerate(names)}, "active_heads": list(names)}


def fused(configs, active, key, config=None, adapters=()):
    fusions = {key: (config or DynamicAdapterFusionConfig()).to_dict()}
    return composed(configs, active, fusions=fusions, train={"adapters": list(adapters)})


def stacks():
    two = stack("a", "b")
    gated = {"a": LoRAConfig(r=2, use_gating=True), "b": LoRAConfig(r=3, use_gating=True)}
    return {
        "Stack": composed(BOTTLENECKS, stack("a", "b", "c")),
        "Stack, first frozen": composed(BOTTLENECKS, two, train={"adapters": ["b"]}),
        "Stack, last frozen": composed(BOTTLENECKS, two, train={"adapters": ["a"]}),
        "Stack of one at both places and one at one": composed({"a": DOUBLE["a"], "b": BOTTLENECKS["b"]}, two),
        "Stack of par_bn": composed(PARALLEL, two),
        "Stack of seq_bn and par_bn": composed({"a": BOTTLENECKS["a"], "b": PARALLEL["b"]}, two),
        "Stack of par_bn and seq_bn": composed({"a": PARALLEL["a"], "b": BOTTLENECKS["b"]}, two),
        "Stack of lora and seq_bn": composed({"a": LORAS["a"], "b": BOTTLENECKS["b"]}, two),
        "Stack of invertible": composed(
            {name: SeqBnInvConfig(reduction_factor=4) for name in "ab"}, two, train={"adapters": ["a"]}
        ),
        "Stack of noreft and seq_bn": composed(
            {"a": NoReftConfig(dropout=0.0, suffix_positions=1), "b": BOTTLENECKS["b"]}, two
        ),
        "Stack of seq_bn and noreft": composed(
            {"a": BOTTLENECKS["b"], "b": NoReftConfig(dropout=0.0, suffix_positions=1)}, two
        ),
        "Stack of prompt and seq_bn": composed(
            {"a": PromptTuningConfig(prompt_length=2), "b": BOTTLENECKS["b"]}, two
        ),
        "Stack of lora": composed(SQUARE, two),
        "Stack of unlike lora": composed(UNLIKE, two),
        "Stack of lora, first frozen": composed(SQUARE, two, train={"adapters": ["b"]}),
        "Stack of gated lora": composed(gated, two),
        "Stack of ia3": composed(IA3S, two),
        "Stack of prefix_tuning": composed(PREFIXES, stack("a", "c", "b")),
    }  # fmt: skip


def fusions():
    pair = fuse("a", "b")
    bottlenecks = {name: BOTTLENECKS[name] for name in "ab"}
    plain = lambda **changes: DynamicAdapterFusionConfig(**changes)
    return {
        "Fuse": fused(bottlenecks, pair, "a,b"),
        "Fuse static": fused(bottlenecks, pair, "a,b", StaticAdapterFusionConfig()),
        "Fuse of three": fused(BOTTLENECKS, fuse("a", "b", "c"), "a,b,c"),
        "Fuse, its members trained too": fused(bottlenecks, pair, "a,b", adapters="ab"),
        "Fuse query_before_ln": fused(bottlenecks, pair, "a,b", plain(query_before_ln=True)),
        "Fuse residual_before": fused(bottlenecks, pair, "a,b", plain(residual_before=True)),
        "Fuse value after softmax": fused(bottlenecks, pair, "a,b", plain(value_before_softmax=False)),
        "Fuse without key": fused(bottlenecks, pair, "a,b", plain(key=False)),
        "Fuse at both places": fused(DOUBLE, pair, "a,b"),
        "Fuse of par_bn": fused(PARALLEL, pair, "a,b"),
        "Fuse of Stack": fused(BOTTLENECKS, fuse(stack("a", "b"), "c"), "b,c", adapters="abc"),
        "Stack with Fuse": fused(BOTTLENECKS, stack("a", fuse("b", "c")), "b,c", adapters="a"),
    }


def splits():
    return {
        "Split": composed(BOTTLENECKS, split("a", "b", "c")),
        "Split at both places": composed(DOUBLE, split("a", "b")),
        "Split of Stack": composed(BOTTLENECKS, split(stack("a", "b"), "c")),
        "Split of Average": composed(BOTTLENECKS, split("a", average("b", "c"))),
        "Split of BatchSplit": composed(BOTTLENECKS, split("a", batch_split("b", "c"))),
        "Stack with Split": composed(BOTTLENECKS, stack("a", split("b", "c"))),
        "BatchSplit": composed(BOTTLENECKS, batch_split("a", "b", "c")),
        "BatchSplit with two heads": composed(BOTTLENECKS, batch_split("a", "b"), **two_heads("a", "b")),
        "BatchSplit of Stack": composed(BOTTLENECKS, batch_split(stack("a", "b"), "c")),
        "BatchSplit of Split": composed(BOTTLENECKS, batch_split(split("a", "b"), "c")),
        "BatchSplit of Average": composed(BOTTLENECKS, batch_split(average("a", "b"), "c")),
        "BatchSplit of lora": composed(LORAS, batch_split("a", "b", "c")),
        "BatchSplit of lora Stack": composed(
            {**SQUARE, "c": LoRAConfig(r=2, alpha=1)}, batch_split(stack("a", "b"), "c")
        ),
        "BatchSplit of ia3": composed(IA3S, batch_split("a", "b")),
        "BatchSplit of prefix_tuning": composed(PREFIXES, batch_split("a", "b")),
    }  # fmt: skip


def replications():
    both, three = two_heads("a", "b"), two_heads("b", "c")
    return {
        "Parallel": composed(BOTTLENECKS, parallel("a", "b"), **both),
        "Parallel at both places": composed(DOUBLE, parallel("a", "b"), **both),
        "Parallel of Stack": composed(BOTTLENECKS, parallel(stack("a", "b"), "c"), **three),
        "Parallel of Average": composed(BOTTLENECKS, parallel(average("a", "b"), "c"), **three),
        "Stack with Parallel": composed(BOTTLENECKS, stack("a", parallel("b", "c")), **three),
        "Parallel of lora": composed(LORAS, parallel("a", "b"), **both),
        "Parallel of prefix_tuning": composed(PREFIXES, parallel("a", "b"), **both),
    }


def averages():
    uneven = average("a", "b", weights=[0.3, 0.7])
    return {
        "Average": composed(BOTTLENECKS, average("a", "b", "c")),
        "Average with weights": composed(BOTTLENECKS, average("a", "b", weights=[1.0, 3.0])),
        "Average not normalised": composed(
            BOTTLENECKS, average("a", "b", weights=[1.0, 3.0], normalize_weights=False)
        ),
        "Average of Stack": composed(BOTTLENECKS, average(stack("a", "b"), "c", weights=[0.5, 0.5])),
        "Average of Split": composed(BOTTLENECKS, average(split("a", "b"), "c")),
        "Average of BatchSplit": composed(BOTTLENECKS, average(batch_split("a", "b"), "c")),
        "Stack with Average": composed(BOTTLENECKS, stack("a", average("b", "c", weights=[0.4, 0.6]))),
        "Average of par_bn": composed(PARALLEL, uneven),
        "Average of lora": composed(LORAS, uneven),
        "Average of ia3": composed(IA3S, uneven),
    }  # fmt: skip


def dropped():
    """AdapterDrop at run time, where the model has a second layer."""
    bottleneck = BnConfig(mh_adapter=True, output_adapter=True, reduction_factor=4, non_linearity="relu")
    found = {
        "bn": bottleneck, "lora": LORAS["a"], "prefix_tuning": PREFIXES["a"], "ia3": IA3S["a"],
        "dora": DoRAConfig(r=2), "noreft": NoReftConfig(dropout=0.0),
    }  # fmt: skip
    return {f"skip_layers of {name}": setup_of(config.to_dict(), skip_layers=[0]) for name, config in found.items()}


def compositions():
    return {**stacks(), **fusions(), **splits(), **replications(), **averages(), **dropped()}
