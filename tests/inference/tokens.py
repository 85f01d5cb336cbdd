"""The part of reference.py that makes tokenizers, and tokens of texts.

Byte-level merges as GPT-2's paper's code has them, with the patterns of RoBERTa, Llama 3 and Qwen2; merges of letters
as Llama 2's; and unigrams, for which SentencePiece itself is the reference: it learns them, and makes tokens by them.
Each writes a `tokenizer.json` as the model hub's are.
"""

import base64
import io
import re
import unicodedata

import sentencepiece


def byte_letters():
    """The letter that stands for each byte in byte-level tokenizers, as GPT-2's paper's code has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, more = {byte: chr(byte) for byte in plain}, 0
    for byte in range(256):
        if byte not in letters:
            letters[byte], more = chr(256 + more), more + 1
    return letters


MERGES = ["th", "he", "in", "an", "ro", "ti", "the", "or", "rot", "rotor", "ing", "is"]


def merge(parts, merges):
    while True:
        ranked = [(merges.index(a + b), n) for n, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in merges]
        if not ranked:
            return parts
        at = min(ranked)[1]
        parts = parts[:at] + [parts[at] + parts[at + 1]] + parts[at + 2 :]


def merge_pairs(merges, vocabulary):
    """Each merge as the two pieces that make it."""
    pairs = []
    for word in merges:
        known = [m for m in merges[: merges.index(word)]]
        left, right = merge(list(word), known)[0], None
        right = word[len(left) :]
        assert left in vocabulary and right in vocabulary, word
        pairs.append([left, right])
    return pairs


class ByteTokens:
    """Bytes and merges of them; special tokens stand for themselves."""

    special = ["<|begin|>", "<|end|>", "<|start|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]
    begin, end, at_first = "<|begin|>", "<|end|>", []

    def __init__(self, adds_begin):
        self.letters, self.adds_begin = byte_letters(), adds_begin
        words = self.at_first + [self.letters[byte] for byte in range(256)] + MERGES
        words += [word for word in self.special if word not in self.at_first]
        self.vocabulary = {word: id for id, word in enumerate(words)}
        # Not to be drawn: they would make no text.
        self.shy = [*range(0, 32), *range(127, 256), *(self.vocabulary[word] for word in self.special)]

    def tokens(self, text, special=True):
        ids = [self.vocabulary[self.begin]] if special and self.adds_begin else []
        while text:
            found = [(text.find(word), word) for word in self.special if word in text]
            at, word = min(found, default=(len(text), ""))
            ids += self.plain(text[:at])
            ids += [self.vocabulary[word]] if word else []
            text = text[at + len(word) :]
        return ids

    def plain(self, text):
        parts = [self.letters[byte] for byte in text.encode()]
        return [self.vocabulary[part] for part in merge(parts, MERGES)]

    def text(self, ids):
        bytes_of = {letter: byte for byte, letter in self.letters.items()}
        words = {id: word for word, id in self.vocabulary.items()}
        letters = "".join(words[id] for id in ids if words[id] not in self.special)
        return bytes(bytes_of[letter] for letter in letters).decode("utf-8", "replace").rstrip("\ufffd")

    def write(self):
        begin = {"SpecialToken": {"id": self.begin, "type_id": 0}}
        text = lambda id: {"Sequence": {"id": id, "type_id": 0}}
        around = [begin] if self.adds_begin else []
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added(self),
            "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            "post_processor": {"type": "TemplateProcessing", "single": around + [text("A")],
                               "pair": around + [text("A"), text("B")],
                               "special_tokens": {self.begin: {"id": self.begin, "ids": [self.vocabulary[self.begin]],
                                                               "tokens": [self.begin]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": self.vocabulary, "merges": merge_pairs(MERGES, self.vocabulary)},
        }


class PieceTokens:
    """Letters and merges of them, a space as a letter of its own; other letters as their bytes."""

    special = ["<unk>", "<s>", "</s>"]
    begin, end = "<s>", "</s>"

    def __init__(self):
        letters = ["▁", *map(chr, range(33, 127)), "\n"]
        bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
        self.vocabulary = {word: id for id, word in enumerate(self.special + bytes_ + letters + MERGES)}
        self.shy = range(3 + 256)

    def tokens(self, text, special=True):
        ids = [self.vocabulary[self.begin]] if special else []
        first = True
        while text:
            found = [(text.find(word), word) for word in self.special if word in text]
            at, word = min(found, default=(len(text), ""))
            # The space before a text stands before each part of it, if there is any.
            part = text[:at]
            pieces = merge(list("▁" + part.replace(" ", "▁")), MERGES) if part else []
            for piece in pieces:
                if piece in self.vocabulary:
                    ids.append(self.vocabulary[piece])
                else:
                    ids += [self.vocabulary[f"<0x{byte:02X}>"] for byte in piece.encode()]
            ids += [self.vocabulary[word]] if word else []
            text, first = text[at + len(word) :], False
        return ids

    def text(self, ids):
        words = {id: word for word, id in self.vocabulary.items()}
        return "".join(words[id].replace("▁", " ") for id in ids if words[id] not in self.special)

    def write(self):
        text = lambda id: {"Sequence": {"id": id, "type_id": 0}}
        begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added(self),
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "pre_tokenizer": None,
            "post_processor": {"type": "TemplateProcessing", "single": [begin, text("A")],
                               "pair": [begin, text("A"), begin, text("B")],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
                      "vocab": self.vocabulary, "merges": merge_pairs(MERGES, self.vocabulary)},
        }


def added(tokens):
    return [{"id": tokens.vocabulary[word], "special": True, "content": word, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False} for word in tokens.special]


# How texts are split into words before any merge.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def as_python(pattern):
    """The same for Python's expressions, but for numbers that are no decimal digits."""
    for theirs, ours in [
        (r"[^\r\n\p{L}\p{N}]", r"(?:[^\r\n\w]|_)"), (r"[^\s\p{L}\p{N}]", r"(?:[^\s\w]|_)"),
        (r"\p{L}", r"[^\W\d_]"), (r"\p{N}", r"\d"),
    ]:
        pattern = pattern.replace(theirs, ours)
    assert r"\p" not in pattern
    return re.compile(pattern)


