"""Loads zips that the page exported (tests/e2e/exports.ts) into the real libraries with default arguments.

    python exported.py BASE DIR

DIR/{name}/ is an unpacked zip whose run stood on BASE. The logits that the page wrote into predict.py are held against
the library's, and against peft's where the zip has such a folder; predict.py itself must run. `effect` is how far the
logits move when nothing is active: loading that left an adapter as it was born, or out of the path, cannot look right.
Prints one line of JSON for each: {case, faults, worst, effect}.
"""

import contextlib
import io
import json
import logging
import runpy
import sys
import warnings
from hashlib import sha256
from pathlib import Path

import torch

from reload import compare_expected, expected_logits, load_adapterhub, load_peft, logits_of


def weights_of(base):
    return sha256((base / "model.safetensors").read_bytes()).hexdigest()


def faults_of(script, base):
    """Of `python predict.py BASE`, in this process: importing torch anew for each takes longer than all else."""
    before, sys.argv = sys.argv, [str(script), str(base)]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(script), run_name="__main__")
        return []
    except Exception as error:  # what was measured is told beside it
        return [f"predict.py: {type(error).__name__}: {error}"]
    finally:
        sys.argv = before


def moved(model, export, texts, found):
    model.set_active_adapters(None)
    return (logits_of(model, export, texts) - found).abs().max().item()


def check(base, export):
    if json.loads((export / "run.json").read_text())["base"]["sha256"] != weights_of(base):
        return {"faults": ["it was made on other weights: export it again"], "worst": {}, "effect": 0.0}
    texts = expected_logits(export / "predict.py")
    if not texts:
        return {"faults": ["predict.py has no expected logits"], "worst": {}, "effect": 0.0}
    model = load_adapterhub(base, export / "adapterhub")
    worst = {"adapters": compare_expected("adapters", model, export)["worst"]}
    effect = moved(model, export, texts, logits_of(model, export, texts))
    if (export / "peft").exists():
        labels = json.loads((export / "label_map.json").read_text())["id2label"]
        peft = load_peft(base, export / "peft", len(labels))
        worst["peft"] = compare_expected("peft", peft, export)["worst"]
    return {"faults": faults_of(export / "predict.py", base), "worst": worst, "effect": effect}


def main(base, root):
    for export in sorted(path.parent for path in root.glob("*/run.json")):
        try:
            result = check(base, export)
        except Exception as error:  # one must not hide the others
            result = {"faults": [f"{type(error).__name__}: {error}"], "worst": {}, "effect": 0.0}
        print(json.dumps({"case": export.name, **result}), flush=True)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
