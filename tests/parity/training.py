"""Training from a fixed start, dropout off: the library's model under Hugging Face's optimiser, schedule and clipping."""

import re
from tempfile import TemporaryDirectory

import torch
from adapters import AdapterTrainer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments, get_linear_schedule_with_warmup
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.trainer_pt_utils import LabelSmoother

from cases import in_float64, labels_of, labels_tensor
from compositions import compositions
from forward import batch, inputs, mini_sha256
from task_heads import task_heads
from methods import methods
from models import classification, lora, seq_bn, setup_of, trainable, with_setup
from store import tensors, untensor, write

STEPS = 20
PLAIN = {
    "learning_rate": 5e-3, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "warmup_steps": 0, "gradient_accumulation_steps": 1, "label_smoothing_factor": 0.0,
}  # fmt: skip
WIDE = ("lora all", "lora gating", "prefix_tuning", "prefix_tuning two gates", "mam", "unipelt")
VARIANTS = {
    "plain": {},
    "warmup": {"warmup_steps": 6},
    "accumulation": {"gradient_accumulation_steps": 6},
    "smoothing": {"label_smoothing_factor": 0.1},
    "clipped": {"max_grad_norm": 0.05, "weight_decay": 0.1},
}


def batches(name, vocab, num_labels, longest, shortest=2):
    """Twenty batches of uneven sizes and lengths, short and long mixed."""
    lengths = [[shortest + (7 * i + 5 * j) % (longest + 1 - shortest) for j in range(3 + i % 4)] for i in range(STEPS)]
    return [batch(f"training {name} {i}", vocab, rows, num_labels) for i, rows in enumerate(lengths)]


def optimiser(model, args):
    """Trainer's own choice of what decays: all but biases and norms."""
    decayed = Trainer.get_decay_parameter_names(None, model)
    named = trainable(model).items()
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": args["weight_decay"]},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]
    betas = (args["adam_beta1"], args["adam_beta2"])
    return torch.optim.AdamW(groups, lr=args["learning_rate"], betas=betas, eps=args["adam_epsilon"])


def loss_of(model, host, smoothing):
    labels = labels_tensor(host["labels"], model.dtype)
    if smoothing == 0:
        return model(**inputs(host), labels=labels).loss
    output = SequenceClassifierOutput(logits=model(**inputs(host)).logits)
    return LabelSmoother(epsilon=smoothing)(output, labels)


def train(model, hosts, args, skip_layers=None):
    """One optimiser step per group of micro-batches, whose losses are averaged; also of a smaller last group.

    `skip_layers`: AdapterDrop, the layers that each step passes by.
    """
    k = args["gradient_accumulation_steps"]
    regularised = any(re.search(r"adapter_fusion_layer\..*\.value", name) for name in trainable(model))
    groups = [hosts[i : i + k] for i in range(0, len(hosts), k)]
    adamw = optimiser(model, args)
    schedule = get_linear_schedule_with_warmup(adamw, args["warmup_steps"], len(groups))
    history = {"losses": [], "grad_norms": [], "learning_rates": []}
    for step, group in enumerate(groups):
        if skip_layers:
            model.set_active_adapters(model.active_adapters, skip_layers=skip_layers[step])
        losses = [loss_of(model, host, args["label_smoothing_factor"]) / len(group) for host in group]
        sum(losses).backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable(model).values(), args["max_grad_norm"])
        history["losses"].append(sum(losses).item())
        history["grad_norms"].append(norm.item())
        history["learning_rates"].append(schedule.get_last_lr()[0])
        adamw.step()
        schedule.step()
        adamw.zero_grad()
        if regularised:  # AdapterTrainer's: it enters the next step's gradient and no loss that is shown
            model.base_model.get_fusion_regularization_loss().backward()
        if step == 0:
            history["after_first"] = tensors(trainable(model))
    return {**history, "after_last": tensors(trainable(model))}


class FixedBatches(AdapterTrainer):
    """The library's trainer on a given list of batches, remembering every loss unrounded."""

    def get_train_dataloader(self):
        tensors_of = lambda host: {**inputs(host), "labels": labels_tensor(host["labels"])}
        return DataLoader(self.train_dataset, batch_size=None, collate_fn=tensors_of)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


