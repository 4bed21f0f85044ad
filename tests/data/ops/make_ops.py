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


def case(name, op, inputs, outputs=("y",), opset=18, symbolic=True, want=None, constants=(), **attributes):
    """`inputs` is a dict in slot order; a None value leaves the slot out, `constants` names those that are initializers."""
    assert name not in cases, name
    cases.add(name)
    slots = [key if value is not None else "" for key, value in inputs.items()]
    values = {key: value for key, value in inputs.items() if value is not None}
    node = helper.make_node(op, slots, list(outputs), name=name, **attributes)
    infos = []
    fixed = [onnx.numpy_helper.from_array(values.pop(key), key) for key in constants]
    for position, (key, value) in enumerate(values.items()):
        shape = list(value.shape)
        if symbolic and position == 0 and shape:
            shape[0] = "batch"
        infos.append(helper.make_tensor_value_info(key, TYPES[value.dtype.name], shape))
    named = [o for o in outputs if o]
    results = want
    if results is None:
        unknown = [helper.make_empty_tensor_value_info(o) for o in named]
        graph = helper.make_graph([node], name, infos, unknown, fixed)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results = session.run(named, values)
    outs = [helper.make_tensor_value_info(o, TYPES[r.dtype.name], None) for o, r in zip(named, results)]
    graph = helper.make_graph([node], name, infos, outs, fixed)
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


def ints(*values):
    return np.array(values, dtype=np.int64)


def elementwise():
    for op in ["Abs", "Neg", "Exp", "Tanh", "Sigmoid", "Erf", "Relu", "LeakyRelu", "Elu", "Selu", "HardSigmoid", "Softplus",
               "Softsign", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "HardSwish"]:
        case(f"unary_{op.lower()}", op, {"x": 2 * f(3, 5)})
    for op in ["Log", "Sqrt", "Reciprocal"]:
        case(f"unary_{op.lower()}", op, {"x": abs(f(3, 5)) + np.float32(0.125)})
    case("unary_gelu", "Gelu", {"x": 2 * f(3, 5)}, opset=20)
    case("unary_gelu_tanh", "Gelu", {"x": 2 * f(3, 5)}, opset=20, approximate="tanh")
    case("unary_clip", "Clip", {"x": f(4, 5), "low": np.float32(-0.5), "high": np.float32(0.75)}, constants=["low", "high"])
    for op in ["Add", "Sub", "Mul", "Div", "Max", "Min"]:
        case(f"binary_{op.lower()}", op, {"x": f(2, 3, 5), "z": abs(f(3, 1)) + 1})
    case("binary_pow", "Pow", {"x": abs(f(3, 5)) + 1, "e": f(3, 5)})
    case("binary_prelu", "PRelu", {"x": f(3, 5), "slope": f(5)})
    for op in ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]:
        case(f"compare_{op.lower()}", op, {"x": np.round(f(4, 5)), "z": np.round(f(4, 5))})
    case("where", "Where", {"c": f(4, 1) > 0, "x": f(4, 5), "z": f(5)})
    case("cast_to_int", "Cast", {"x": 5 * f(3, 4)}, to=TensorProto.INT64)
    case("cast_to_float", "Cast", {"x": i(9, 3, 4)}, to=TensorProto.FLOAT)
    case("isnan", "IsNaN", {"x": np.float32([[1, np.nan], [np.inf, 0]])})


def reductions():
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
               "ReduceLogSumExp", "ReduceLogSum"]:
        x = abs(f(3, 4, 5)) + np.float32(0.5) if op == "ReduceLogSum" else f(3, 4, 5)
        case(f"{op.lower()}_last", op, {"x": x, "axes": ints(-1)}, constants=["axes"], keepdims=0)
        case(f"{op.lower()}_two", op, {"x": x, "axes": ints(0, 2)}, constants=["axes"], keepdims=1)
    for op in ["ArgMax", "ArgMin"]:
        case(op.lower(), op, {"x": f(3, 6, 2)}, axis=1, keepdims=0)
        case(f"{op.lower()}_last", op, {"x": np.round(f(3, 6))}, axis=-1, select_last_index=1)
    case("cumsum", "CumSum", {"x": f(3, 5), "axis": np.int64(1)}, constants=["axis"])
    case("topk", "TopK", {"x": f(3, 7), "k": ints(3)}, ("values", "indices"), constants=["k"], axis=-1)
    case("softmax", "Softmax", {"x": 3 * f(4, 9)}, axis=-1)
    case("softmax_middle", "Softmax", {"x": 3 * f(4, 5, 3)}, axis=1)
    case("log_softmax", "LogSoftmax", {"x": 3 * f(4, 9)}, axis=-1)
    case("matmul", "MatMul", {"x": f(2, 3, 4), "z": f(4, 5)})
    case("matmul_batched", "MatMul", {"x": f(2, 3, 4, 5), "z": f(3, 5, 2)})
    case("gemm", "Gemm", {"x": f(4, 3), "w": f(5, 4), "b": f(5)}, transA=1, transB=1, alpha=0.5, beta=2.0, symbolic=False)
    case("einsum", "Einsum", {"x": f(2, 3, 4), "z": f(2, 5, 4)}, equation="bik,bjk->bij")


