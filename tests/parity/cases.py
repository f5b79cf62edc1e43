"""Methods, compositions and heads in evaluation mode on three models: hidden states, logits, loss, every gradient."""

from contextlib import contextmanager

import torch

from compositions import ROWS, TOKENS, compositions
from forward import batch, inputs
from task_heads import task_heads
from methods import methods
from models import SIZES, setup_of, trainable, with_setup
from store import sketches, tensor, uniform, write

MODELS = ("tiny-roberta", "odd-roberta", "micro-roberta")
LENGTHS = {"tiny-roberta": [13, 6, 9, 3], "odd-roberta": [5, 11, 4], "micro-roberta": [12, 7]}


def batch_of(size):
    return batch(f"methods {size}", SIZES[size][0], LENGTHS[size], 3)


def labels_of(kind, host, size):
    """Labels of a class, of several classes at once, numbers, or tokens under a mask (-100: not asked for)."""
    ids = host["input_ids"]
    if kind == "class":
        return host["labels"]
    if kind == "float":
        return [[float(value)] for value in uniform(f"regression {size}", len(ids)) * 2]
    if kind == "multilabel":
        return (uniform(f"multilabel {size}", len(ids) * 4) > 0).astype(float).reshape(-1, 4).tolist()
    draws = uniform(f"masked {size}", len(ids) * len(ids[0])).reshape(len(ids), -1)
    return [[i if u > 0.2 and i > 3 else -100 for i, u in zip(*row)] for row in zip(ids, draws)]


def labels_tensor(labels, dtype=torch.float32):
    """Class indices are whole; numbers and several labels at once are not."""
    values = torch.tensor(labels)
    return values.to(dtype) if values.is_floating_point() else values


def evaluate(model, host):
    """What the app is held against, computed in float64. Tensors that get no gradient are named in `idle`.

    Of the last hidden state: the first row's first token, and of every token a sum over its features with fixed
    factors; of a masked-LM head's logits such a sum over the vocabulary, where a label is.
    """
    model.double().zero_grad()
    labels = labels_tensor(host["labels"], torch.float64)
    with in_float64():
        out = model(**inputs(host), labels=labels, output_hidden_states=True)
    out.loss.backward()
    hidden = out.hidden_states[-1].detach()
    logits = [one.logits.detach() for one in (out.head_outputs if "head_outputs" in out else [out])]
    if logits[0].dim() == 3:
        of_text = logits[0][:, logits[0].shape[1] - labels.shape[1] :]
        logits = [weighed("logits", of_text[labels != -100])]
    trained = trainable(model)
    return {
        "logits": [tensor(one) for one in logits],
        "loss": out.loss.item(),
        "tokens": tensor(weighed("hidden", hidden)),
        "first": tensor(hidden[0, 0]),
        "grads": sketches({name: p.grad for name, p in trained.items() if p.grad is not None}),
        "idle": [name for name, p in trained.items() if p.grad is None],
    }


@contextmanager
def in_float64():
    """Also what the library makes without saying of which kind."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def weighed(name, values):
    """The sum over the last axis with factors made up from `name`."""
    return (values.double() @ torch.from_numpy(uniform(name, values.shape[-1]))).float()


def in_reach(size, setup):
    """Whether anything is left of an adapter on a model of that depth."""
    if size != "micro-roberta":
        return True
    return setup["skip_layers"] == [] and all(c.get("leave_out") != [0] for c in setup["adapters"].values())


def case(name, setups, hosts):
    """One line of the printed table: the same on each model, of which one setup may differ from another."""
    results = {}
    for size in MODELS:
        if in_reach(size, setups[size]):
            try:
                results[size] = evaluate(with_setup(size, setups[size]), hosts[size])
            except Exception as error:
                raise RuntimeError(f"{name} on {size}") from error
    return {"name": name, "setup": setups[MODELS[0]], "results": results}


def write_methods():
    hosts = {size: batch_of(size) for size in MODELS}
    cases = [case(name, dict.fromkeys(MODELS, setup_of(config)), hosts) for name, config in methods().items()]
    write("methods", {"batches": hosts, "cases": cases})


def write_compositions():
    lengths = [7, TOKENS, 3, 9, 5]
    hosts = {size: batch(f"composed {size}", SIZES[size][0], lengths[:ROWS], 2) for size in MODELS}
    cases = [case(name, dict.fromkeys(MODELS, setup), hosts) for name, setup in compositions().items()]
    write("compositions", {"batches": hosts, "cases": cases})


def write_heads():
    """The masked-LM head's width is its model's, so it is left out of the stored setup and put in by who reads it."""
    hosts = {size: batch_of(size) for size in MODELS}
    cases = []
    for name, (kind, _) in task_heads(MODELS[0]).items():
        setups = {size: task_heads(size)[name][1] for size in MODELS}
        labelled = {size: {**host, "labels": labels_of(kind, host, size)} for size, host in hosts.items()}
        made = case(name, setups, labelled)
        for size, result in made["results"].items():
            result["labels"] = labelled[size]["labels"]
        cases.append({**made, "labels": kind})
    write("task-heads", {"batches": hosts, "cases": cases})