def check_trainer(size, setup, hosts, args, result):
    """The loop above is AdapterTrainer's: same losses, same weights at the end (accumulation aside, see adapters.md)."""
    model = with_setup(size, setup)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0
    with TemporaryDirectory() as folder:
        fields = {key: value for key, value in args.items() if key != "gradient_accumulation_steps"}
        arguments = TrainingArguments(
            folder, **fields, max_steps=STEPS, lr_scheduler_type="linear", optim="adamw_torch", use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = FixedBatches(model=model, args=arguments, train_dataset=hosts)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    worst = max(abs(a - b) for a, b in zip(trainer.losses, result["losses"], strict=True))
    for name, value in trainable(model).items():
        worst = max(worst, (value - untensor(result["after_last"][name])).abs().max().item())
    assert worst < 1e-4, f"AdapterTrainer and the loop differ by {worst}"
    return worst


def write_training():
    for size, vocab, longest in [("tiny-roberta", 400, 24), ("odd-roberta", 40, 17)]:
        hosts = batches(size, vocab, 3, longest)
        cases = []
        for method, adapter in {"head": None, "seq_bn": seq_bn(), "lora": lora()}.items():
            for variant, changes in VARIANTS.items():
                if variant != "plain" and (method == "head" or size != "tiny-roberta"):
                    continue
                args = {**PLAIN, **changes}
                setup = setup_of(adapter)
                result = train(with_setup(size, setup), hosts, args)
                if adapter and args["gradient_accumulation_steps"] == 1:
                    worst = check_trainer(size, setup, hosts, args, result)
                    print(f"  AdapterTrainer on {size} {method} {variant}: differs by {worst:.1e}")
                cases.append({"name": f"{method} {variant}", "setup": setup, "args": args, **result})
        write(f"training-{size}", {"model": size, "num_labels": 3, "batches": hosts, "cases": cases})


def curve(size, name, setup, hosts, skip_layers=None):
    """Losses and gradient norms only, in float64, at the first rate at which float32 arrives at the same: where the
    made-up start is wild, the smallest rounding would grow in twenty steps to more than is compared.

    LoReFT is trained without weight decay, which destroys its projection.
    """
    orthogonal = any(config.get("orthogonality") for config in setup["adapters"].values())
    for rate in (5e-3, 1e-3, 2e-4, 5e-5):
        args = {**PLAIN, "warmup_steps": 3, "learning_rate": rate, **({"weight_decay": 0.0} if orthogonal else {})}
        single = train(with_setup(size, setup), hosts, args, skip_layers)
        exact_model = with_setup(size, setup).double()
        with in_float64():
            exact = train(exact_model, hosts, args, skip_layers)
        apart = max(abs(a / b - 1) for key in ("losses", "grad_norms") for a, b in zip(single[key], exact[key]))
        if apart < 3e-4:
            break
    assert apart < 3e-4, f"{name}: float32 and float64 differ by {apart} at every rate"
    checked = setup["adapters"] and not skip_layers
    worst = check_trainer(size, setup, hosts, args, single) if checked else 0
    print(f"  {name} at {rate}: float64 differs by {apart:.1e}, AdapterTrainer by {worst:.1e}")
    kept = {key: exact[key] for key in ("losses", "grad_norms", "learning_rates")}
    return {"name": name, "setup": setup, "args": args, **({"skip_layers": skip_layers} if skip_layers else {}), **kept}


def write_curves():
    """Twenty steps of every method, of the blocks that can train on batches of any size, and of every kind of label."""
    size, vocab, longest = "odd-roberta", 40, 17
    hosts = batches(f"{size} curves", vocab, 3, longest, shortest=3)
    cases = [curve(size, name, setup_of(config), hosts) for name, config in methods().items()]
    composed = ("Stack", "Stack, first frozen", "Fuse", "Fuse static", "Average of lora", "Stack of prefix_tuning")
    cases += [curve(size, name, setup_with(3, compositions()[name]), hosts) for name in composed]
    dropped = [list(range((5 * i + 1) % 3)) for i in range(STEPS)]
    for name in ("seq_bn", "lora"):
        cases.append(curve(size, f"AdapterDrop of {name}", setup_of(methods()[name]), hosts, dropped))
    labels = {}
    for name in ("bias only", "full", "1 layer", "multilabel", "regression", "masked_lm"):
        kind, setup = task_heads(size)[name]
        labels[kind] = [labels_of(kind, host, f"{size} {i}") for i, host in enumerate(hosts)]
        labelled = [{**host, "labels": row} for host, row in zip(hosts, labels[kind])]
        cases.append({**curve(size, name, setup, labelled), "labels": kind})
    write("curves", {"model": size, "batches": hosts, "labels": labels, "cases": cases})


def setup_with(num_labels, setup):
    return {**setup, "heads": {name: {**head, "num_labels": num_labels} for name, head in setup["heads"].items()}}


def write_mini():
    """Losses and gradient norms only: the weights start from made-up values and are too large to keep. The methods are
    those whose programs are others where blocks of 64 columns lie side by side, as they do not in the small models.
    """
    hosts = batches("mini-roberta", 2000, 2, 16)
    cases = []
    for method, adapter in {"seq_bn": seq_bn(), "lora": lora()}.items():
        args = {**PLAIN, "learning_rate": 1e-3, "warmup_steps": 2}
        setup = setup_of(adapter, classification(2))
        result = train(with_setup("mini-roberta", setup), hosts, args)
        kept = {key: result[key] for key in ("losses", "grad_norms", "learning_rates")}
        cases.append({"name": f"{method} warmup", "setup": setup, "args": args, **kept})
    for name in WIDE:
        cases.append(curve("mini-roberta", name, setup_of(methods()[name], classification(2)), hosts))
    fixture = {"sha256": mini_sha256(), "model": "mini-roberta", "num_labels": 2, "batches": hosts, "cases": cases}
    write("training-mini-roberta", fixture)