def moves():
    case("transpose", "Transpose", {"x": f(2, 3, 4)}, perm=[2, 0, 1])
    case("concat", "Concat", {"x": f(2, 3), "z": f(2, 4)}, axis=1)
    case("slice_steps", "Slice", {"x": f(3, 9), "s": ints(1), "e": ints(9), "a": ints(1), "k": ints(2)},
         constants=["s", "e", "a", "k"])
    case("slice_backwards", "Slice", {"x": f(3, 9), "s": ints(-1), "e": ints(-10), "a": ints(1), "k": ints(-1)},
         constants=["s", "e", "a", "k"])
    case("split", "Split", {"x": f(3, 9), "s": ints(2, 4, 3)}, ("p", "q", "r"), constants=["s"], axis=1)
    case("expand", "Expand", {"x": f(3, 1), "shape": ints(2, 3, 4)}, constants=["shape"], symbolic=False)
    case("tile", "Tile", {"x": f(3, 4), "r": ints(1, 3)}, constants=["r"])
    case("tile_both", "Tile", {"x": f(3, 4), "r": ints(2, 2)}, constants=["r"], symbolic=False)
    pads = {"pads": ints(0, 2, 1, 0, 1, 2)}
    case("pad_constant", "Pad", {"x": f(2, 4, 5), **pads, "v": np.float32(0.5)}, constants=["pads", "v"])
    case("pad_zero", "Pad", {"x": f(2, 4, 5), **pads}, constants=["pads"])
    case("pad_reflect", "Pad", {"x": f(2, 4, 5), **pads}, constants=["pads"], mode="reflect")
    case("pad_edge", "Pad", {"x": f(2, 4, 5), **pads}, constants=["pads"], mode="edge")
    case("pad_int64", "Pad", {"x": i(9, 3, 4), "pads": ints(0, 1, 0, 2)}, constants=["pads"])
    case("trilu", "Trilu", {"x": f(2, 5, 5)}, upper=0)
    case("gather_rows", "Gather", {"x": f(7, 3), "rows": i(7, 2, 4)}, axis=0, symbolic=False)
    case("gather_middle", "Gather", {"x": f(2, 7, 3), "at": ints(6, 0, -1)}, constants=["at"], axis=1)
    case("gather_elements", "GatherElements", {"x": f(4, 6), "at": i(6, 4, 2)}, axis=1, symbolic=False)
    case("gather_nd", "GatherND", {"x": f(3, 4, 5), "at": np.stack([i(3, 6), i(4, 6)], 1)}, symbolic=False)
    case("scatter_elements", "ScatterElements", {"x": f(4, 6), "at": i(6, 4, 1), "u": f(4, 1)}, axis=1, symbolic=False)
    case("scatter_elements_add", "ScatterElements", {"x": f(4, 6), "at": i(6, 4, 3), "u": f(4, 3)}, axis=1,
         reduction="add", symbolic=False)
    case("scatter_nd", "ScatterND", {"x": f(5, 3), "at": ints(4, 1).reshape(2, 1), "u": f(2, 3)}, symbolic=False)
    case("scatter_nd_add", "ScatterND", {"x": f(5, 3), "at": ints(4, 1, 4).reshape(3, 1), "u": f(3, 3)}, reduction="add",
         symbolic=False)
    values = np.float32([0, 1])
    case("one_hot", "OneHot", {"at": i(6, 4), "d": ints(6), "v": values}, constants=["d", "v"], axis=-1)


def norms_and_pools():
    case("layer_norm", "LayerNormalization", {"x": f(4, 10), "s": f(10), "b": f(10)}, axis=-1)
    case("layer_norm_no_bias", "LayerNormalization", {"x": f(2, 3, 10), "s": f(10)}, axis=-1)
    case("batch_norm", "BatchNormalization", {"x": f(4, 3, 5), "s": f(3), "b": f(3), "m": f(3), "v": abs(f(3)) + 1})
    case("instance_norm", "InstanceNormalization", {"x": f(2, 3, 8), "s": f(3), "b": f(3)})
    case("max_pool", "MaxPool", {"x": f(2, 3, 7, 6)}, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    case("average_pool", "AveragePool", {"x": f(2, 3, 7, 6)}, kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1])
    case("average_pool_count", "AveragePool", {"x": f(2, 3, 7)}, kernel_shape=[3], pads=[1, 1], count_include_pad=1)
    case("global_average_pool", "GlobalAveragePool", {"x": f(2, 3, 4, 5)})
    case("global_max_pool", "GlobalMaxPool", {"x": f(2, 3, 4, 5)})
    case("dropout_off", "Dropout", {"x": f(3, 5)})


if __name__ == "__main__":
    for old in FOLDER.glob("*.onnx"):
        old.unlink()
    convolutions()
    transposed_convolutions()
    losses()
    elementwise()
    reductions()
    moves()
    norms_and_pools()
    np.savez_compressed(FOLDER / "expected.npz", **expected)
    print(len(cases), "cases")
