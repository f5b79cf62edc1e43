"""Loads an export of the app into the real libraries, as a user would, and says how far the numbers are apart.

    python reload.py MODEL_DIR EXPORT_DIR [BATCH.json DUMP.json]

EXPORT_DIR is the unpacked zip: adapterhub/, peft/ for LoRA, tokenizer/, predict.py with the app's own logits. DUMP is
what `npm run trial -- --dump` made of BATCH. Prints one line of JSON, a list of {what, worst, limit}.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import torch
from adapters import AutoAdapterModel
from peft import PeftModel
from transformers import PreTrainedTokenizerFast, RobertaForSequenceClassification

LIMIT = 1e-4


def load_adapterhub(base, folder):
    """Default arguments throughout."""
    model = AutoAdapterModel.from_pretrained(base)
    if (folder / "adapter_config.json").exists():
        name = model.load_adapter(str(folder))
        model.set_active_adapters(name)
        model.train_adapter(name)
    else:
        _, name = model.load_head(str(folder))
        model.freeze_model(True)
        model.active_head = name
    return model.eval()


def load_peft(base, folder, num_labels):
    model = RobertaForSequenceClassification.from_pretrained(base, num_labels=num_labels)
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


def compare_texts(what, model, export):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(export / "tokenizer")
    max_length = json.loads((export / "run.json").read_text())["max_length"]
    expected = expected_logits(export / "predict.py")
    encode = lambda text: tokenizer(
        text, truncation=True, max_length=max_length, return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        found = torch.cat([model(**encode(text)).logits for text in expected])
    return apart(what, found, list(expected.values()))


def compare_dump(model, batch, dump):
    """Logits, loss, hidden state and gradients; gradients relative to the largest of their tensor."""
    found = model(**{key: torch.tensor(value) for key, value in batch.items()}, output_hidden_states=True)
    found.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == dump["grads"].keys(), grads.keys() ^ dump["grads"].keys()
    worst = max(
        (apart(name, grad, dump["grads"][name], grad.abs().max().clamp(min=1e-30).item()) for name, grad in grads.items()),
        key=lambda difference: difference["worst"],
    )
    return [
        apart("dumped logits", found.logits, dump["logits"]),
        apart("loss", found.loss, dump["loss"]),
        apart("hidden", found.hidden_states[-1], dump["last_hidden_state"]),
        {**worst, "what": "grads"},
    ]


def main(base, export, *files):
    export = Path(export)
    model = load_adapterhub(base, export / "adapterhub")
    differences = [compare_texts("adapters", model, export)]
    if (export / "peft").exists():
        labels = json.loads((export / "label_map.json").read_text())["id2label"]
        differences.append(compare_texts("peft", load_peft(base, export / "peft", len(labels)), export))
    if files:
        batch, dump = (json.loads(Path(file).read_text()) for file in files)
        differences += compare_dump(model, batch, dump)
    script = subprocess.run([sys.executable, export / "predict.py", base], capture_output=True, text=True)
    if script.returncode != 0:
        raise SystemExit(f"predict.py failed:\n{script.stderr}")
    print(json.dumps(differences))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
