"""The models that fixtures stand on: made-up RoBERTas of odd sizes, and the adapters put on them."""

import json
import logging
import warnings

import torch
from adapters import AutoAdapterModel, LoRAConfig, SeqBnConfig
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


def fill(model, only_trainable=False):
    """Makes up every parameter, or those that train, from its name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad or not only_trainable:
                parameter.copy_(made_up(name, parameter.shape))
    return model


def base_model(size):
    """A RobertaAdapterModel in evaluation mode: made up, or mini-roberta from its folder."""
    if size == "mini-roberta":
        return AutoAdapterModel.from_pretrained(MINI, dtype=torch.float32).eval()
    return fill(AutoAdapterModel.from_config(config_of(size))).eval()


def with_adapter(size, adapter, num_labels):
    """Base, adapter and head, all made up, ready for gradients of the last two; no dropout."""
    model = base_model(size)
    if adapter is not None:
        model.add_adapter(NAME, config=library_config(adapter))
    model.add_classification_head(NAME, num_labels=num_labels)
    if adapter is not None:
        model.train_adapter(NAME)
    else:
        model.freeze_model(True)
        model.active_head = NAME
    return fill(model, only_trainable=True).eval()


def trainable(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def library_config(adapter):
    """The app's AdapterConfig (src/config.ts) as the library's."""
    fields = {key: value for key, value in adapter.items() if key != "method"}
    return {"seq_bn": SeqBnConfig, "lora": LoRAConfig}[adapter["method"]](**fields)


def seq_bn(**changes):
    return {"method": "seq_bn", "reduction_factor": 16, "leave_out": [], "dropout": 0.0, **changes}


def lora(**changes):
    return {
        "method": "lora", "r": 8, "alpha": 8, "dropout": 0.0, "attn_matrices": ["q", "v"], "selfattn_lora": True,
        "intermediate_lora": False, "output_lora": False, "leave_out": [], **changes,
    }  # fmt: skip


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
