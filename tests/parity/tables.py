"""Texts and numbers that are not tensors: the library's summary table and scikit-learn's metrics."""

import torch
from adapters import (
    AdapterConfig,
    AdapterPlusConfig,
    AutoAdapterModel,
    LoRAConfig,
    ParBnConfig,
    SeqBnConfig,
)
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from models import NAME, config_of
from store import uniform, write

PRESETS = """seq_bn double_seq_bn par_bn scaled_par_bn seq_bn_inv double_seq_bn_inv compacter compacter++ prefix_tuning
    prefix_tuning_flat lora dora ia3 prompt_tuning loreft noreft mam unipelt""".split()


def write_summaries():
    """`adapter_summary()` on roberta-base's shapes while the adapter trains, of every preset and a few others."""
    named = {name: AdapterConfig.load(name) for name in PRESETS}
    named |= {
        "seq_bn 2": SeqBnConfig(reduction_factor=2), "par_bn 6": ParBnConfig(reduction_factor=6),
        "adapterplus": AdapterPlusConfig(stochastic_depth=0.0),
        "lora all": LoRAConfig(attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True),
    }  # fmt: skip
    cases = []
    for name, config in named.items():
        with torch.device("meta"):
            model = AutoAdapterModel.from_config(config_of("roberta-base"))
            model.add_adapter(NAME, config=config)
        model.train_adapter(NAME)
        made = {"name": name, "adapter": config.to_dict(), "text": model.adapter_summary()}
        cases.append({**made, "rows": model.adapter_summary(as_dict=True)})
    write("summaries", {"name": NAME, "cases": cases})


def write_metrics():
    """Predictions good and bad, with classes that never occur or are never predicted (0); macro-F1 is over the others."""
    cases = []
    for name, C, n, missing_true, missing_predicted in [
        ("two classes", 2, 40, [], []),
        ("five classes", 5, 200, [], []),
        ("never true", 4, 30, [2], []),
        ("never predicted", 4, 30, [], [1]),
        ("neither", 4, 25, [3], [3]),
        ("one row", 3, 1, [], []),
    ]:
        true = choices(f"true {name}", n, [c for c in range(C) if c not in missing_true])
        guess = choices(f"guess {name}", n, range(C))
        lucky = uniform(f"lucky {name}", n) > 0
        allowed = [c for c in range(C) if c not in missing_predicted]
        predicted = [t if ok and t in allowed else allowed[g % len(allowed)] for t, g, ok in zip(true, guess, lucky)]
        classes = list(range(C))
        precision, recall, f1, support = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0)
        average = lambda how: f1_score(true, predicted, average=how, zero_division=0)
        cases.append(
            {"name": name, "num_labels": C, "labels": true, "predictions": predicted,
             "accuracy": accuracy_score(true, predicted), "f1_macro": average("macro"), "f1_micro": average("micro"),
             "precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist(), "support": support.tolist(),
             "confusion": confusion_matrix(true, predicted, labels=classes).tolist()}
        )  # fmt: skip
    write("metrics", {"cases": cases})


def choices(name, n, options):
    options = list(options)
    return [options[int((u * 0.5 + 0.5) * len(options))] for u in uniform(name, n)]