class SplitTokens(ByteTokens):
    """The same of words, between which nothing is merged, though the first merges would."""

    merges = ["eĠ", "rĠ", *MERGES, "Ġthe", "Ġrotor", "12", "123", "1234", "ĊĊ", "'s"]

    def __init__(self, adds_begin, pattern, whole_words=False, normal_form=None):
        super().__init__(adds_begin)
        self.pattern, self.whole_words, self.normal_form = pattern, whole_words, normal_form
        self.words = as_python(pattern)
        # No merge makes it.
        for word in [word for word in self.merges if word not in self.vocabulary] + ["Ġturning"]:
            self.vocabulary[word] = len(self.vocabulary)

    def plain(self, text):
        if self.normal_form:
            text = unicodedata.normalize(self.normal_form, text)
        for word in self.words.findall(text):
            letters = "".join(self.letters[byte] for byte in word.encode())
            if self.whole_words and letters in self.vocabulary:
                yield self.vocabulary[letters]
            else:
                yield from (self.vocabulary[part] for part in merge(list(letters), self.merges))

    def write(self):
        tokenizer = super().write()
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
        if self.normal_form:
            tokenizer["normalizer"] = {"type": self.normal_form}
        around = tokenizer["post_processor"]
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [level, around]} if self.adds_begin else level
        tokenizer["model"].update(merges=merge_pairs(self.merges, self.vocabulary), ignore_merges=self.whole_words)
        return tokenizer


# What stands around two texts, in RoBERTa and what comes of it.
ONE = lambda id: {"SpecialToken": {"id": id, "type_id": 0}}
TEXT = lambda id: {"Sequence": {"id": id, "type_id": 0}}
SINGLE = [ONE("<s>"), TEXT("A"), ONE("</s>")]
PAIR = [ONE("<s>"), TEXT("A"), ONE("</s>"), ONE("</s>"), TEXT("B"), ONE("</s>")]


class RobertaTokens(SplitTokens):
    special = at_first = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    begin, end = "<s>", "</s>"

    def __init__(self):
        super().__init__(False, GPT2)

    def write(self):
        tokenizer = super().write()
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        around = {"sep": ["</s>", self.vocabulary["</s>"]], "cls": ["<s>", self.vocabulary["<s>"]]}
        tokenizer["pre_tokenizer"] = level
        tokenizer["post_processor"] = {
            "type": "RobertaProcessing", **around, "trim_offsets": True, "add_prefix_space": False}
        return tokenizer


class UnigramTokens:
    """XLM-RoBERTa's and multilingual E5's, learned from some texts."""

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]

    def __init__(self, texts):
        model = io.BytesIO()
        # What is rare stays unknown.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, model_type="unigram", vocab_size=160, hard_vocab_limit=False,
            character_coverage=0.985, num_threads=1, minloglevel=2)
        self.pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        self.charsmap = field(field(model.getvalue(), 3), 2)
        count = self.pieces.get_piece_size()
        assert [self.pieces.id_to_piece(id) for id in range(3)] == ["<unk>", "<s>", "</s>"]
        scored = [(self.pieces.id_to_piece(id), self.pieces.get_score(id)) for id in range(3, count)]
        self.scored = [(word, 0.0) for word in self.special[:4]] + scored + [("<mask>", 0.0)]
        self.vocabulary = {word: id for id, (word, _) in enumerate(self.scored)}

    def tokens(self, text, special=False):
        # Its first three are others there.
        return [id + 1 if id > 2 else self.vocabulary["<unk>"] for id in self.pieces.encode(text)]

    def write(self):
        metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True, "prepend_scheme": "always"}
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added(self),
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(self.charsmap).decode()},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {
                "type": "TemplateProcessing", "single": SINGLE, "pair": PAIR,
                "special_tokens": {word: {"id": word, "ids": [self.vocabulary[word]], "tokens": [word]}
                                   for word in ("<s>", "</s>")}},
            "decoder": metaspace,
            "model": {"type": "Unigram", "unk_id": self.vocabulary["<unk>"], "vocab": self.scored, "byte_fallback": False},
        }


def field(message, wanted):
    """A member of a protobuf message that has a length, the last of that number."""
    at, found = 0, None

    def number():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte, at = message[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 2:
            length = number()
            if key >> 3 == wanted:
                found = message[at : at + length]
            at += length
        elif key & 7 == 0:
            number()
        else:
            at += {1: 8, 5: 4}[key & 7]
    assert found is not None, wanted
    return found
