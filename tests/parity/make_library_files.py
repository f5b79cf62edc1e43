"""Writes tests/fixtures/library-files.json: config texts and tensor shapes that the real `adapters` (1.3.0) and the
portable PEFT form give for a small model, against which io/ is held.

python tests/parity/make_library_files.py
"""

import json
import tempfile
from pathlib import Path

import torch
from adapters import LoRAConfig, RobertaAdapterModel, SeqBnConfig
from transformers import RobertaConfig

fixtures = Path(__file__).parent.parent / "fixtures"
sizes = dict(vocab_size=100, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24)
configs = {
    "seq_bn": SeqBnConfig(reduction_factor=4, leave_out=[1]),
    "lora": LoRAConfig(r=2, alpha=16),
    "lora_all": LoRAConfig(
        r=3, alpha=6, dropout=0.25, attn_matrices=["q", "k", "v"], intermediate_lora=True, output_lora=True, leave_out=[0]
    ),
}
labels = ["negative", "positive", "très “bien” 🙂"]
files = {}
for name, config in configs.items():
    base = RobertaConfig(**sizes, name_or_path="someone/tiny-roberta")
    base._name_or_path = "someone/tiny-roberta"
    model = RobertaAdapterModel(base)
    model.add_adapter("reviews", config=config)
    model.add_classification_head("reviews", num_labels=3, id2label=dict(enumerate(labels)))
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, "reviews", with_head=True)
        for file in ["adapter_config.json", "head_config.json"]:
            files[f"{name}/{file}"] = (Path(folder) / file).read_text(encoding="utf-8")
        shapes = {}
        for file in ["pytorch_adapter.bin", "pytorch_model_head.bin"]:
            state = torch.load(Path(folder) / file, weights_only=True)
            shapes |= {key: list(value.shape) for key, value in state.items()}
        files[f"{name}/shapes"] = json.dumps(shapes)
portable = {
    "base_model_name_or_path": "someone/tiny-roberta",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "modules_to_save": ["classifier"],
    "peft_type": "LORA",
    "r": 8,
    "revision": None,
    "target_modules": ["query", "value"],
    "task_type": "SEQ_CLS",
}
files["peft/adapter_config.json"] = json.dumps(portable, indent=2, sort_keys=True)
(fixtures / "library-files.json").write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
