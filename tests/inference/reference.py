"""Reference values for the tests of inference, from an implementation of its own.

    python3 reference.py MINILM OUT

Reads all-MiniLM-L6-v2 from the folder MINILM and makes small models with random weights in
OUT: each kind that Heyday runs. Makes tokens of texts and computes embeddings and scores in
double precision, with nothing but numpy and SentencePiece, and writes OUT/reference.json:

    [{"model": FOLDER, "task": "embed", "texts": [...], "long": "refuse", "ids": [...],
      "values": [[...]]}, ...]

and OUT/generation.json, of models that generate, as `decoder.py` beside this file says.
"""

import json
import math
import struct
import sys
import unicodedata
from pathlib import Path

import numpy as np

import decoder
from tokens import PAIR, RobertaTokens, UnigramTokens

TEXTS = [
    "This is a test.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Vector databases index dense embeddings for approximate nearest-neighbour search.",
    "Grüße aus Köln — naïve café ☕ 東京 Привет",
    "",
    "antidisestablishmentarianism " + "x" * 101 + " don't\tstop\u200b!",
    "A longer text that talks of GPUs, CPUs and software rasterisers such as lavapipe, and "
    "of what it takes to serve a small transformer in production without native libraries. "
    * 3,
]
LONG = " ".join(f"Sentence number {n} says something about rotor balance." for n in range(80))
QUERY = "How is a rotor balanced?"
DOCUMENTS = ["A rotor is balanced on two planes.", "Bread rises in the oven.", "", LONG]


# Tokens: BERT's, as its paper's own code describes them.


def is_punctuation(char):
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char).startswith("P")


