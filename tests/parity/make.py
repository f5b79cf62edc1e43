"""Writes every fixture of tests/fixtures with the real libraries. `python make.py [mini]`: all, or mini-roberta's only."""

import sys
from importlib.metadata import version

import cases
import draws
import forward
import heads
import models
import saved
import sites
import tables
import training
from store import FIXTURES, write

LIBRARIES = ["torch", "transformers", "adapters", "peft", "tokenizers", "safetensors", "scikit-learn", "numpy"]


def main():
    if "mini" not in sys.argv[1:]:
        write("versions", {name: version(name) for name in LIBRARIES})
        for size in ("tiny-roberta", "odd-roberta", "micro-roberta"):
            models.write_folder(size)
        models.write_tokenizer(FIXTURES / "tiny-roberta")
        forward.write_base()
        forward.write_variants()
        forward.write_made_up()
        cases.write_methods()
        cases.write_compositions()
        cases.write_heads()
        heads.write_heads()
        sites.write_sites()
        training.write_training()
        training.write_curves()
        draws.write_random()
        draws.write_initial()
        tables.write_summaries()
        tables.write_metrics()
        saved.write_saved()
    forward.write_mini()
    training.write_mini()


if __name__ == "__main__":
    main()
