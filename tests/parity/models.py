"""The models that fixtures stand on: made-up RoBERTas of odd sizes, and the adapters put on them."""

import json
import logging
import re
import warnings

import torch
from adapters import AdapterConfig, AutoAdapterModel, composition
from adapters.heads import ClassificationHead, MultiLabelClassificationHead
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import RobertaConfig

from store import FIXTURES, ROOT, made_up

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

NAME = "parity"  # of every adapter and head here
MINI = ROOT / "public" / "models" / "mini-roberta"

SIZES = {  # vocab, hidden, layers, heads, FFN, positions
    "tiny-roberta": (400, 32, 2, 4, 64, 66),
    "odd-roberta": (40, 24, 3, 3, 40, 34),
    "micro-roberta": (20, 8, 1, 2, 16, 14),
    "roberta-base": (50265, 768, 12, 12, 3072, 514),
}
CORPUS = [
    "The film was great and the acting was even better than I had hoped for.",
    "A terrible movie: the plot makes no sense, and the jokes are not funny at all.",
    "I love this phone. The battery lasts for days and the screen is bright.",
    "The food was cold, the waiter was rude, and we will never come back here.",
    "Great service, great food, friendly people; this is the best place in town!",
    "It stopped working after two weeks. Do not waste your money on this.",
    "Not bad, but not as good as the first one. The sound could be better.",
    "Ein schöner Film – très bien! 好きです 👍 😡",
]


def config_of(size):
    vocab, hidden, layers, heads, ffn, positions = SIZES[size]
    return RobertaConfig(
        vocab_size=vocab, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=ffn, max_position_embeddings=positions, type_vocab_size=1, layer_norm_eps=1e-5,
        architectures=["RobertaForMaskedLM"], name_or_path=size,
    )  # fmt: skip


