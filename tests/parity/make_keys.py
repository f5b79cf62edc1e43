"""Texts and keys of adapters' files on roberta-base's shapes, as the library makes them: tests/fixtures/keys/.

Of the keys, layers 0 and 11 and those of no layer are kept, with the count and the number of values of all. The names
under which a prefix stands in every layer besides its own are left out: they are one tensor.
"""

import json
import re
from math import prod

import adapters.composition as ac
from adapters import ADAPTER_CONFIG_MAP, AdapterPlusConfig, ParBnConfig, RobertaAdapterModel
from adapters.loading import AdapterFusionLoader, AdapterLoader
from adapters.configuration import build_full_config
from transformers import RobertaConfig

from store import FIXTURES

SIZES = dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
METHODS = ["seq_bn", "double_seq_bn", "par_bn", "scaled_par_bn", "seq_bn_inv", "double_seq_bn_inv", "compacter",
           "compacter++", "prefix_tuning", "prefix_tuning_flat", "prompt_tuning", "lora", "dora", "ia3", "loreft",
           "noreft", "mam", "unipelt"]  # fmt: skip
HEADS = {
    "classification": dict(head_type="classification", num_labels=2, id2label={0: "negative", 1: "positive"}),
    "classification_1layer_pooler": dict(
        head_type="classification", num_labels=2, layers=1, activation_function=None, use_pooler=True
    ),
    "multilabel_classification": dict(head_type="multilabel_classification", num_labels=3),
    "regression": dict(head_type="classification", num_labels=1),
    "masked_lm": dict(head_type="masked_lm"),
}


def text(config, indent=2, sort_keys=True):
    return json.dumps(config, indent=indent, sort_keys=sort_keys)


def shapes(state):
    return {key: list(value.shape) for key, value in state.items() if ".prefix_tuning.pool." not in key}


def kept(all_shapes):
    edges = {key: shape for key, shape in all_shapes.items() if not re.search(r"layer\.([1-9]|10)\.", key)}
    return {"count": len(all_shapes), "values": sum(map(prod, all_shapes.values())), "keys": edges}


def methods(model):
    configs = {name: ADAPTER_CONFIG_MAP[name] for name in METHODS}
    configs |= {"par_bn_rf6": ParBnConfig(reduction_factor=6), "adapterplus": AdapterPlusConfig(stochastic_depth=0.0)}
    found = {}
    for name, config in configs.items():
        model.add_adapter("sst2", config=config)
        state, full = AdapterLoader(model).save_to_state_dict("sst2")
        found[name] = {"adapter_config.json": text(full), **kept(shapes(state))}
        model.delete_adapter("sst2")
    return found


def heads(model):
    found = {}
    for name, config in HEADS.items():
        model.add_prediction_head_from_config("sst2", dict(config))
        head = model.heads["sst2"]
        full = build_full_config(
            head.config, model.config, name="sst2", model_name=model.model_name, model_class=type(model).__name__
        )
        state = {f"heads.sst2.{key}": value for key, value in head.state_dict().items()}
        found[name] = {"head_config.json": text(full), "keys": shapes(state)}
        model.delete_head("sst2")
    return found


def fusion(model):
    for name in ["sst2", "mnli"]:
        model.add_adapter(name, config="seq_bn")
    model.add_adapter_fusion(["sst2", "mnli"], "dynamic")
    return kept(shapes(AdapterFusionLoader(model).save_to_state_dict("sst2,mnli")[0]))


def setups():
    blocks = {
        "stack": ac.Stack("lang", "task_2"),
        "fuse": ac.Fuse("lang", "task_2"),
        "split": ac.Split("lang", "task_2", splits=[5, 3]),
        "batches": ac.BatchSplit("lang", "task_2", batch_sizes=[2, 1]),
        "average": ac.Average("lang", "task_2", weights=[0.25, 0.75]),
    }
    return {name: text({"adapter_setup": block.to_dict()}, sort_keys=False) for name, block in blocks.items()}


def main():
    config = RobertaConfig(**SIZES, name_or_path="roberta-base")
    model = RobertaAdapterModel(config)
    value = {"adapters": methods(model), "heads": heads(model), "fusion": fusion(model), "setups": setups()}
    path = FIXTURES / "keys" / "roberta-base.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
    print(f"{path.name}  {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
