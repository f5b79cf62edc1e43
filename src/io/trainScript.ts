/**
 * continue/train.py: the run again with the `adapters` library. The text is the same for every run; all that differs is
 * in run.json beside it. Batches, learning rates, initial values and what is evaluated are the tab's; where several
 * processes share the work, each batch is cut among them, so that a step stays the step that it was. What the tab did
 * for memory alone (parts of a batch, activations computed twice or kept in half precision) is left to the machine.
 */
export const trainScript = String.raw`"""Repeats a run of Adaptab with the adapters library.

    pip install -r requirements.txt
    accelerate launch train.py                      # one process for each GPU; a CPU works too
    accelerate launch train.py --base ./roberta-base --output_dir out --set bf16=true

run.json holds the run, *.jsonl the rows in their splits, tokenizer/ the tokenizer. Dropout draws other masks than in
the browser; everything else that is random (initial values, order of the rows) comes from the same seed.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path

import adapters
import adapters.composition
import numpy as np
import torch
from adapters import AdapterConfig, AdapterFusionConfig, AdapterTrainer, AutoAdapterModel
from adapters.heads import ClassificationHead, MultiLabelClassificationHead
from torch.utils.data import DataLoader
from transformers import AutoConfig, EarlyStoppingCallback, PreTrainedTokenizerFast
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import cached_file

HERE = Path(__file__).resolve().parent
RUN = json.loads((HERE / "run.json").read_text(encoding="utf-8"))
ARGS, HEAD, NAME = RUN["args"], RUN["head"], RUN["name"]
METHOD = RUN["adapter"].get("architecture")
OF_THE_LIBRARY = METHOD not in ("head", "bitfit", "full")
ACTIVE = RUN["active"] or (NAME if OF_THE_LIBRARY else None)
KIND = "multilabel" if HEAD["head_type"].startswith("multilabel") else "number" if HEAD["num_labels"] == 1 else "class"


def read_rows(split):
    """Rows of a split: text, text_pair, label."""
    lines = (HERE / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def encode(rows, tokenizer):
    """Token ids, cut to max_length, and the label as the head's loss wants it."""
    label = float if KIND == "number" else int if KIND == "class" else lambda values: [float(v) for v in values]
    encoded = []
    for row in rows:
        ids = tokenizer(row["text"], row["text_pair"], truncation=True, max_length=ARGS["max_length"])["input_ids"]
        encoded.append({"input_ids": ids, "labels": label(row["label"])})
    return encoded


class Collator:
    """Pads to the longest row of the batch and no further, as the run did: gates see the padding."""

    def __init__(self, pad_token_id):
        self.pad = pad_token_id

    def __call__(self, rows):
        length = max(len(row["input_ids"]) for row in rows)
        fill = lambda row, value: [value] * (length - len(row["input_ids"]))
        dtype = torch.long if KIND == "class" else torch.float
        return {
            "input_ids": torch.tensor([row["input_ids"] + fill(row, self.pad) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + fill(row, 0) for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows], dtype=dtype),
        }


class Batches:
    """The batches of each epoch, in the run's own order; with several processes a short one goes to the end."""

    drop_last = False

    def __init__(self, rows, batch_size, processes):
        self.lengths = [len(row["input_ids"]) for row in rows]
        self.batch_size, self.processes, self.epoch = batch_size, processes, 0

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(ARGS["seed"] + self.epoch)
        self.epoch += 1
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        if ARGS["group_by_length"]:
            window = 50 * ARGS["per_device_train_batch_size"]
            windows = [order[i : i + window] for i in range(0, len(order), window)]
            order = [i for part in windows for i in sorted(part, key=lambda i: -self.lengths[i])]
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        if ARGS["group_by_length"]:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        if self.processes > 1:
            batches.sort(key=len, reverse=True)
        yield from batches


def metrics_of(prediction):
    """Accuracy and F1; macro over the classes that occur, or over all of several labels, which count from logit 0 on."""
    logits, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
    if KIND == "number":
        errors = logits.reshape(-1) - labels.reshape(-1)
        return {"mse": float(np.mean(errors**2)), "mae": float(np.mean(np.abs(errors)))}
    classes = HEAD["num_labels"]
    found = logits >= 0 if KIND == "multilabel" else np.eye(classes, dtype=bool)[logits.argmax(-1)]
    truth = labels > 0.5 if KIND == "multilabel" else np.eye(classes, dtype=bool)[labels]
    hits, claimed, real = (found & truth).sum(0), found.sum(0), truth.sum(0)
    present = (claimed + real > 0) | (KIND == "multilabel")
    f1 = 2 * hits[present] / np.maximum(claimed + real, 1)[present]
    micro = 2 * hits.sum() / max(claimed.sum() + real.sum(), 1)
    accuracy = (found == truth).all(-1).mean()
    return {"accuracy": float(accuracy), "f1_macro": float(f1.mean()), "f1_micro": float(micro)}


def loss_of(prediction):
    """Mean loss of all rows, by the head's own formula."""
    logits, labels = torch.tensor(prediction.predictions), torch.tensor(prediction.label_ids)
    if KIND == "number":
        return torch.nn.functional.mse_loss(logits.view(-1), labels.view(-1)).item()
    if KIND == "multilabel":
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    return torch.nn.functional.cross_entropy(logits, labels).item()


def composition(setup):
    """adapters.composition blocks of the run's setup; a name alone is that adapter."""
    if isinstance(setup, str):
        return setup
    options = {key: value for key, value in setup.items() if key not in ("type", "children") and value is not None}
    block = getattr(adapters.composition, setup["type"])
    return block(*[composition(child) for child in setup["children"]], **options)


def check_base(path, given):
    """Stops for other weights than the run's: an adapter is of no use on them."""
    wanted = RUN["base"]["sha256"]
    file = cached_file(path, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    if wanted is None or file is None or given.any_base:
        return
    found = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    if found != wanted:
        raise SystemExit(f"{path} holds other weights than the run's (SHA-256 {found[:12]} instead of {wanted[:12]}); "
                         "give the right folder with --base, or --any_base to go on all the same.")


def build_model(given):
    """The base, the kept adapters of the setup, the run's own adapter and its head, drawn from the seed."""
    base = given.base or (str(HERE / "model") if (HERE / "model").is_dir() else RUN["base"]["name"])
    check_base(base, given)
    config = AutoConfig.from_pretrained(base)
    if not ARGS["base_dropout"]:
        # The head keeps the rate that it would have had.
        if config.classifier_dropout is None:
            config.classifier_dropout = config.hidden_dropout_prob
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    model = AutoAdapterModel.from_pretrained(base, config=config, dtype=torch.float32)
    model.config.tokenizer_name_or_path = str(HERE / "tokenizer")
    for member in RUN["members"]:
        folder = str(HERE / "adapters" / member["name"])
        model.load_adapter(folder, load_as=member["name"], with_head=member["with_head"])
    torch.manual_seed(ARGS["seed"])
    if OF_THE_LIBRARY:
        model.add_adapter(NAME, config=AdapterConfig.load(RUN["adapter"]))
    for names, fusion in RUN["fusions"].items():
        model.add_adapter_fusion(names.split(","), AdapterFusionConfig.from_dict(fusion))
    options = {key: value for key, value in HEAD.items() if key != "head_type"}
    id2label = dict(enumerate(RUN["id2label"])) if RUN["id2label"] else None
    kind = MultiLabelClassificationHead if KIND == "multilabel" else ClassificationHead
    model.add_prediction_head(kind(model, NAME, id2label=id2label, **options))
    if given.adapter:
        model.load_adapter(given.adapter, load_as=NAME)
    return model


def choose_trained(model):
    """Freezes all but what the run trains, and makes its setup active."""
    adapters_trained = [member["name"] for member in RUN["members"] if member["train"]] + [NAME] * OF_THE_LIBRARY
    if ACTIVE:
        setup = composition(ACTIVE)
        if RUN["fusions"]:
            model.train_adapter_fusion(setup, unfreeze_adapters=bool(adapters_trained))
        else:
            model.train_adapter(adapters.composition.Stack(*(adapters_trained or [NAME])))
        for name, parameter in model.base_model.named_parameters():
            if any(f".{member['name']}." in name for member in RUN["members"] if not member["train"]):
                parameter.requires_grad = False
        model.set_active_adapters(setup, skip_layers=RUN["skip_layers"] or None)
    else:
        model.freeze_model(True)
        for name, parameter in model.base_model.named_parameters():
            parameter.requires_grad = METHOD == "full" or (METHOD == "bitfit" and name.endswith(".bias"))
            if name.startswith("pooler."):
                parameter.requires_grad = False
    for member in RUN["members"]:
        if member["with_head"] and member["name"] in model.heads:
            model.heads[member["name"]].requires_grad_(member["train_head"])
    model.active_head = NAME


class Ours(TrainerCallback):
    """Evaluates after the last step too, and drops layers' adapters as the run did (AdapterDrop)."""

    def __init__(self, model):
        self.model = model

    def on_step_begin(self, args, state, control, **kwargs):
        drop = RUN["adapter_drop"]
        if drop is not None:
            self.skip(self.dropped(drop, state.global_step))

    def on_step_end(self, args, state, control, **kwargs):
        if RUN["adapter_drop"] is not None and RUN["adapter_drop"]["mode"] == "random":
            self.skip(0)
        if state.global_step >= state.max_steps and args.eval_strategy == "steps":
            control.should_evaluate = control.should_save = True

    def skip(self, lowest):
        layers = sorted({*RUN["skip_layers"], *range(lowest)})
        self.model.set_active_adapters(composition(ACTIVE), skip_layers=layers or None)
        self.model.active_head = NAME

    @staticmethod
    def dropped(drop, step):
        if drop["mode"] == "fixed":
            return drop["layers"]
        mixed = ((ARGS["seed"] ^ 0x5EED) * 0x9E3779B1) ^ ((step + 1) * 0x85EBCA6B)
        generator = np.random.MT19937()
        generator._legacy_seeding(mixed % 2**32)
        return int(generator.random_raw()) % (drop["layers"] + 1)


def trainer_of(base):
    class RunTrainer(base):
        def get_train_dataloader(self):
            batches = Batches(self.train_dataset, self.args.per_device_train_batch_size, self.args.world_size)
            return self.accelerator.prepare(
                DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
            )

        def evaluation_loop(self, dataloader, description, prediction_loss_only=None, *args, **kwargs):
            # The plain loss over the rows, as the run had it: not smoothed, and no row twice with several processes.
            output = super().evaluation_loop(dataloader, description, False, *args, **kwargs)
            prefix = next(key for key in output.metrics if key.endswith("_loss"))
            output.metrics[prefix] = loss_of(output)
            return output

    return RunTrainer


def training_arguments(given, has_validation):
    """The run's arguments, under the same names."""
    same = """learning_rate num_train_epochs max_steps per_device_train_batch_size per_device_eval_batch_size
        gradient_accumulation_steps adam_beta1 adam_beta2 adam_epsilon weight_decay max_grad_norm lr_scheduler_type
        warmup_ratio warmup_steps label_smoothing_factor logging_steps eval_strategy eval_steps seed""".split()
    values = {name: ARGS[name] for name in same}
    values["eval_strategy"] = ARGS["eval_strategy"] if has_validation else "no"
    metric, best = ARGS["metric_for_best_model"], ARGS["load_best_model_at_end"] and values["eval_strategy"] != "no"
    values |= {
        "output_dir": given.output_dir, "data_seed": ARGS["seed"], "optim": "adamw_torch", "report_to": [],
        "use_cpu": not torch.accelerator.is_available(),
        "remove_unused_columns": False, "label_names": ["labels"], "save_total_limit": 2,
        "save_strategy": values["eval_strategy"], "save_steps": ARGS["eval_steps"], "load_best_model_at_end": best,
        "metric_for_best_model": f"eval_{metric}", "greater_is_better": metric not in ("loss", "mse", "mae"),
    }
    for item in given.set:
        name, _, value = item.partition("=")
        values[name] = json.loads(value) if value[:1] in "0123456789-tfn[{\"" else value
    # Not divided by the number of processes but shared among them: the batch stays the run's.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    sizes = [values["per_device_train_batch_size"], values["per_device_eval_batch_size"]]
    if processes > 1:
        if sizes[0] % processes:
            raise SystemExit(f"A batch of {sizes[0]} rows cannot be shared by {processes} processes; launch with a "
                             "number that divides it, or --set per_device_train_batch_size=...")
        values["per_device_eval_batch_size"] = -(-sizes[1] // processes) * processes
        values["accelerator_config"] = {"split_batches": True}
    return TrainingArguments(**values)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder or hub id of the base model; else model/ here, else the run's own")
    parser.add_argument("--any_base", action="store_true", help="do not compare the base's weights with the run's")
    parser.add_argument("--adapter", help="adapter folder to go on from, instead of fresh values")
    parser.add_argument("--output_dir", default="out")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a field of TrainingArguments")
    given = parser.parse_args()

    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / "tokenizer")
    splits = {split: encode(read_rows(split), tokenizer) for split in ("train", "validation", "test")}
    # Longest first, as the run evaluates: equal batches, and equal gates.
    for split in ("validation", "test"):
        splits[split].sort(key=lambda row: -len(row["input_ids"]))
    model = build_model(given)
    choose_trained(model)
    # The library's models take any keyword, so Trainer would believe that they divide the loss by the number of rows in
    # all accumulated batches. They do not: without this line, k accumulated batches give k times the gradient.
    model.accepts_loss_kwargs = False
    callbacks = [Ours(model)]
    if ARGS["early_stopping_patience"] > 0 and splits["validation"]:
        callbacks.append(EarlyStoppingCallback(ARGS["early_stopping_patience"], ARGS["early_stopping_threshold"]))
    trainer = trainer_of(AdapterTrainer if ACTIVE else Trainer)(
        model=model, args=training_arguments(given, bool(splits["validation"])), callbacks=callbacks,
        train_dataset=splits["train"], eval_dataset=splits["validation"] or None, compute_metrics=metrics_of,
        data_collator=Collator(tokenizer.pad_token_id),
    )
    trainer.train()
    results = {"log_history": trainer.state.log_history, "best_step": trainer.state.best_global_step}
    if splits["test"]:
        results["test"] = trainer.predict(splits["test"], metric_key_prefix="test").metrics
    if trainer.is_world_process_zero():
        output = Path(given.output_dir)
        if not ACTIVE:
            model.save_pretrained(str(output / "model"))
        elif RUN["members"]:
            model.save_adapter_setup(str(output / "setup"), composition(ACTIVE))
        else:
            model.save_adapter(str(output / "adapter"), NAME)
        model.save_head(str(output / "head"), NAME)
        (output / "results.json").write_text(json.dumps(results, indent=2))
        print(json.dumps(results.get("test") or results["log_history"][-1], indent=2))


if __name__ == "__main__":
    main()
`