def fill(model, kept=()):
    """Makes up every parameter and buffer from its name in a file, but for the parameters named in `kept`."""
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            if name not in kept:
                parameter.copy_(made_up(name, parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith(".base"):  # LoReFT's
                buffer.copy_(made_up(name, buffer.shape))
    return model


def parameters(model):
    """By the name under which the app keeps them: the pool of prefixes once, whatever layer torch finds it in first."""
    pool = re.compile(r"encoder\.layer\.\d+\.attention\.self\.prefix_tuning\.pool\.")
    return {pool.sub("prefix_tuning.", name): value for name, value in model.named_parameters()}


def trainable(model):
    return {name: p for name, p in parameters(model).items() if p.requires_grad}


def base_model(size):
    """A RobertaAdapterModel in evaluation mode: made up, or mini-roberta from its folder."""
    if size == "mini-roberta":
        return AutoAdapterModel.from_pretrained(MINI, dtype=torch.float32).eval()
    return fill(AutoAdapterModel.from_config(config_of(size))).eval()


def setup_of(adapter=None, head=None, **changes):
    """The app's ModelSetup (src/config.ts) of one adapter and one head, trained together, with changes."""
    everything = {
        "adapters": {} if adapter is None else {NAME: adapter},
        "fusions": {},
        "heads": {NAME: head or classification(3)},
        "active": None if adapter is None else NAME,
        "active_heads": [NAME],
        "skip_layers": [],
        **changes,
    }
    trained = {name: list(everything[name]) for name in ("adapters", "fusions", "heads")}
    return {**everything, "train": {**trained, "base": "none", **changes.get("train", {})}}


def classification(num_labels, **changes):
    return {
        "head_type": "classification", "num_labels": num_labels, "layers": 2, "activation_function": "tanh",
        "dropout_prob": None, "use_pooler": False, "bias": True, "pooling": "first", **changes,
    }  # fmt: skip


def masked_lm(size):
    vocab, hidden = SIZES[size][:2]
    return {
        "head_type": "masked_lm", "vocab_size": vocab, "embedding_size": hidden, "layers": 2,
        "activation_function": "gelu", "layer_norm": True, "bias": True, "shift_labels": False,
    }  # fmt: skip


class MeanPooled(ClassificationHead):
    """A head on the mean of a text's tokens; the library has none, so this only hands its own head another vector."""

    def forward(self, outputs, cls_output=None, attention_mask=None, return_dict=False, **kwargs):
        kept = attention_mask[..., None].to(outputs[0].dtype)
        text = outputs[0][:, -kept.shape[1] :]  # behind a prompt
        mean = (text * kept).sum(1) / kept.sum(1)
        return super().forward(outputs, mean, attention_mask, return_dict, **kwargs)


def add_head(model, name, head):
    kind = {"classification": ClassificationHead, "multilabel_classification": MultiLabelClassificationHead}
    fields = {key: value for key, value in head.items() if key not in ("head_type", "pooling")}
    if head["head_type"] == "masked_lm":
        model.add_masked_lm_head(name)
    elif head["pooling"] == "mean":
        model.add_prediction_head(MeanPooled(model, name, **fields))
    else:
        model.add_prediction_head(kind[head["head_type"]](model, name, **fields))


def block(setup):
    """The library's composition of an AdapterSetup."""
    if setup is None or isinstance(setup, str):
        return setup
    fields = {key: value for key, value in setup.items() if key not in ("type", "children")}
    return getattr(composition, setup["type"])(*map(block, setup["children"]), **fields)


def built(model, setup):
    """Puts adapters, fusions and heads on a model and chooses what is active and what trains; nothing is made up."""
    for name, config in setup["adapters"].items():
        model.add_adapter(name, config=AdapterConfig.load(config))
    for name, config in setup["fusions"].items():
        model.add_adapter_fusion(name.split(","), config)
    for name, head in setup["heads"].items():
        add_head(model, name, head)
    train(model, setup)
    return model


def train(model, setup):
    wanted = setup["train"]
    if wanted["fusions"]:
        model.train_adapter_fusion(block(setup["active"]), unfreeze_adapters=bool(wanted["adapters"]))
        for name, parameter in model.named_parameters():
            if any(f".{other}." in name for other in setup["adapters"].keys() - set(wanted["adapters"])):
                parameter.requires_grad = False
    elif wanted["adapters"]:
        model.train_adapter(composition.Stack(*wanted["adapters"]))
    else:
        model.freeze_model(True)
    model.set_active_adapters(block(setup["active"]), skip_layers=setup["skip_layers"])
    model.active_head = heads_of(setup)
    for name, head in model.heads.items():
        if name not in wanted["heads"]:
            head.requires_grad_(False)
        elif setup["heads"][name]["head_type"] == "masked_lm":  # as train_adapter freezes it, also where there is none
            head.get_output_embeddings().bias.requires_grad = False
    for name, parameter in model.named_parameters():
        own = name.startswith(("roberta.embeddings.", "roberta.encoder.")) and is_base(name)
        if own and (wanted["base"] == "all" or wanted["base"] == "bias" and name.endswith(".bias")):
            parameter.requires_grad = True


def is_base(name):
    parts = (".adapters.", ".loras.", ".prefix_tuning.", ".refts.", ".adapter_fusion_layer.")
    return not any(part in name for part in parts)


def heads_of(setup):
    names = setup["active_heads"]
    active = block(setup["active"])
    if isinstance(active, composition.BatchSplit) and len(names) > 1:
        return composition.BatchSplit(*names, batch_sizes=active.batch_sizes)
    return names if len(names) > 1 else names[0]


def with_setup(size, setup):
    """Base, adapters and heads, all made up, ready for gradients; no dropout."""
    base = base_model(size)
    own = set(parameters(base))
    return fill(built(base, setup), kept=own).eval()


def preset(name, **changes):
    return {**AdapterConfig.load(name).to_dict(), **changes}


def seq_bn(**changes):
    return preset("seq_bn", **changes)


def lora(**changes):
    return preset("lora", **changes)


def base_tensors(model):
    """State of the base alone, without the pooler: the names of a Hugging Face file."""
    parts = ("roberta.embeddings.", "roberta.encoder.")
    return {k: v.contiguous() for k, v in model.state_dict().items() if k.startswith(parts)}


def write_folder(size):
    """tests/fixtures/{size} as a Hugging Face folder: config.json and model.safetensors."""
    folder = FIXTURES / size
    folder.mkdir(parents=True, exist_ok=True)
    model = base_model(size)
    write_config(folder, model.config)
    write_weights(folder / "model.safetensors", base_tensors(model))


def write_weights(path, state):
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)


def config_fields(config):
    """The fields that roberta-base's own config.json has, and no others."""
    fields = """architectures attention_probs_dropout_prob bos_token_id eos_token_id hidden_act hidden_dropout_prob
        hidden_size initializer_range intermediate_size layer_norm_eps max_position_embeddings model_type
        num_attention_heads num_hidden_layers pad_token_id type_vocab_size vocab_size""".split()
    values = config.to_dict()
    return {key: values[key] for key in fields}


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config_fields(config), indent=2) + "\n")


def write_tokenizer(folder):
    """Byte-level BPE as RoBERTa's, trained on CORPUS."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=399, special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls=("<s>", 0), add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
