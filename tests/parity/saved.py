"""Folders as the libraries themselves save them, on tiny-roberta, with the logits that they give: what the app imports."""

import shutil

import adapters
import torch
from adapters import AdapterConfig
from peft import LoraConfig, get_peft_model
from transformers import RobertaForSequenceClassification

from forward import batch, inputs
from models import NAME, classification, config_of, fill, lora, seq_bn, setup_of, trainable, with_setup
from store import FIXTURES, made_up, tensor, write

SIZE = "tiny-roberta"
LABELS = {0: "bad", 1: "fine", 2: "good"}
FOLDER = FIXTURES / "saved"


def logits(model, host):
    with torch.no_grad():
        return tensor(model(**inputs(host)).logits)


def save_flexible(name, adapter, host, **kwargs):
    """An adapter and head of RobertaAdapterModel."""
    model = with_setup(SIZE, setup_of(adapter, classification(len(LABELS))))
    model.heads[NAME].config["label2id"] = {label: i for i, label in LABELS.items()}
    model.save_adapter(str(FOLDER / name), NAME, with_head=True, **kwargs)
    return logits(model, host)


def static_model():
    config = config_of(SIZE)
    config.id2label, config.label2id = LABELS, {label: i for i, label in LABELS.items()}
    return fill(RobertaForSequenceClassification(config)).eval()


def save_static(name, adapter, host):
    """An adapter on a plain Hugging Face classifier, whose head is saved in that class's own names."""
    model = static_model()
    adapters.init(model)
    model.add_adapter(NAME, config=AdapterConfig.load(adapter))
    model.train_adapter(NAME)
    fill(model).eval()
    model.save_adapter(str(FOLDER / name), NAME, with_head=True)
    return logits(model, host)


def save_peft(name, host, **kwargs):
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **kwargs)
    model = get_peft_model(static_model(), config).eval()
    with torch.no_grad():  # the base's weights have other names here and are as they should be
        for key, parameter in trainable(model).items():
            parameter.copy_(made_up(key, parameter.shape))
    model.save_pretrained(FOLDER / name)
    (FOLDER / name / "README.md").unlink()
    return logits(model, host)


def write_saved():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    host = batch("saved", 400, [12, 5, 8], len(LABELS))
    everything = lora(r=3, alpha=6, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True)
    found = {
        "seq_bn": save_flexible("seq_bn", seq_bn(), host),
        "seq_bn_safetensors": save_flexible("seq_bn_safetensors", seq_bn(leave_out=[1]), host, use_safetensors=True),
        "lora": save_flexible("lora", lora(), host),
        "lora_all": save_flexible("lora_all", everything, host),
        "static": save_static("static", seq_bn(reduction_factor=4), host),
        "peft_lora": save_peft("peft_lora", host, r=4, lora_alpha=16),
        "peft_rslora": save_peft("peft_rslora", host, r=4, lora_alpha=4, use_rslora=True),
    }
    for path in FOLDER.rglob("*.*"):
        path.chmod(0o644)
    write("saved/expected", {"model": SIZE, "id2label": list(LABELS.values()), **host, "logits": found})
