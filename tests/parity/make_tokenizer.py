"""Writes tests/fixtures/tokenizer-roberta.json: what Python's `tokenizers` makes of awkward strings.

    pip install tokenizers==0.23.3
    python tests/parity/make_tokenizer.py ../shared/data/roberta-base/tokenizer.json tests/fixtures/tokenizer-roberta.json

`plain` holds [text, ids], `pairs` [text, text_pair, ids], `truncated` [text, text_pair or null, max_length, ids] with
`truncation=True`, that is longest_first. The strings are ours or drawn from a fixed seed.
"""

import hashlib
import json
import random
import sys

import tokenizers
from tokenizers import Tokenizer

AWKWARD = [
    "", " ", "  ", "   leading", "trailing   ", "\t", "\n", "\r\n", " \n ", "a\nb", "a \n b", "a\n\n\nb", "a\t\tb", "a  b   c",
    "Hello world", " Hello world", "hello", "HELLO", "don't won't they're we've I'm he'll she'd it's 's 'S 'RE ’s",
    "3 stars", "10/10", "1,234.56", "½ ² ³ Ⅷ ٣ 四", "100%", "$9.99", "a1b2c3", "v2.0-beta+build",
    "👍", "👎", "😀😀😀", "👩‍👩‍👧‍👦", "👍🏽", "❤️", "🇩🇪", "ok👍ok", " 👍 ", "I 😍 this!!!", "\U0001f9d1\U0001f3fd‍\U0001f680",
    "你好，世界", "これは素晴らしい映画です。", "한국어 리뷰", "مرحبا بالعالم", "שלום", "Привет, мир", "ΑΒΓ αβγ", "ไทยไม่มีเว้นวรรค", "नमस्ते",
    "café", "cafe\u0301", "naïve façade", "Ångström", "ß ẞ ﬁ ﬀ", "İstanbul ıI", "ǅ ǆ", "ªº",
    "<mask>", " <mask>", "a <mask> b", "a<mask>b", "a   <mask>   b", "<s>", "</s>", "<pad>", "<unk>", "<s> hi </s>", "<mask><mask>",
    "<MASK>", "< mask >", "<mas", "mask>", "\u00a0<mask>\u00a0x", "\n\n<mask>\n\n", "<s", "</s></s>", "x<s>y</s>z<pad>w<unk>v",
    "\x00", "\x01\x02\x03", "a\x00b", "\x7f", "\x1b[31mred\x1b[0m", "\x1c\x1d\x1e\x1f", "\x0b\x0c", "a\x0bb", "a\x0cb", "a\x1cb",
    "\u0085", "a\u0085b", " \u0085 ", "a \u0085", "\ufeff", "\ufeffstart", "a\ufeffb", "a \ufeff b", "x\u0085\u0085y", "\ufeff\ufeff",
    "\u00a0", "a\u00a0b", "a\u00a0\u00a0b", "a \u00a0b", "\u200b", "a\u200bb", "\u200e\u200f", "\u2028", "a\u2028b", "a\u2029b",
    "\u3000", "a\u3000b", "\u1680", "a\u2003b", "a\u202fb", "a\u180eb", "\u2060", "\u00ad", "soft\u00adhyphen", "\ufffd", "\ufffe",
    "\U0010ffff", "\ue000", "\U000e0041", "\U0001d400\U0001d401", "𝒜𝓃", "𠮷野家", "a\u0300\u0301\u0302\u0303\u0304",
    "...", "…", "?!?!", "--", "—", "“quoted”", "\"quoted\"", "''''", "``", "'", "''s", "it''s", "rock'n'roll", "y'all'd've",
    "http://example.com/a?b=c&d=e#f", "me@example.com", "#hashtag @user", "C:\\path\\file", "<br /><br />", "&amp; &lt;", "{\"a\": 1}",
    "snake_case camelCase kebab-case", "_", "__init__", "constructor __proto__ toString hasOwnProperty", "ĠĊ", "Ġ", "âĢĻ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "lolololololololololololololol", "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    "Supercalifragilisticexpialidocious antidisestablishmentarianism", "0123456789" * 5, "ab" * 40, "-" * 100, " " * 50, "x" + " " * 30 + "y",
    "\u0661\u0662\u0663 \u0967\u0968", "x²+y²=z²", "№ ℃ ™ ® ©", "←↑→↓ ∀∃∈ ≤≥", "🄰🅱", "①②③", "\u19da", "\u2160", "〇",
    "ends with newline\n", "ends with space ", "\n starts", "\t\tindented\n\tcode { }", "a . b , c ! d ?", "mr. & mrs. smith's \"x\"",
    "This movie was terrible -- truly , the worst thing i 've seen in years .", "Wow... Loved this place.", "10 out of 10!!! would buy again :)",
]

