"""Prediction heads of the real library with losses and gradients, masks of transformers' collator, and metrics of
scikit-learn and scipy. `python heads.py` writes tests/fixtures/heads."""

import itertools

import torch
from adapters import AdapterConfig, AutoAdapterModel
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error
from sklearn.metrics import precision_recall_fscore_support
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast, RobertaConfig
from transformers.trainer_pt_utils import LabelSmoother

from models import CORPUS, add_head, classification, parameters
from store import FIXTURES, tensor, tensors, uniform, write

NAME = "h"
VOCAB, HIDDEN, S = 41, 24, 11
LENGTHS = [11, 4, 7]
PROMPT = 3
MASKED_LM = {
    "head_type": "masked_lm", "vocab_size": VOCAB, "embedding_size": HIDDEN, "layers": 2,
    "activation_function": "gelu", "layer_norm": True, "bias": True, "shift_labels": False,
}  # fmt: skip
POSITIONS = [1, 4, 9, S + 2, 2 * S + 1, 2 * S + 5]  # in the flat batch
IDS = [7, 40, 4, 12, 30, 7]


def new_model():
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=34, type_vocab_size=1, layer_norm_eps=1e-5,
    )  # fmt: skip
    return AutoAdapterModel.from_config(config).eval()


def stir(model):
    """Weights large enough that every loss is far from its start."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "LayerNorm.weight" in name or name == f"heads.{NAME}.2.weight"
            parameter.normal_(1.0 if is_norm else 0.0, 0.3)
    return model.eval()


def batch():
    draws = (uniform("heads batch", len(LENGTHS) * S) * 0.5 + 0.5).reshape(len(LENGTHS), S)
    ids = [[0, *(4 + int(u * (VOCAB - 4)) for u in row[: n - 2]), 2] + [1] * (S - n) for row, n in zip(draws, LENGTHS)]
    mask = [[1] * n + [0] * (S - n) for n in LENGTHS]
    return {"input_ids": ids, "attention_mask": mask}


def evaluate(model, labels=None, loss_of=None):
    """The last hidden state is a leaf; the loss is the library's own, or `loss_of(logits)`."""
    held = {}

    def hold(_module, _inputs, output):
        held["x"] = output.last_hidden_state.detach().requires_grad_(True)
        output["last_hidden_state"] = held["x"]
        output["pooler_output"] = model.roberta.pooler(held["x"])
        return output

    handle = model.roberta.register_forward_hook(hold)
    output = model(**{key: torch.tensor(value) for key, value in batch().items()}, labels=labels)
    handle.remove()
    loss = output.loss if loss_of is None else loss_of(output.logits)
    loss.backward()
    tied = model.heads[NAME][3].weight if len(model.heads[NAME]) > 3 and hasattr(model.heads[NAME][3], "weight") else None
    is_tied = tied is not None and tied is model.roberta.embeddings.word_embeddings.weight
    named = {
        key: p
        for key, p in parameters(model).items()
        if (key.startswith("heads.") and not (is_tied and p is tied)) or "invertible_adapters" in key
    }
    return output.logits, {
        "x": tensor(held["x"]),
        "weights": tensors(named),
        "loss": loss.item(),
        "grads": tensors({key: p.grad for key, p in named.items()}),
        "dX": tensor(held["x"].grad),
    }


def classification_case(name, head, labels, label_smoothing=0.0):
    model = new_model()
    add_head(model, NAME, head)
    stir(model)
    target = torch.tensor(labels)
    smooth = LabelSmoother(label_smoothing)
    smoothed = lambda logits: smooth({"logits": logits}, target)
    logits, case = evaluate(model, None if label_smoothing else target, smoothed if label_smoothing else None)
    pooler = tensors({k: p for k, p in model.state_dict().items() if "pooler" in k}) if head["use_pooler"] else {}
    rest = {"labels": labels, "label_smoothing": label_smoothing, "logits": tensor(logits), "pooler": pooler}
    return {"name": name, "head": head, **rest, **case}