def is_chinese(char):
    code = ord(char)
    ranges = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
              (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    return any(low <= code <= high for low, high in ranges)


def words(text):
    clean = []
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            clean.append(" ")
        elif char in "\0\ufffd" or unicodedata.category(char) in ("Cc", "Cf", "Cn", "Co"):
            continue
        elif is_chinese(char):
            clean.append(f" {char} ")
        else:
            clean.append(char)
    text = unicodedata.normalize("NFD", "".join(clean))
    text = "".join(char for char in text if unicodedata.category(char) != "Mn").lower()
    for word in text.split():
        current = ""
        for char in word:
            if is_punctuation(char):
                if current:
                    yield current
                yield char
                current = ""
            else:
                current += char
        if current:
            yield current


def pieces(word, vocabulary, unknown):
    if len(word) > 100:
        return [unknown]
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                found.append(vocabulary[piece])
                break
        else:
            return [unknown]
        start = end
    return found


class Model:
    def __init__(self, folder, own=None):
        self.config = read_json(folder / "config.json")
        self.weights = read_weights(folder)
        self.own = own
        if own:
            self.special = {word: own.vocabulary[word] for word in own.special}
            self.first, self.last, self.pair = self.special["<s>"], self.special["</s>"], PAIR
        else:
            tokenizer = read_json(folder / "tokenizer.json")
            self.vocabulary = tokenizer["model"]["vocab"]
            special = tokenizer["post_processor"]["special_tokens"]
            template = tokenizer["post_processor"]["single"]
            self.first = special[template[0]["SpecialToken"]["id"]]["ids"][0]
            self.last = special[template[2]["SpecialToken"]["id"]]["ids"][0]
            self.pair = tokenizer["post_processor"]["pair"]
            self.special = {name: value["ids"][0] for name, value in special.items()}
            self.unknown = self.vocabulary[tokenizer["model"]["unk_token"]]
        self.roberta = self.config["model_type"] != "bert"
        offset = self.config["pad_token_id"] + 1 if self.roberta else 0
        self.window = self.config["max_position_embeddings"] - offset
        sentence = folder / "sentence_bert_config.json"
        if sentence.exists():
            self.window = min(self.window, read_json(sentence)["max_seq_length"])
        self.offset = offset
        names = [name for name in self.weights if name.endswith("word_embeddings.weight")]
        self.prefix = names[0].removesuffix("embeddings.word_embeddings.weight")
        self.pooling, self.normalize, self.known = "mean", False, {}
        if (folder / "modules.json").exists():
            kinds = [module["type"].split(".")[-1] for module in read_json(folder / "modules.json")]
            self.normalize = "Normalize" in kinds
            pooling = read_json(folder / "1_Pooling/config.json")
            self.pooling = "cls" if pooling["pooling_mode_cls_token"] else "mean"

    def tokens(self, text):
        if self.own:
            return self.own.tokens(text, False)
        return [id for word in words(text) for id in pieces(word, self.vocabulary, self.unknown)]

    def tensor(self, name):
        for full in (self.prefix + name, name):
            if full in self.weights:
                return self.weights[full].astype(np.float64)
        raise KeyError(name)

    def linear(self, x, name):
        return x @ self.tensor(name + ".weight").T + self.tensor(name + ".bias")

    def norm(self, x, name):
        mean = x.mean(-1, keepdims=True)
        variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        scaled = (x - mean) / np.sqrt(variance + self.config["layer_norm_eps"])
        return scaled * self.tensor(name + ".weight") + self.tensor(name + ".bias")

    def activation(self, x):
        kind = self.config["hidden_act"]
        if kind == "gelu":
            return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        if kind == "gelu_new":
            return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return np.maximum(x, 0)

    def encode(self, ids, types):
        n, heads = len(ids), self.config["num_attention_heads"]
        size = self.config["hidden_size"] // heads
        x = self.tensor("embeddings.word_embeddings.weight")[ids]
        x = x + self.tensor("embeddings.position_embeddings.weight")[self.offset : self.offset + n]
        x = x + self.tensor("embeddings.token_type_embeddings.weight")[types]
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(self.config["num_hidden_layers"]):
            at = f"encoder.layer.{layer}."
            q, k, v = (
                self.linear(x, at + "attention.self." + name).reshape(n, heads, size).transpose(1, 0, 2)
                for name in ("query", "key", "value")
            )
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            attended = (weights @ v).transpose(1, 0, 2).reshape(n, heads * size)
            attended = self.linear(attended, at + "attention.output.dense")
            x = self.norm(attended + x, at + "attention.output.LayerNorm")
            wide = self.activation(self.linear(x, at + "intermediate.dense"))
            x = self.norm(self.linear(wide, at + "output.dense") + x, at + "output.LayerNorm")
        return x

    def unit(self, vector):
        return vector / np.linalg.norm(vector) if self.normalize else vector

    def once(self, ids):
        """As `encode`, of one text; the same tokens are computed once."""
        if tuple(ids) not in self.known:
            self.known[tuple(ids)] = self.encode(ids, [0] * len(ids))
        return self.known[tuple(ids)]

    def embed(self, text, long):
        tokens, room = self.tokens(text), self.window - 2
        if long == "truncate":
            tokens = tokens[:room]
        parts = [tokens[at : at + room] for at in range(0, len(tokens), room)] or [[]]
        assert long == "split" or len(parts) == 1
        total, weight, all_ids = 0, 0, []
        for part in parts:
            ids = [self.first] + part + [self.last]
            x = self.once(ids)
            vector = self.unit(x.mean(0) if self.pooling == "mean" else x[0])
            total, weight = total + vector * len(ids), weight + len(ids)
            all_ids.append(ids)
        mean = total / weight
        return all_ids, (self.unit(mean) if len(parts) > 1 else mean).tolist()

    def score(self, query, document):
        query, document = self.tokens(query), self.tokens(document)
        room = self.window - (len(self.pair) - 2)
        while len(query) + len(document) > room:
            (query if len(query) > len(document) else document).pop()
        ids, types = [], []
        for part in self.pair:
            if "SpecialToken" in part:
                kind, more = part["SpecialToken"]["type_id"], [self.special[part["SpecialToken"]["id"]]]
            else:
                kind = part["Sequence"]["type_id"]
                more = query if part["Sequence"]["id"] == "A" else document
            ids, types = ids + more, types + [kind] * len(more)
        x = self.encode(ids, types)[0]
        dense, out = ("classifier.dense", "classifier.out_proj") if self.roberta else ("pooler.dense", "classifier")
        return ids, self.linear(np.tanh(self.linear(x, dense)), out).tolist()


# Files.


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def read_weights(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            raw = data[begin:end]
            if entry["dtype"] == "BF16":
                wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
                values = wide.view(np.float32)
            else:
                values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def write_weights(path, tensors, dtype):
    header, body = {}, b""
    for name, values in tensors.items():
        if dtype == "BF16":
            raw = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": offsets}
        body += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def make(folder, *, model_type="bert", act="gelu", dtype="F32", pooling="mean", normalize=True,
         rerank=False, prefix="", parts=1, hidden=48, heads=3, layers=2, seed=0, own=None):
    """A model with random weights, as the model hub would have it."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    roberta = model_type != "bert"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    known = ["the", "rotor", "is", "balance", "##ed", "sentence", "number", "about", "on"]
    vocabulary = special + letters + ["##" + letter for letter in letters] + known + list(".,?!-0123456789")
    vocabulary = own.vocabulary if own else {word: id for id, word in enumerate(vocabulary)}
    positions, between = 66 if roberta else 64, hidden * 2
    config = {
        "model_type": model_type, "vocab_size": len(vocabulary), "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": between,
        "hidden_act": act, "max_position_embeddings": positions, "layer_norm_eps": 1e-5,
        "type_vocab_size": 1 if roberta else 2, "pad_token_id": vocabulary["<pad>" if own else "[PAD]"],
        "architectures": ["ModelForSequenceClassification" if rerank else "Model"],
    }
    if rerank:
        config["id2label"] = {"0": "LABEL_0"}
    tensors = {}

    def add(name, *shape, mean=0.0, scale=0.3):
        tensors[prefix + name] = (random.standard_normal(shape) * scale + mean).astype(np.float32)

    def linear(name, output, input):
        add(name + ".weight", output, input, scale=1.5 / math.sqrt(input))
        add(name + ".bias", output, scale=0.1)

    def norm(name):
        add(name + ".weight", hidden, mean=1.0, scale=0.1)
        add(name + ".bias", hidden, scale=0.1)

    for name, rows in [("word", len(vocabulary)), ("position", positions), ("token_type", config["type_vocab_size"])]:
        add(f"embeddings.{name}_embeddings.weight", rows, hidden)
    norm("embeddings.LayerNorm")
    for layer in range(layers):
        at = f"encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear(at + "attention." + name, hidden, hidden)
        norm(at + "attention.output.LayerNorm")
        linear(at + "intermediate.dense", between, hidden)
        linear(at + "output.dense", hidden, between)
        norm(at + "output.LayerNorm")
    if rerank and not roberta:
        linear("pooler.dense", hidden, hidden)
    if rerank:
        prefix = ""
        if roberta:
            linear("classifier.dense", hidden, hidden)
        linear("classifier.out_proj" if roberta else "classifier", 1, hidden)
    names = list(tensors)
    files = [f"model-{n + 1:05}-of-{parts:05}.safetensors" for n in range(parts)] if parts > 1 else ["model.safetensors"]
    for n, file in enumerate(files):
        write_weights(folder / file, {name: tensors[name] for name in names[n::parts]}, dtype)
    write = lambda name, value: (folder / name).write_text(json.dumps(value), "utf-8")
    if parts > 1:
        where = {name: files[n % parts] for n, name in enumerate(names)}
        write("model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    write("config.json", config)
    one = lambda id, kind=0: {"SpecialToken": {"id": id, "type_id": kind}}
    text = lambda id, kind=0: {"Sequence": {"id": id, "type_id": kind}}
    first, last = "[CLS]", "[SEP]"
    write("tokenizer.json", own.write() if own else {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": vocabulary[word], "special": True, "content": word, "single_word": False,
                          "lstrip": False, "rstrip": False, "normalized": False} for word in special],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": [one(first), text("A"), one(last)],
                           "pair": [one(first), text("A"), one(last), text("B", 1), one(last, 1)],
                           "special_tokens": {word: {"id": word, "ids": [vocabulary[word]], "tokens": [word]}
                                              for word in (first, last)}},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    })
    if not rerank:
        modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * normalize
        write("modules.json", [{"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
                               for n, (kind, path) in enumerate(modules)])
        (folder / "1_Pooling").mkdir()
        write("1_Pooling/config.json", {"word_embedding_dimension": hidden, "pooling_mode_cls_token": pooling == "cls",
                                        "pooling_mode_mean_tokens": pooling == "mean"})


def cases(folder, own=None):
    model = Model(folder, own)
    if (folder / "modules.json").exists():
        short = [text for text in TEXTS if len(model.tokens(text)) <= model.window - 2]
        for long, texts in [("refuse", short), ("truncate", TEXTS + [LONG]), ("split", TEXTS + [LONG])]:
            found = [model.embed(text, long) for text in texts]
            yield {"model": str(folder), "task": "embed", "texts": texts, "long": long,
                   "ids": [ids for ids, _ in found], "values": [values for _, values in found]}
    else:
        found = [model.score(QUERY, document) for document in DOCUMENTS]
        yield {"model": str(folder), "task": "rerank", "query": QUERY, "texts": DOCUMENTS, "long": "truncate",
               "ids": [[ids] for ids, _ in found], "values": [values for _, values in found]}


def main():
    minilm, out = Path(sys.argv[1]), Path(sys.argv[2])
    made = {
        "bert-cls": dict(pooling="cls", seed=1),
        "bert-mean-raw-bf16": dict(normalize=False, dtype="BF16", act="gelu_new", seed=2),
        "bert-f16-parts": dict(dtype="F16", parts=3, act="relu", prefix="bert.", seed=3),
        "bert-odd": dict(hidden=40, heads=5, layers=3, seed=4),
        "roberta-mean": dict(model_type="xlm-roberta", own=UnigramTokens(TEXTS + [LONG, QUERY]), seed=5),
        "rerank-bert": dict(rerank=True, prefix="bert.", seed=6),
        "rerank-roberta": dict(rerank=True, model_type="roberta", own=RobertaTokens(), prefix="roberta.", seed=7),
    }
    for name, options in made.items():
        make(out / name, **options)
    reference = list(cases(minilm))
    for name, options in made.items():
        reference += cases(out / name, options.get("own"))
    generated = list(decoder.cases(out, write_weights, read_weights))
    (out / "generation.json").write_text(json.dumps(generated), "utf-8")
    (out / "reference.json").write_text(json.dumps(reference), "utf-8")


if __name__ == "__main__":
    main()
