"""Turns a text into tokens.npz for models/pytorch-train-step/transformer_adamw.onnx: 96 tokens (printable ASCII), sequences of 32.

Usage: make_tokens.py TEXT OUT.npz. Prints the text's unigram entropy in nats, the loss of a model that knows frequencies only.
"""

import sys

import numpy as np

LENGTH = 32
raw = np.frombuffer(open(sys.argv[1], "rb").read(), np.uint8).astype(np.int64)
tokens = np.where((raw >= 32) & (raw < 128), raw - 32, 0)
count = (len(tokens) - 1) // LENGTH
x = tokens[: count * LENGTH].reshape(count, LENGTH)
y = tokens[1 : count * LENGTH + 1].reshape(count, LENGTH)
share = np.bincount(tokens, minlength=96) / len(tokens)
entropy = float(-np.sum(share[share > 0] * np.log(share[share > 0])))
np.savez(sys.argv[2], x=x, y=y)
print(f"{count} sequences of {LENGTH} tokens; unigram entropy {entropy:.4f} nats")