def classification_cases():
    three = [2, 0, 1]
    yield classification_case("two layers", classification(3), three)
    yield classification_case("label smoothing", classification(3), three, 0.1)
    yield classification_case("one layer", classification(3, layers=1, activation_function=None), three)
    yield classification_case("three layers", classification(2, layers=3, activation_function="gelu"), [1, 0, 1])
    yield classification_case("no activation", classification(4, activation_function=None), [3, 0, 1])
    yield classification_case("leaky", classification(2, activation_function="LeakyReLU"), [1, 1, 0])
    yield classification_case("no bias", classification(3, bias=False), three)
    yield classification_case("pooler", classification(3, use_pooler=True), three)
    yield classification_case("mean", classification(3, pooling="mean"), three)
    several = {"head_type": "multilabel_classification"}
    yield classification_case("several labels", classification(4, **several), [[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    yield classification_case("number", classification(1), [0.5, -2.0, 3.25])


def masked_lm_model(config=None, untied=False):
    model = new_model()
    if config is not None:
        model.add_adapter("a", config=AdapterConfig.load(config))
    model.add_masked_lm_head(NAME)
    if config is not None:
        model.set_active_adapters("a")
        model.active_head = NAME
    stir(model)
    decoder = model.heads[NAME][3]
    assert decoder.weight is model.roberta.embeddings.word_embeddings.weight
    if untied:  # so that its gradient is apart from the embeddings'
        decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    return model


def masked_lm_labels():
    labels = torch.full((len(LENGTHS) * S,), -100)
    labels[POSITIONS] = torch.tensor(IDS)
    return labels.view(len(LENGTHS), S)


def masked_lm_cases():
    smooth = LabelSmoother(0.2)
    for name, config, loss_of in [
        ("plain", None, None),
        ("label smoothing", None, lambda logits: smooth({"logits": logits}, masked_lm_labels())),
        ("prompt", {**AdapterConfig.load("prompt_tuning").to_dict(), "prompt_length": PROMPT}, None),
        ("invertible adapter", AdapterConfig.load("seq_bn_inv[inv_adapter_reduction_factor=3]").to_dict(), None),
    ]:
        model = masked_lm_model(config, untied=True)
        logits, case = evaluate(model, None if loss_of else masked_lm_labels(), loss_of)
        prompt = PROMPT if name == "prompt" else 0
        kept = logits[:, prompt:].reshape(-1, VOCAB)[POSITIONS]
        yield {
            "name": name, "adapter": config, "prompt": prompt, "label_smoothing": 0.2 if loss_of else 0.0,
            "positions": POSITIONS, "ids": IDS, "logits": tensor(kept), **case,
        }  # fmt: skip


def label_word_cases():
    """One position a row through the library's own head, restricted to the words of the classes."""
    at = [3, 1, 5]
    rows = torch.arange(len(LENGTHS))
    for name, words, labels in [("three words", [9, 4, 33], [2, 0, 1]), ("two words", [9, 33], [1, 0, 1]), ("one word", [33], [1, 0, 1])]:
        target = torch.tensor(labels)

        def loss_of(logits):
            own = logits[rows, at][:, words]
            if name == "three words":
                return cross_entropy(own, target)
            difference = own[:, -1] - (own[:, 0] if len(words) > 1 else 0)
            return binary_cross_entropy_with_logits(difference, target.float())

        logits, case = evaluate(masked_lm_model(), None, loss_of)
        own = logits[rows, at][:, words]
        if len(words) == 1:
            own = torch.cat([torch.zeros_like(own), own], 1)
        grads = {key: grad for key, grad in case.pop("grads").items() if "heads" in key}
        positions = [row * S + token for row, token in enumerate(at)]
        yield {"name": name, "words": words, "labels": labels, "positions": positions, "logits": tensor(own), **case, "grads": grads}


def facts():
    """What trains of a masked-LM head, and the base that the cases stand on."""
    model = new_model()
    model.add_adapter("a", config="seq_bn")
    model.add_masked_lm_head("a")
    model.train_adapter("a")
    trained = [key for key, p in model.named_parameters() if key.startswith("heads.") and p.requires_grad]
    words = stir(new_model()).roberta.embeddings.word_embeddings.weight
    return {"config": new_model().config.to_dict(), "trained": trained, "words": tensor(words), **batch()}


def fresh_heads():
    """Heads made one after another from one seed, each after the draws of those before it."""
    model = new_model()
    heads = {
        "a": classification(4, layers=3, activation_function="relu"),
        "b": MASKED_LM,
        "c": classification(2, layers=1, bias=False),
        "d": MASKED_LM,
        "e": {**classification(3), "head_type": "multilabel_classification"},
    }
    torch.manual_seed(5)
    for name, head in heads.items():
        add_head(model, name, head)
    tied = model.roberta.embeddings.word_embeddings.weight
    own = {key: p for key, p in model.heads.named_parameters(prefix="heads") if p is not tied}
    return {"seed": 5, "heads": heads, "tensors": tensors(own)}


def masking():
    """Batches one after another from one generator, as a data loader meets them."""
    folder = FIXTURES / "tiny-roberta"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip
    texts = [[*CORPUS[:5]], [*CORPUS[5:8], "It was<mask>."], ["Hi", "x"]]
    cases = []
    for seed, probability, mask_share, random_share in [(3, 0.15, 0.8, 0.1), (4, 0.4, 0.6, 0.3), (5, 0.3, 1.0, 0.0)]:
        collate = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=probability, mask_replace_prob=mask_share, random_replace_prob=random_share
        )
        torch.manual_seed(seed)
        batches = []
        for group in texts:
            encoded = tokenizer(group, padding=True)
            rows = [{"input_ids": ids} for ids in encoded["input_ids"]]
            made = collate(rows)
            batches.append({
                "input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"],
                "masked": made["input_ids"].tolist(), "labels": made["labels"].tolist(),
            })  # fmt: skip
        shares = {"mlm_probability": probability, "mask_replace_prob": mask_share, "random_replace_prob": random_share}
        cases.append({"seed": seed, **shares, "batches": batches})
    return {"special_ids": sorted(tokenizer.all_special_ids), "size": len(tokenizer), "cases": cases}


def packing():
    """Texts of made-up ids cut as run_mlm does: a thousand (here: three) texts at a time, each time without its rest."""
    lengths = [5, 9, 2, 1, 3, 14, 6, 2]
    texts = [[10 * i + j for j in range(n)] for i, n in enumerate(lengths)]
    cases = []
    for block, size in [(4, 3), (4, 8), (7, 3), (7, 1), (16, 8)]:
        blocks, dropped = [], 0
        for start in range(0, len(texts), size):
            joined = list(itertools.chain(*texts[start : start + size]))
            whole = len(joined) // block * block
            blocks += [joined[i : i + block] for i in range(0, whole, block)]
            dropped += len(joined) - whole
        cases.append({"block_size": block, "texts_at_once": size, "blocks": blocks, "dropped": dropped})
    return {"texts": texts, "cases": cases}


def several_label_metrics():
    for name, rows, C, gone in [("usual", 40, 5, None), ("a label that never is", 25, 4, 2), ("one row", 1, 3, None)]:
        labels = (uniform(f"labels {name}", rows * C).reshape(rows, C) > 0.2).astype(int)
        logits = uniform(f"logits {name}", rows * C).reshape(rows, C) + 0.4 * (labels - 0.5)
        if gone is not None:
            labels[:, gone] = 0
            logits[:, gone] = -1
        predicted = (1 / (1 + torch.exp(-torch.tensor(logits))) >= 0.5).int().numpy()
        precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, zero_division=0)
        score = lambda average: f1_score(labels, predicted, average=average, zero_division=0)
        yield {
            "name": name, "num_labels": C, "labels": labels.flatten().tolist(), "logits": logits.flatten().tolist(),
            "f1_micro": score("micro"), "f1_macro": score("macro"), "accuracy": accuracy_score(labels, predicted),
            "precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist(), "support": support.tolist(),
        }  # fmt: skip


def number_metrics():
    for name, n, ties in [("usual", 50, False), ("ties", 30, True), ("two rows", 2, False)]:
        labels, guess = uniform(f"numbers {name}", n) * 3, uniform(f"guesses {name}", n)
        guess = guess + labels * 0.5
        if ties:
            labels, guess = labels.round(), (guess * 2).round() / 2
        yield {
            "name": name, "labels": labels.tolist(), "predictions": guess.tolist(),
            "mse": mean_squared_error(labels, guess), "mae": mean_absolute_error(labels, guess),
            "pearson": float(pearsonr(labels, guess).statistic), "spearman": float(spearmanr(labels, guess).statistic),
        }  # fmt: skip


def write_heads():
    write("heads/classification", {**facts(), "cases": list(classification_cases())})
    write("heads/masked-lm", {**facts(), "cases": list(masked_lm_cases()), "label_words": list(label_word_cases())})
    write("heads/fresh", fresh_heads())
    write("heads/masking", masking())
    write("heads/packing", packing())
    write("heads/metrics", {"several": list(several_label_metrics()), "numbers": list(number_metrics())})


if __name__ == "__main__":
    write_heads()
