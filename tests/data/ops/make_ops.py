#!/usr/bin/env python3
"""Writes one single-operator model a case, and what onnxruntime computes for it.

    python3 -m pip install onnx onnxruntime numpy && python3 tests/data/ops/make_ops.py

Beside this file: <case>.onnx, and expected.npz with <case>/in/<input> and <case>/out/<output>. `runtime` reads both.
The first axis of the first input is symbolic in every model that does not say otherwise.
"""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

FOLDER = Path(__file__).parent
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64,
         "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
rng = np.random.default_rng(7)
cases, expected = set(), {}


def f(*shape):
    """Normal float32 numbers with few mantissa bits, so that the archive packs well."""
    return (np.round(rng.standard_normal(shape) * 64) / 64).astype(np.float32)


def i(high, *shape, dtype=np.int64):
    return rng.integers(0, high, shape).astype(dtype)


def case(name, op, inputs, outputs=("y",), opset=18, symbolic=True, want=None, **attributes):
    """`inputs` is a dict in slot order; a None value leaves the slot out."""
    assert name not in cases, name
    cases.add(name)
    slots = [key if value is not None else "" for key, value in inputs.items()]
    values = {key: value for key, value in inputs.items() if value is not None}
    node = helper.make_node(op, slots, list(outputs), name=name, **attributes)
    infos = []
    for position, (key, value) in enumerate(values.items()):
        shape = list(value.shape)
        if symbolic and position == 0 and shape:
            shape[0] = "batch"
        infos.append(helper.make_tensor_value_info(key, TYPES[value.dtype.name], shape))
    named = [o for o in outputs if o]
    results = want
    if results is None:
        unknown = [helper.make_empty_tensor_value_info(o) for o in named]
        graph = helper.make_graph([node], name, infos, unknown)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results = session.run(named, values)
    outs = [helper.make_tensor_value_info(o, TYPES[r.dtype.name], None) for o, r in zip(named, results)]
    graph = helper.make_graph([node], name, infos, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="npc")
    onnx.save(model, FOLDER / f"{name}.onnx")
    expected.update({f"{name}/in/{key}": value for key, value in values.items()})
    expected.update({f"{name}/out/{o}": np.asarray(r) for o, r in zip(named, results)})


def convolutions():
    case("conv_1d", "Conv", {"x": f(2, 3, 11), "w": f(4, 3, 3), "b": f(4)}, strides=[2], pads=[1, 0])
    case("conv_2d", "Conv", {"x": f(3, 4, 9, 7), "w": f(6, 4, 3, 2), "b": f(6)}, pads=[1, 0, 2, 1], dilations=[2, 1])
    case("conv_groups", "Conv", {"x": f(2, 4, 6, 6), "w": f(6, 2, 3, 3)}, group=2, strides=[1, 2])
    case("conv_depthwise", "Conv", {"x": f(2, 5, 8, 8), "w": f(10, 1, 3, 3), "b": f(10)}, group=5, pads=[1] * 4)
    case("conv_3d", "Conv", {"x": f(1, 2, 4, 5, 6), "w": f(3, 2, 2, 3, 1)}, pads=[0, 1, 0, 1, 1, 0])
    case("conv_1x1", "Conv", {"x": f(2, 8, 5, 5), "w": f(3, 8, 1, 1), "b": f(3)})
    for pad in ["SAME_UPPER", "SAME_LOWER", "VALID"]:
        case(f"conv_{pad.lower()}", "Conv", {"x": f(2, 2, 7, 6), "w": f(3, 2, 4, 3)}, auto_pad=pad, strides=[2, 1])
    case("conv_batch_of_one", "Conv", {"x": f(1, 1, 5, 5), "w": f(1, 1, 5, 5)})
    # The weight gradient of a convolution with strides 2, as a convolution of transposed tensors.
    case("conv_weight_gradient", "Conv", {"x": f(3, 4, 9, 9), "dy": f(5, 4, 5, 5)}, pads=[1, 1, 1, 1], dilations=[2, 2])
    case("conv_weight_gradient_bias", "Conv", {"x": f(3, 2, 8), "dy": f(5, 2, 7), "b": f(5)}, symbolic=False)


def transposed_convolutions():
    case("conv_transpose_2d", "ConvTranspose", {"x": f(2, 4, 5, 4), "w": f(4, 3, 3, 3), "b": f(3)},
         strides=[2, 2], pads=[1, 1, 0, 1], output_padding=[1, 0])
    case("conv_transpose_groups", "ConvTranspose", {"x": f(2, 4, 5), "w": f(4, 3, 3)}, group=2, dilations=[2])
    case("conv_transpose_depthwise", "ConvTranspose", {"x": f(2, 4, 5, 5), "w": f(4, 1, 3, 3)}, group=4, pads=[1] * 4)
    case("conv_transpose_output_shape", "ConvTranspose", {"x": f(1, 2, 3, 3), "w": f(2, 2, 3, 3)},
         strides=[3, 2], output_shape=[10, 8])
    case("conv_transpose_same_upper", "ConvTranspose", {"x": f(1, 2, 4, 3), "w": f(2, 2, 3, 3)},
         strides=[2, 2], auto_pad="SAME_UPPER")
    case("conv_transpose_1x1", "ConvTranspose", {"x": f(2, 6, 4, 4), "w": f(6, 5, 1, 1)})


def losses():
    for op, short in [("SoftmaxCrossEntropyLoss", "sce"), ("NegativeLogLikelihoodLoss", "nll")]:
        for reduction in ["none", "sum", "mean"]:
            case(f"{short}_{reduction}", op, {"scores": f(6, 5), "labels": i(5, 6)}, reduction=reduction)
            labels = i(5, 4, 3)
            labels[1, 2] = labels[3, 0] = -100
            case(f"{short}_{reduction}_weight_ignore", op, {"scores": f(4, 5, 3), "labels": labels, "w": abs(f(5)) + 1},
                 reduction=reduction, ignore_index=-100)
        case(f"{short}_int32", op, {"scores": f(3, 4, 2, 2), "labels": i(4, 3, 2, 2, dtype=np.int32)})
        labels = np.array([2, 0, 1, 2])
        case(f"{short}_ignored_class", op, {"scores": f(4, 3), "labels": labels, "w": abs(f(3)) + 1}, ignore_index=2)
    case("sce_log_prob", "SoftmaxCrossEntropyLoss", {"scores": 9 * f(4, 7), "labels": i(7, 4)}, ("loss", "log_prob"))
    case("sce_log_prob_nd", "SoftmaxCrossEntropyLoss", {"scores": f(2, 4, 3, 2), "labels": i(4, 2, 3, 2), "w": abs(f(4))},
         ("loss", "log_prob"), reduction="none")
    case("sce_one_sample", "SoftmaxCrossEntropyLoss", {"scores": f(1, 1), "labels": i(1, 1)}, ("loss", "log_prob"))


if __name__ == "__main__":
    for old in FOLDER.glob("*.onnx"):
        old.unlink()
    convolutions()
    transposed_convolutions()
    losses()
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    print(len(cases), "cases")