ALPHABETS = [
    [chr(c) for c in range(0, 0x180)],
    list("  \n\t'’sdtrelvm.,!?<>/masku1290aAéß—“👍你の\u0085\ufeff\u00a0\u2009"),
    [chr(c) for c in range(0x2000, 0x2070)] + list("ab  "),
    [chr(c) for c in list(range(0x1F300, 0x1F650)) + [0x200D, 0xFE0F, 0x1F3FD, 0x20]],
    [chr(c) for c in range(0x0300, 0x0700)] + [" "],
    [chr(c) for c in range(0x3000, 0x3100)] + [chr(c) for c in range(0x4E00, 0x4F00)] + [" "],
]
WORDS = "the movie was n't good but I loved it 's a really bad plot , and acting ; great food service 5 stars ! <mask> 👍 naïve".split()


def drawn(seed: int) -> list[str]:
    random.seed(seed)
    strings = []
    for alphabet in ALPHABETS:
        for _ in range(40):
            strings.append("".join(random.choice(alphabet) for _ in range(random.randint(1, 40))))
    for _ in range(40):
        strings.append(" ".join(random.choice(WORDS) for _ in range(random.randint(1, 60))))
    return strings


def main(tokenizer_path: str, out_path: str) -> None:
    tokenizer = Tokenizer.from_file(tokenizer_path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    texts = AWKWARD + drawn(1)
    long = " ".join(drawn(2)[-40:])
    plain = [[text, tokenizer.encode(text).ids] for text in texts + [long, "a" * 1000, "ab" * 500, "é" * 300]]
    random.seed(3)
    pairs = [[a, b, tokenizer.encode(a, b).ids] for a, b in [("", ""), ("a", ""), ("", "b"), ("food", "The food was great.")]]
    pairs += [[a, b, tokenizer.encode(a, b).ids] for a, b in ((random.choice(texts), random.choice(texts)) for _ in range(60))]
    truncated = []
    sentences = [" ".join(random.choice(WORDS) for _ in range(n)) for n in (0, 1, 2, 5, 8, 21, 34)]
    for a in sentences:
        for b in [None, *sentences]:
            for max_length in (4, 5, 7, 12, 32):
                tokenizer.enable_truncation(max_length, strategy="longest_first")
                truncated.append([a, b, max_length, tokenizer.encode(a, b).ids if b is not None else tokenizer.encode(a).ids])
    with open(tokenizer_path, "rb") as file:
        sha256 = hashlib.sha256(file.read()).hexdigest()
    made_by = f"tests/parity/make_tokenizer.py with tokenizers {tokenizers.__version__}"
    fixture = {"made_by": made_by, "tokenizer_sha256": sha256, "plain": plain, "pairs": pairs, "truncated": truncated}
    with open(out_path, "w", encoding="utf-8") as file:
        json.dump(fixture, file, separators=(",", ":"))
        file.write("\n")
    print(len(plain), "plain,", len(pairs), "pairs,", len(truncated), "truncated")


main(*sys.argv[1:])
