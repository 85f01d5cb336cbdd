"""The part of reference.py that makes and computes models that generate.

Decoders from their descriptions: RMSNorm (arXiv 1910.07467), rotary positions (2104.09864) and
their scalings (linear; dynamic NTK; Llama 3's; YaRN, 2309.00071; LongRoPE, 2402.13753), grouped queries (2305.13245), SwiGLU
(2002.05202), attention to the latest tokens (2310.06825). In double precision, a whole text at
once and without a cache.
"""

import json
import math

import numpy as np

from tokens import LLAMA3, QWEN2, ByteTokens, PieceTokens, SplitTokens

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = "
    "messages[0]['content'] | trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    "
    "{%- set system = 'None.' %}\n{%- endif %}\n{{- '<|start|>system\n' + system + '<|eot|>' }}\n"
    "{%- for message in messages %}\n    {{- '<|start|>' + message['role'] + '\n' + message['content'] | trim "
    "+ '<|eot|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start|>assistant\n' }}\n"
    "{%- endif %}\n"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles alternate, and the user begins.') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
MESSAGES = [
    {"role": "user", "content": "What is a rotor?"},
    {"role": "assistant", "content": "It turns."},
    {"role": "user", "content": "How is it balanced?"},
]


class Decoder:
    def __init__(self, config, tensors):
        self.config, self.tensors = config, tensors
        self.heads, self.kv = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config.get("head_dim", config["hidden_size"] // self.heads)

    def tensor(self, name):
        for full in ("model." + name, name):
            if full in self.tensors:
                return self.tensors[full].astype(np.float64)
        return None

    def linear(self, x, name):
        bias = self.tensor(name + ".bias")
        return x @ self.tensor(name + ".weight").T + (0 if bias is None else bias)

    def norm(self, x, name):
        root = np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x / root * self.tensor(name + ".weight")

    def rotation(self, count):
        """Cosines and sines of each position's angles, once for each half of a head."""
        d, base = self.size, self.config["rope_theta"]
        scaling = self.config.get("rope_scaling") or {"rope_type": "default"}
        kind, scale = scaling["rope_type"], 1.0
        if kind == "dynamic":
            trained = scaling.get("original_max_position_embeddings", self.config["max_position_embeddings"])
            if count > trained:
                s = scaling["factor"]
                base *= (s * count / trained - (s - 1)) ** (d / (d - 2))
        rates = []
        for i in range(d // 2):
            rate = 1.0 / base ** (2 * i / d)
            if kind == "linear":
                rate /= scaling["factor"]
            if kind == "llama3":
                old, length = scaling["original_max_position_embeddings"], 2 * math.pi / rate
                if length > old / scaling["low_freq_factor"]:
                    rate /= scaling["factor"]
                elif length > old / scaling["high_freq_factor"]:
                    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
                    smooth = (old / length - low) / (high - low)
                    rate = (1 - smooth) * rate / scaling["factor"] + smooth * rate
            rates.append(rate)
        if kind == "yarn":
            old, s = scaling["original_max_position_embeddings"], scaling["factor"]
            where = lambda turns: d * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(base))
            low = max(math.floor(where(scaling.get("beta_fast", 32))), 0)
            high = min(math.ceil(where(scaling.get("beta_slow", 1))), d - 1)
            for i, rate in enumerate(rates):
                gamma = 1 - min(max((i - low) / max(high - low, 0.001), 0), 1)
                rates[i] = (1 - gamma) * rate / s + gamma * rate
            scale = 0.1 * math.log(s) + 1
        if kind == "longrope":
            old = scaling["original_max_position_embeddings"]
            factors = scaling["long_factor" if count > old else "short_factor"]
            rates = [rate / factor for rate, factor in zip(rates, factors, strict=True)]
            s = self.config["max_position_embeddings"] / old
            scale = math.sqrt(1 + math.log(s) / math.log(old))
        angles = np.outer(np.arange(count), rates)
        angles = np.concatenate([angles, angles], -1)
        return np.cos(angles) * scale, np.sin(angles) * scale

    def logits(self, ids):
        n, size, config = len(ids), self.size, self.config
        cosines, sines = self.rotation(n)
        half = size // 2
        turned = lambda x: x * cosines + np.concatenate([-x[..., half:], x[..., :half]], -1) * sines
        query, key = np.arange(n)[:, None], np.arange(n)[None, :]
        before = key <= query
        window, first = config.get("sliding_window"), 0
        if config["model_type"] == "qwen2":
            window = window if config.get("use_sliding_window") else None
            first = config.get("max_window_layers")
        x = self.tensor("embed_tokens.weight")[ids]
        for layer in range(config["num_hidden_layers"]):
            at = f"layers.{layer}."
            normed = self.norm(x, at + "input_layernorm")
            split = lambda name, heads: self.linear(normed, at + "self_attn." + name).reshape(n, heads, size).transpose(1, 0, 2)
            q, k, v = turned(split("q_proj", self.heads)), turned(split("k_proj", self.kv)), split("v_proj", self.kv)
            k, v = (np.repeat(each, self.heads // self.kv, 0) for each in (k, v))
            seen = before & (query - key < window) if window and layer >= first else before
            scores = np.where(seen, q @ k.transpose(0, 2, 1) / math.sqrt(size), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            attended = (weights @ v).transpose(1, 0, 2).reshape(n, self.heads * size)
            x = x + self.linear(attended, at + "self_attn.o_proj")
            normed = self.norm(x, at + "post_attention_layernorm")
            gate, up = self.linear(normed, at + "mlp.gate_proj"), self.linear(normed, at + "mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, at + "mlp.down_proj")
        head = self.tensor("embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight")
        return self.norm(x, "norm") @ head.T


def make(folder, write_weights, read_weights, *, model_type="llama", tokens=None, template=LLAMA, heads=4, kv=2,
         hidden=64, layers=2, dtype="F32", tied=False, parts=1, seed=0, **config):
    """A model with random weights, as the model hub would have it, and the tokenizer of it."""
    folder.mkdir(parents=True)
    tokens = tokens or ByteTokens(True)
    random = np.random.default_rng(seed)
    between, words = hidden * 2, len(tokens.vocabulary)
    config = {
        "model_type": model_type, "architectures": [model_type.capitalize() + "ForCausalLM"], "vocab_size": words,
        "hidden_size": hidden, "intermediate_size": between, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256, "rope_theta": 10000.0, "tie_word_embeddings": tied,
        "eos_token_id": tokens.vocabulary[tokens.end], **config,
    }
    size = config.get("head_dim", hidden // heads)
    tensors = {}

    def add(name, *shape, mean=0.0, scale=0.3):
        tensors[name] = (random.standard_normal(shape) * scale + mean).astype(np.float32)

    def linear(name, output, input, bias=False):
        add(name + ".weight", output, input, scale=1.5 / math.sqrt(input))
        if bias:
            add(name + ".bias", output, scale=0.5)

    def table(name):
        add(name, words, hidden, scale=1.0)
        tensors[name][list(tokens.shy)] *= 0.05

    table("model.embed_tokens.weight")
    if not tied:
        table("lm_head.weight")
    add("model.norm.weight", hidden, mean=1.0, scale=0.1)
    qwen, biased = model_type == "qwen2", config.get("attention_bias", False)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(at + name + ".weight", hidden, mean=1.0, scale=0.1)
        for name, output in (("q_proj", heads * size), ("k_proj", kv * size), ("v_proj", kv * size)):
            linear(at + "self_attn." + name, output, hidden, qwen or biased)
        linear(at + "self_attn.o_proj", hidden, heads * size, biased)
        for name, output, input in (("gate_proj", between, hidden), ("up_proj", between, hidden), ("down_proj", hidden, between)):
            linear(at + "mlp." + name, output, input, config.get("mlp_bias", False))
    names = list(tensors)
    files = [f"model-{n + 1:05}-of-{parts:05}.safetensors" for n in range(parts)] if parts > 1 else ["model.safetensors"]
    for n, file in enumerate(files):
        write_weights(folder / file, {name: tensors[name] for name in names[n::parts]}, dtype)
    write = lambda name, value: (folder / name).write_text(json.dumps(value), "utf-8")
    if parts > 1:
        write("model.safetensors.index.json", {"metadata": {}, "weight_map": {
            name: files[n % parts] for n, name in enumerate(names)}})
    write("config.json", config)
    write("generation_config.json", {"eos_token_id": [tokens.vocabulary[tokens.end]]})
    write("tokenizer.json", tokens.write())
    write("tokenizer_config.json", {"bos_token": tokens.begin, "eos_token": {"content": tokens.end},
                                    "chat_template": template})
    # As the numbers are in the file.
    return Decoder(config, read_weights(folder)), tokens


def prompt_of(template, tokens):
    """What a template makes of MESSAGES, written out."""
    user, model, again = (message["content"] for message in MESSAGES)
    if template is CHATML:
        return (f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{model}<|im_end|>\n"
                f"<|im_start|>user\n{again}<|im_end|>\n<|im_start|>assistant\n")
    if template is LLAMA:
        return (f"<|begin|><|start|>system\nNone.<|eot|><|start|>user\n{user}<|eot|><|start|>assistant\n{model}<|eot|>"
                f"<|start|>user\n{again}<|eot|><|start|>assistant\n")
    return f"<s>[INST] {user} [/INST]{model}</s>[INST] {again} [/INST]"


TURNS = {
    "llama-gqa": dict(seed=11, max_position_embeddings=256, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "qwen2-tied": dict(model_type="qwen2", template=CHATML, tokens=SplitTokens(False, QWEN2, normal_form="NFC"), tied=True,
                       dtype="BF16", rope_theta=1000000.0, use_sliding_window=False, sliding_window=16, seed=12,
                       rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
    # Its first layer attends to all tokens.
    "qwen2-sliding": dict(model_type="qwen2", template=CHATML, tokens=SplitTokens(False, QWEN2, normal_form="NFC"), layers=3,
                          use_sliding_window=True, sliding_window=8, max_window_layers=1, seed=17),
    "mistral-sliding": dict(model_type="mistral", template=MISTRAL, tokens=PieceTokens(), head_dim=24, kv=1,
                            sliding_window=8, dtype="F16", parts=2, seed=13),
    "llama-yarn": dict(tokens=SplitTokens(True, LLAMA3, whole_words=True), kv=4, attention_bias=True, mlp_bias=True, seed=14, layers=3, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    # Its first two prompts stay below 64 tokens, the others begin above.
    "llama-longrope": dict(seed=16, rope_scaling={
        "rope_type": "longrope", "original_max_position_embeddings": 64,
        "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0],
        "long_factor": [1.0, 1.3, 1.9, 2.8, 3.5, 4.0, 4.5, 5.0]}),
    "llama-linear": dict(hidden=48, heads=6, kv=3, seed=15, rope_scaling={"rope_type": "linear", "factor": 2.0}),
}
PROMPTS = ["The rotor is", "Grüße, 東京: ", "A longer prompt that says more than once that the rotor is turning in the housing. " * 2]
STEPS = 24


def cases(out, write_weights, read_weights):
    for name, options in TURNS.items():
        model, tokens = make(out / name, write_weights, read_weights, **options)
        template = options.get("template", LLAMA)
        chat = prompt_of(template, tokens)
        for prompt, ids in [(prompt, tokens.tokens(prompt)) for prompt in PROMPTS] + [(None, tokens.tokens(chat, False))]:
            logits = model.logits(ids)
            found, margin = [], math.inf
            for _ in range(STEPS):
                last = model.logits(ids + found)[-1]
                best, second = np.argsort(last)[::-1][:2]
                margin = min(margin, last[best] - last[second])
                found.append(int(best))
            # Rounding must not decide.
            assert margin > 2e-3, (name, prompt, margin)
            yield {"model": str(out / name), "prompt": prompt, "messages": [] if prompt else MESSAGES,
                   "ids": ids, "logits": logits[-8:].tolist(), "next": found, "text": tokens.text(found)}
