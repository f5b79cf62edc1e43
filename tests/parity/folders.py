"""Loads folders that the app wrote for every method, head and setup into the real libraries, with default arguments.

    python folders.py DIR

DIR/base.json holds the sizes of the model, DIR/{case}/written/ what the app wrote: an adapter, a head or a setup, and
beside it peft/ where there is one. For each case: every tensor of the .bin is in the model bit for bit, the keys are
those that the library itself saves, the safetensors form and PEFT give the same logits, and what the library saves
again goes to DIR/{case}/again/ for the app to read. Prints one line of JSON for each case: {case, faults, worst}.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

import torch
from adapters import AutoAdapterModel
from peft import PeftModel
from transformers import RobertaConfig, RobertaForSequenceClassification, RobertaModel

WEIGHTS = {
    "adapter_config.json": "pytorch_adapter.bin",
    "head_config.json": "pytorch_model_head.bin",
    "adapter_fusion_config.json": "pytorch_model_adapter_fusion.bin",
}


def make_base(folder, sizes):
    torch.manual_seed(5)
    config = RobertaConfig(**sizes, num_attention_heads=2, pad_token_id=1, layer_norm_eps=1e-5)
    RobertaModel(config).save_pretrained(folder)


def load(base, folder, **options):
    model, info = AutoAdapterModel.from_pretrained(base), {}
    if (folder / "adapter_setup.json").exists():
        model.load_adapter_setup(str(folder), set_active=True, **options)
    elif (folder / "adapter_config.json").exists():
        model.load_adapter(str(folder), set_active=True, loading_info=info, **options)
    else:
        _, name = model.load_head(str(folder), loading_info=info, **options)
        model.active_head = name
    return model.eval(), info


def is_own(folder):
    """A head on the mean of the tokens, which only the app has: the library must refuse it, not misread it."""
    heads = [json.loads(path.read_text()) for path in folder.rglob("head_config.json")]
    return any("pooling" in head["config"] for head in heads)


def outputs(model, rows=3):
    """Logits of a padded batch; of a model without a head its last hidden state."""
    ids = torch.arange(rows * 8).reshape(rows, 8) % 90 + 5
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = 1, 0
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask)
    if not hasattr(out, "head_outputs") and not hasattr(out, "logits"):
        return out[0]
    return torch.cat([part.logits.flatten() for part in getattr(out, "head_outputs", [out])])


def configs(folder):
    """Every configuration in the folder, with the weights beside it."""
    for path in sorted(folder.rglob("*.json")):
        if path.name in WEIGHTS:
            yield path.name, json.loads(path.read_text()), path.parent / WEIGHTS[path.name]


def check_tensors(model, folder):
    """What is in the files is in the model, under the same names."""
    state, faults = model.state_dict(), []
    for _, _, weights in configs(folder):
        for key, tensor in torch.load(weights, weights_only=True).items():
            if key not in state:
                faults.append(f"{key} is nowhere in the model")
            elif not torch.equal(state[key], tensor):
                faults.append(f"{key} has other values in the model")
    return faults


def check_keys(model, folder):
    """The library's own file of the same thing has the same names, but for the decoder, which is the word table."""
    faults = []
    for kind, config, weights in configs(folder):
        with tempfile.TemporaryDirectory() as own:
            save(model, kind, config["name"], own)
            theirs = {key for key in torch.load(Path(own) / weights.name, weights_only=True)}
            if kind != "adapter_fusion_config.json":
                theirs = {key for key in theirs if f".{config['name']}." in f".{key}"}
            mine = json.loads((Path(own) / kind).read_text())
        ours = set(torch.load(weights, weights_only=True))
        if config["config"].get("head_type") == "masked_lm":
            theirs.discard(f"heads.{config['name']}.3.weight")
        faults += [f"{key} is not in our file" for key in sorted(theirs - ours)]
        faults += [f"{key} is only in our file" for key in sorted(ours - theirs)]
        faults += [f"{field} is {config['config'].get(field)!r}, not {value!r}" for field, value in mine["config"].items()
                   if json.dumps(config["config"].get(field)) != json.dumps(value)]  # fmt: skip
    return faults


def save(model, kind, name, folder):
    if kind == "adapter_config.json":
        model.save_adapter(folder, name, with_head=False)
    elif kind == "head_config.json":
        model.save_head(folder, name)
    else:
        model.save_adapter_fusion(folder, name)


def save_again(model, folder, again):
    setup = folder / "adapter_setup.json"
    if setup.exists():
        head = model.active_head
        model.save_adapter_setup(str(again), model.active_adapters, head_setup=head)
        return
    for kind, config, _ in configs(folder):
        save(model, kind, config["name"], str(again))


def forgets(folder):
    """The library takes an average's weights as they are when told to, but does not write that down again."""
    setup = folder / "adapter_setup.json"
    return setup.exists() and "normalize_weights" in setup.read_text()


def apart(a, b):
    return (a - b).abs().max().item()


def check_peft(base, folder, model):
    """The PEFT folder on the plain class gives what the adapter gives here."""
    config = json.loads((folder / "adapter_config.json").read_text())
    torch.manual_seed(7)
    if config["task_type"] == "SEQ_CLS":
        labels = model.heads[model.active_head].config["num_labels"]
        plain = RobertaForSequenceClassification.from_pretrained(base, num_labels=labels)
    else:
        plain = RobertaModel.from_pretrained(base)
    return apart(outputs(PeftModel.from_pretrained(plain, str(folder)).eval()), outputs(model))


def check(base, case):
    folder, faults, worst = case / "written", [], {}
    if is_own(folder):
        try:
            load(base, folder)
            return {"faults": ["a head that the library has not was loaded"], "worst": {}}
        except TypeError:
            return {"faults": [], "worst": {"refused": 0.0}}
    model, info = load(base, folder)
    missing = [key for key in info.get("missing_keys", []) if not key.endswith(".3.weight")]
    faults += [f"{key} was missed" for key in missing]
    faults += [f"{key} was not expected" for key in info.get("unexpected_keys", [])]
    faults += check_tensors(model, folder) + check_keys(model, folder)
    expected = outputs(model)
    worst["safetensors"] = apart(outputs(load(base, folder, use_safetensors=True)[0]), expected)
    save_again(model, folder, case / "again")
    if not forgets(folder):
        worst["saved again"] = apart(outputs(load(base, case / "again")[0]), expected)
    if (case / "peft").exists():
        worst["peft"] = check_peft(base, case / "peft", model)
    return {"faults": faults, "worst": worst}


def main(root):
    sizes = json.loads((root / "base.json").read_text())
    with tempfile.TemporaryDirectory() as base:
        make_base(base, sizes)
        for case in sorted(path for path in root.iterdir() if path.is_dir()):
            (case / "again").mkdir(exist_ok=True)
            try:
                result = check(base, case)
            except Exception as error:  # one case must not hide the others
                result = {"faults": [f"{type(error).__name__}: {error}"], "worst": {}}
            print(json.dumps({"case": case.name, **result}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
