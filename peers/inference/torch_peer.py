"""PyTorch's side of the figures of a GPU.

    python3 torch_peer.py MODEL DEVICE [DTYPE]

Loads an encoder from the folder MODEL by transformers onto DEVICE (`cuda:0`, `cpu`) in DTYPE
(`float32` unless said), with the mean of the tokens and its normalization behind it, and answers
each line of its standard input, `{"ids": [[...], ...], "seconds": 1.0}`, all sequences of one
length: computes that batch again and again for so long, from numbers in memory to vectors in
memory, and writes `{"rounds": 7, "seconds": 1.03, "vectors": [[...], ...]}`. The first line is
`{"torch": "2.11.0", "name": "NVIDIA H200"}`, or `{"left_out": "..."}` where this cannot be
measured here; nothing follows then.

It needs `pip install torch transformers`, some gigabytes, so nothing installs it by itself.
"""

import json
import sys
import time

# Batches of a size before it is measured: kernels are chosen then.
WARM_UP = 4
# Batches that are measured at least.
LEAST = 3


def say(answer):
    print(json.dumps(answer), flush=True)


def leave_out(why):
    say({"left_out": why})
    sys.exit()


def main():
    folder, place = sys.argv[1:3]
    dtype = sys.argv[3] if len(sys.argv) > 3 else "float32"
    try:
        import torch
        import transformers
    except ImportError as missing:
        leave_out(f"python3 has no {missing.name}: pip install torch transformers")
    if place.startswith("cuda") and not torch.cuda.is_available():
        leave_out(f"PyTorch {torch.__version__} finds no GPU: it needs CUDA's driver")
    device = torch.device(place)
    # As exact as ours: no TF32.
    torch.set_float32_matmul_precision("highest")
    model = transformers.AutoModel.from_pretrained(folder)
    model = model.to(device=device, dtype=getattr(torch, dtype)).eval()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else place
    say({"torch": torch.__version__, "name": name})

    def compute(ids):
        hidden = model(ids.to(device)).last_hidden_state
        # To the CPU: it is computed when it is there.
        return torch.nn.functional.normalize(hidden.mean(1), dim=1).float().cpu()

    with torch.inference_mode():
        for line in sys.stdin:
            asked = json.loads(line)
            ids = torch.tensor(asked["ids"])
            for _ in range(WARM_UP):
                compute(ids)
            rounds, begun = 0, time.perf_counter()
            while True:
                vectors = compute(ids)
                rounds += 1
                took = time.perf_counter() - begun
                if rounds >= LEAST and took >= asked["seconds"]:
                    break
            say({"rounds": rounds, "seconds": took, "vectors": vectors.tolist()})


main()
