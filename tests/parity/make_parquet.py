"""Writes tests/fixtures/parquet/*.parquet with pyarrow, as the datasets hub and pandas write them.

    pip install pyarrow==26.0.1
    python tests/parity/make_parquet.py tests/fixtures/parquet

One file for each compression: `text` string, `label` int64 0..3 as in AG News, a nullable float, a list, a struct, a
date, and a column named `__proto__`. The texts are ours.
"""

import datetime
import sys

import pyarrow
import pyarrow.parquet

TEXTS = ["Oil prices rise again", "The home side wins 3–1", "Chip maker opens a plant", 'Talks "resume" in\nthe capital', "👍", ""]


def main(folder: str) -> None:
    n = 12
    table = pyarrow.table({
        "text": pyarrow.array([TEXTS[i % len(TEXTS)] for i in range(n)], pyarrow.string()),
        "label": pyarrow.array([i % 4 for i in range(n)], pyarrow.int64()),
        "score": pyarrow.array([None if i == 1 else i / 2 for i in range(n)], pyarrow.float64()),
        "tokens": pyarrow.array([["a", "b"]] * n, pyarrow.list_(pyarrow.string())),
        "meta": pyarrow.array([{"k": 1, "v": "x"}] * n, pyarrow.struct([("k", pyarrow.int64()), ("v", pyarrow.string())])),
        "day": pyarrow.array([datetime.date(2024, 1, 2)] * n, pyarrow.date32()),
        "__proto__": pyarrow.array([f"p{i}" for i in range(n)], pyarrow.string()),
    })
    for compression in ("none", "snappy", "gzip", "zstd", "brotli"):
        path = f"{folder}/topics-{compression}.parquet"
        pyarrow.parquet.write_table(table, path, compression=compression, row_group_size=5)


main(*sys.argv[1:])
