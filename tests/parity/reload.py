"""Loads an export of the app into the real libraries, as a user would, and says how far the numbers are apart.

    python reload.py MODEL_DIR EXPORT_DIR [--dump BATCH.json DUMP.json] [--predictions PREDICTIONS.json]

EXPORT_DIR is the unpacked zip: adapterhub/ (an adapter, a head or a setup), peft/ for LoRA and IA3, model/ for a model
trained itself, tokenizer/, predict.py with the app's own logits. DUMP is what `npm run trial -- --dump` made of BATCH;
PREDICTIONS holds `texts` and the `scores` that the page showed for them. Prints one line of JSON, a list of {what,
worst, limit}. The folders of every method, head and setup are checked by folders.py.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import torch
from adapters import AutoAdapterModel
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaForSequenceClassification,
    RobertaModel,
)

LIMIT = 1e-4


def load_adapterhub(base, folder):
    """Default arguments throughout; a folder without adapterhub/ is a whole model."""
    if not folder.exists():
        return AutoModelForSequenceClassification.from_pretrained(folder.parent / "model").eval()
    model = AutoAdapterModel.from_pretrained(base)
    if (folder / "adapter_setup.json").exists():
        model.load_adapter_setup(str(folder), set_active=True)
    elif (folder / "adapter_config.json").exists():
        name = model.load_adapter(str(folder))
        model.set_active_adapters(name)
        model.train_adapter(name)
    else:
        _, name = model.load_head(str(folder))
        model.freeze_model(True)
        model.active_head = name
    return model.eval()


def load_peft(base, folder, num_labels):
    """On a plain classifier, or for an adapter without a head on the plain model."""
    classifier = json.loads((folder / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    options = {"num_labels": num_labels} if classifier else {}
    model = (RobertaForSequenceClassification if classifier else RobertaModel).from_pretrained(base, **options)
    return PeftModel.from_pretrained(model, folder).eval()


def expected_logits(script):
    """The table `expected` of predict.py, as data."""
    for statement in ast.parse(script.read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "expected":
            return ast.literal_eval(statement.value)
    raise SystemExit(f"{script} has no expected logits")


def apart(what, found, expected, scale=1.0):
    expected = torch.tensor(expected)
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    return {"what": what, "worst": ((found - expected).abs().max() / scale).item(), "limit": LIMIT}


def logits_of(model, export, texts):
    """With the tokenizer and the length that the export names."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(export / "tokenizer")
    options = {"truncation": True, "max_length": json.loads((export / "run.json").read_text())["max_length"]}
    encode = lambda text: tokenizer(text, **options, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = [model(**encode(text)) for text in texts]
    return torch.cat([torch.cat([part.logits for part in getattr(one, "head_outputs", [one])], -1) for one in found])


def compare_expected(what, model, export):
    expected = expected_logits(export / "predict.py")
    return apart(what, logits_of(model, export, expected), list(expected.values()))


def compare_predictions(model, export, predictions, id2label):
    """Scores by label, whatever order the page showed them in."""
    by_label = [{entry["label"]: entry["score"] for entry in scores} for scores in predictions["scores"]]
    expected = [[scores[label] for label in id2label.values()] for scores in by_label]
    return apart("scores of the page", logits_of(model, export, predictions["texts"]).softmax(-1), expected)


def compare_dump(model, batch, dump):
    """Logits, loss, hidden state and gradients: relative to the largest of their tensor, or to a thousandth of the
    largest of all where theirs is smaller. The app has no gradient for what nothing reaches; the library has zeros.
    """
    found = model(**{key: torch.tensor(value) for key, value in batch.items()}, output_hidden_states=True)
    found.loss.backward()
    pool = re.compile(r"encoder\.layer\.\d+\.attention\.self\.prefix_tuning\.pool\.")
    named = {pool.sub("prefix_tuning.", name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    grads = {name: grad for name, grad in named.items() if name in dump["grads"] or grad.abs().max() > 0}
    assert grads.keys() == dump["grads"].keys(), grads.keys() ^ dump["grads"].keys()
    least = 1e-3 * max(grad.abs().max().item() for grad in grads.values())
    worst = max(
        (apart(name, grad, dump["grads"][name], max(grad.abs().max().item(), least)) for name, grad in grads.items()),
        key=lambda difference: difference["worst"],
    )
    return [
        apart("dumped logits", found.logits, dump["logits"]),
        apart("loss", found.loss, dump["loss"]),
        apart("hidden", found.hidden_states[-1], dump["last_hidden_state"]),
        {**worst, "what": "grads"},
    ]


def main(base, export, dump, predictions):
    read = lambda path: json.loads(Path(path).read_text())
    if read(export / "run.json")["base"]["sha256"] != sha256((Path(base) / "model.safetensors").read_bytes()).hexdigest():
        raise SystemExit(f"{export} was made on other weights than those in {base}: export it again")
    labels = export / "label_map.json"
    id2label = read(labels)["id2label"] if labels.exists() else {}
    # A head on the mean of the tokens is ours alone: predict.py computes it, and the library refuses it.
    own = any("pooling" in read(path)["config"] for path in export.glob("adapterhub/**/head_config.json"))
    model = None if own else load_adapterhub(base, export / "adapterhub")
    examples = expected_logits(export / "predict.py") and not own
    differences = [compare_expected("adapters", model, export)] if examples else []
    if examples and (export / "peft").exists():
        differences.append(compare_expected("peft", load_peft(base, export / "peft", len(id2label)), export))
    if dump:
        differences += compare_dump(model, *map(read, dump))
    if predictions:
        differences.append(compare_predictions(model, export, read(predictions), id2label))
    script = subprocess.run([sys.executable, export / "predict.py", base], capture_output=True, text=True)
    if script.returncode != 0:
        raise SystemExit(f"predict.py failed:\n{script.stderr}")
    print(json.dumps(differences))


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("export", type=Path)
    parser.add_argument("--dump", nargs=2)
    parser.add_argument("--predictions")
    main(**vars(parser.parse_args()))
