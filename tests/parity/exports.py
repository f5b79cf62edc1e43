"""Opens what the app exports beside adapter folders, with nothing but the usual libraries.

    python exports.py DIR

DIR/{case}/ is a folder of the app: config.json, tokenizer files, model.safetensors for transformers where the adapter
folds into the weights, onnx/model.onnx for onnxruntime, and expected.json with a batch and the logits of the adapters
library. transformers must find every tensor and no other. onnxruntime is used where it is installed. Prints one line
of JSON for each case: {case, faults, worst}.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging, pipeline

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

TEXTS = ["The film was great.", "It stopped working after two weeks, and nobody could mend it. " * 9]


def furthest(found, expected):
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


def check_transformers(folder, expected):
    """Logits of the batch, and a pipeline's scores against the model's own softmax or sigmoid."""
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    faults = [f"{kind}: {names}" for kind, names in info.items() if names]
    if not type(model).__name__.endswith("ForSequenceClassification"):
        faults.append(f"opened as {type(model).__name__}")
    if model.num_labels != len(expected["logits"][0]):
        faults.append(f"{model.num_labels} labels")
    model.eval()
    with torch.no_grad():
        logits = model(**{key: torch.tensor(expected[key]) for key in ("input_ids", "attention_mask")}).logits
    worst = {"transformers": furthest(logits, expected["logits"])}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > model.config.vocab_size:  # a fixture model with another's tokenizer
        return faults, worst
    ids = tokenizer(TEXTS[1], truncation=True)["input_ids"]
    if len(ids) != expected["max_length"]:
        faults.append(f"the tokenizer cuts at {len(ids)}")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    labels = {one["label"] for one in classify(TEXTS, truncation=True)[0]}
    if labels != set(expected["labels"]):
        faults.append(f"labels {sorted(labels)}")
    return faults, worst


def check_onnx(folder, expected):
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {key: np.array(expected[key], np.int64) for key in ("input_ids", "attention_mask")}
    return furthest(session.run(["logits"], feed)[0], expected["logits"])


def main(root):
    logging.set_verbosity_error()
    for folder in sorted(path.parent for path in root.glob("*/expected.json")):
        expected = json.loads((folder / "expected.json").read_text())
        faults, worst = [], {}
        try:
            if (folder / "model.safetensors").exists():
                faults, worst = check_transformers(folder, expected)
            if onnxruntime is not None:
                worst["onnxruntime"] = check_onnx(folder, expected)
        except Exception as error:  # told as a fault of this case; the others go on
            faults.append(f"{type(error).__name__}: {error}")
        print(json.dumps({"case": folder.name, "faults": faults, "worst": worst}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
