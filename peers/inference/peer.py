"""onnxruntime's side of the benchmark of embeddings.

    python3 peer.py MODEL THREADS

Reads a BERT encoder from the folder MODEL, makes the graph of it that onnxruntime's own
optimizer makes of an exported one (its fused operators for embeddings, attention, GELU and
normalization), with the mean of the tokens and its normalization behind it, and answers each
line of its standard input, `{"ids": [[...], ...], "seconds": 0.5}`, all sequences of one length:
computes that batch again and again for so long, and writes
`{"rounds": 7, "seconds": 0.53, "vectors": [[...], ...]}`. The first line is for nobody: `{}`.
"""

import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FUSED = "com.microsoft"


def read_weights(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = (8 + length + at for at in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], np.float32).reshape(entry["shape"])
    return tensors


def graph(config, tensors):
    nodes, constants = [], []

    def constant(name, values):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def tensor(name):
        return constant(name, tensors[name])

    def turned(*names):
        weights = np.concatenate([tensors[f"{name}.weight"] for name in names])
        return constant(f"{names[0]}.weight", weights.T)

    def node(kind, inputs, output, domain="", **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def norm(name):
        return [tensor(f"{name}.weight"), tensor(f"{name}.bias")]

    epsilon = config["layer_norm_eps"]
    tables = [tensor(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")]
    nodes.append(helper.make_node(
        "EmbedLayerNormalization", ["ids", "types", *tables, *norm("embeddings.LayerNorm")],
        ["embedded", "unmasked"], domain=FUSED, epsilon=epsilon))
    x = "embedded"
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}."
        qkv = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        bias = constant(f"{qkv[0]}.bias", np.concatenate([tensors[f"{name}.bias"] for name in qkv]))
        attended = node("Attention", [x, turned(*qkv), bias], f"{at}attended", FUSED,
                        num_heads=config["num_attention_heads"])
        dense = f"{at}attention.output.dense"
        product = node("MatMul", [attended, turned(dense)], f"{at}joined")
        x = node("SkipLayerNormalization", [product, x, *norm(f"{at}attention.output.LayerNorm"),
                                            tensor(f"{dense}.bias")], f"{at}read", FUSED, epsilon=epsilon)
        dense = f"{at}intermediate.dense"
        wide = node("MatMul", [x, turned(dense)], f"{at}wide")
        wide = node("BiasGelu", [wide, tensor(f"{dense}.bias")], f"{at}active", FUSED)
        dense = f"{at}output.dense"
        product = node("MatMul", [wide, turned(dense)], f"{at}narrow")
        x = node("SkipLayerNormalization", [product, x, *norm(f"{at}output.LayerNorm"),
                                            tensor(f"{dense}.bias")], f"{at}out", FUSED, epsilon=epsilon)
    mean = node("ReduceMean", [x, constant("tokens", np.array([1]))], "mean", keepdims=0)
    node("LpNormalization", [mean], "vectors", axis=-1, p=2)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"]) for name in ("ids", "types")]
    outputs = [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["batch", config["hidden_size"]])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(FUSED, 1)]
    made = helper.make_graph(nodes, "encoder", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def main():
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    config = json.loads((folder / "config.json").read_text("utf-8"))
    if config["model_type"] != "bert" or config["hidden_act"] != "gelu":
        sys.exit("only BERT with GELU is compared")
    model = graph(config, read_weights(folder / "model.safetensors"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ids = np.array(asked["ids"], np.int32)
        inputs = {"ids": ids, "types": np.zeros_like(ids)}
        rounds, begun = 0, time.perf_counter()
        while True:
            (vectors,) = session.run(None, inputs)
            rounds += 1
            took = time.perf_counter() - begun
            if took >= asked["seconds"]:
                break
        print(json.dumps({"rounds": rounds, "seconds": took, "vectors": vectors.tolist()}), flush=True)


main()
