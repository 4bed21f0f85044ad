"""Checks emitted models with tools that are not ours: ONNX's checker, ReferenceEvaluator and ONNX Runtime.

Usage: onnx_runtime.py EMITTED_DIR GOLDEN_DIR, after `cargo run --release -p npc-compiler --example emit_all`.
Prints one line a model and exits with 1 when any check fails.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

STATES = ["activity_trace", "momentum", "variance", "base_momentum", "base_variance"]
onnxruntime.set_default_logger_severity(3)


class Ort:
    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.inputs = [i.name for i in self.session.get_inputs()] + [i.name for i in self.session.get_overridable_initializers()]

    def run(self, feeds):
        return dict(zip(self.outputs, self.session.run(None, {k: np.asarray(v) for k, v in feeds.items() if k in self.inputs})))


class Reference:
    def __init__(self, path):
        self.evaluator = ReferenceEvaluator(str(path))
        self.outputs = self.evaluator.output_names

    def run(self, feeds):
        with np.errstate(all="ignore"):
            return dict(zip(self.outputs, self.evaluator.run(None, {k: np.asarray(v) for k, v in feeds.items()})))


def bindings_of(path):
    model = onnx.load(path)
    return json.loads({p.key: p.value for p in model.metadata_props}["npc.bindings"])


def joined(path):
    """The training graph of a model with a TrainingInfoProto, joined as onnx.proto says, its variables also inputs."""
    model = onnx.load(path)
    (info,) = model.training_info
    del model.training_info[:]
    variables = {binding.key for binding in info.update_binding}
    for field in ("input", "initializer", "output", "node", "value_info"):
        getattr(model.graph, field).extend(getattr(info.algorithm, field))
    initializers = {t.name: t for t in model.graph.initializer}
    outputs = {o.name for o in model.graph.output}
    assert variables <= initializers.keys(), variables - initializers.keys()
    assert {binding.value for binding in info.update_binding} <= outputs
    assert {binding.key for binding in info.initialization_binding} <= initializers.keys()
    for name in sorted(variables):
        tensor = initializers[name]
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    onnx.checker.check_model(model, full_check=True)
    return model, info


def flat(path):
    """`path`, or a flat model beside it when it has its step in a TrainingInfoProto."""
    if not onnx.load(path).training_info:
        return path
    target = pathlib.Path(tempfile.mkdtemp()) / path.name
    onnx.save(joined(path)[0], target)
    return target


def check_initialization(path):
    """The initialization graph gives every variable a value like its initializer, drawn as the bindings say."""
    model, info = joined(path)
    if not info.initialization_binding:
        return
    graph = info.initialization
    start = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(start, full_check=True)
    # ONNX Runtime has no RandomUniform of opset 22 and later.
    evaluator = ReferenceEvaluator(start)
    outputs = dict(zip(evaluator.output_names, evaluator.run(None, {})))
    initializers = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    bindings = bindings_of(path)
    kinds = {p["name"]: p["init"] for p in bindings["parameters"]}
    drawn = []
    for binding in info.initialization_binding:
        value, old = outputs[binding.value], initializers[binding.key]
        assert value.shape == old.shape and value.dtype == old.dtype, binding.key
        init = kinds.get(binding.key, {"kind": "initializer"})
        if init["kind"] == "uniform":
            spread = value.size < 100 or value.std() > 0.4 * init["bound"]
            assert np.abs(value).max() <= init["bound"] and spread, binding.key
            drawn.append(value.ravel()[:8])
        elif init["kind"] == "normal":
            assert abs(value.std() / init["std"] - 1) < 0.2 or value.size < 100, binding.key
            drawn.append(value.ravel()[:8])
        elif init["kind"] == "ones":
            assert (value == 1).all(), binding.key
        else:
            assert (value == old).all(), binding.key
    wide = [d / np.abs(d).max() for d in drawn if d.size == 8]
    for i, one in enumerate(wide):
        assert all(not np.allclose(one, other) for other in wide[:i]), "two parameters are drawn alike"


def misfit(got, want):
    """Largest |Δ| / (2e-6 + 2e-5·|ref|); at most 1 is a match."""
    got, want = np.asarray(got, np.float64).ravel(), np.asarray(want, np.float64).ravel()
    ratio = np.abs(got - want) / (2e-6 + 2e-5 * np.abs(want))
    return float(np.max(np.where(np.isnan(ratio), np.inf, ratio), initial=0))


def check_golden(path, engine, case, gates):
    bindings = bindings_of(path)
    runner = engine(flat(path))
    feeds = {"learning_rate": np.float32(case["settings"]["lr"])}
    for i, (shape, values) in enumerate(zip(case["shapes"], case["initial_params"])):
        feeds[f"p{i}"] = np.array(values, np.float32).reshape(shape)
        for state in bindings["parameters"][i]["states"]:
            feeds[state["name"]] = np.zeros(shape, np.float32)
    worst = 0.0
    for t, step in enumerate(case["steps"]):
        feeds["step"], feeds["gates"] = np.int64(t), np.array(gates[t], np.float32)
        for i, (shape, values) in enumerate(zip(case["shapes"], step["grads"])):
            feeds[f"g{i}"] = np.array(values, np.float32).reshape(shape)
        out = runner.run(feeds)
        if "step.next" in out:
            assert out["step.next"] == t + 1
        for i, parameter in enumerate(bindings["parameters"]):
            feeds[f"p{i}"] = out[parameter["next"]]
            worst = max(worst, misfit(out[parameter["next"]], step["params"][i]))
            for state in parameter["states"]:
                feeds[state["name"]] = out[state["next"]]
    for i, parameter in enumerate(bindings["parameters"]):
        for state in parameter["states"]:
            worst = max(worst, misfit(feeds[state["name"]], case["final_state"][i][state["role"]]))
    return worst


def random_feeds(model, rng):
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        name = value.name
        if kind.elem_type == onnx.TensorProto.INT64:
            feeds[name] = np.zeros(shape, np.int64) if not shape else rng.integers(0, 10, shape)
        elif kind.elem_type == onnx.TensorProto.INT32:
            feeds[name] = np.zeros(shape, np.int32)
        elif name in ("lr", "learning_rate"):
            feeds[name] = np.float32(0.01)
        elif name == "step":
            feeds[name] = np.float32(1)
        else:
            feeds[name] = (rng.standard_normal(shape) * 0.1).astype(np.float32)
    return feeds


def check_step(folder, stem):
    """One step of every form from the same numbers: loss as in the original, updates alike in all NeuroPlastic forms."""
    original = folder / f"step-{stem}-original.onnx"
    feeds = random_feeds(onnx.load(original), np.random.default_rng(7))
    for parameter in bindings_of(folder / f"step-{stem}-keep.onnx")["parameters"]:
        for state in parameter["states"]:
            if state["role"] == "second_moment":
                feeds[state["name"]] = np.abs(feeds[state["name"]]) + np.float32(0.01)
    bindings = bindings_of(folder / f"step-{stem}-functions.onnx")
    gradients = [p["gradient"] for p in bindings["parameters"]]
    with tempfile.TemporaryDirectory() as scratch:
        model = onnx.load(original)
        known = {o.name for o in model.graph.output}
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(g) for g in gradients if g not in known)
        onnx.save(model, pathlib.Path(scratch) / "gradients.onnx")
        loss = Ort(pathlib.Path(scratch) / "gradients.onnx").run(feeds)
    results = {}
    failures = 0
    for suffix in ("functions", "inline", "training", "keep", "keep-training"):
        path = folder / f"step-{stem}-{suffix}.onnx"
        bindings = bindings_of(path)
        if suffix.endswith("training"):
            check_initialization(path)
            inference = Ort(path)
            logits = inference.run({k: v for k, v in feeds.items() if k in inference.inputs})
            # Beside the logits only what the forward pass itself hands on: running statistics.
            handed_on = {s["next"] for s in bindings["state"] if s["role"].startswith("running_")}
            assert [name for name in logits if name not in handed_on] == [bindings["outputs"]["logits"]], list(logits)
            path = flat(path)
        mine = dict(feeds)
        if not suffix.startswith("keep"):
            mine["step"], mine["gates"] = np.int64(0), np.array([1, 1, 1], np.float32)
            mine.setdefault("learning_rate", np.float32(0.01))
            for parameter in bindings["parameters"]:
                for state in parameter["states"]:
                    mine[state["name"]] = np.zeros(state["shape"], np.float32)
        names = {i.name for i in onnx.load(path).graph.input}
        mine = {k: v for k, v in mine.items() if k in names}
        engines = {"ort": Ort(path).run(mine)}
        if stem != "transformer_adamw":
            engines["reference"] = Reference(path).run(mine)
        for engine, out in engines.items():
            name = bindings["outputs"]["loss"]
            deviation = misfit(out[name], loss[name])
            for parameter, gradient in zip(bindings["parameters"], gradients):
                if suffix.startswith("keep"):
                    want = loss[parameter["next"]]
                    # Where the second moment is nearly zero, the epsilon that was missing makes a difference.
                    gap = np.abs(out[parameter["next"]] - want)
                    gap = np.sort(np.where(np.isfinite(want), gap, 0).ravel())
                    gap = gap[: len(gap) - len(gap) // 100]
                    deviation = max(deviation, misfit(gap, np.zeros_like(gap)))
                else:
                    # From zero the momentum trace is a tenth of the gradient: the right one was wired in.
                    trace = next(s for s in parameter["states"] if s["role"] == "momentum")
                    deviation = max(deviation, misfit(10 * out[trace["next"]].ravel(), loss[gradient].ravel()))
                    want = results.setdefault(parameter["next"], out[parameter["next"]])
                    # From zero states Adam's first step is the gradient's sign: where the gradient is nothing but
                    # rounding, engines may differ, so a thousandth of the elements is left out.
                    gap = np.sort(np.abs(out[parameter["next"]] - want).ravel())
                    gap = gap[: len(gap) - len(gap) // 1000]
                    deviation = max(deviation, misfit(gap, np.zeros_like(gap)) / 10)
            good = deviation <= 1
            failures += not good
            print(f"{'ok  ' if good else 'FAIL'} {path.name} {engine} {deviation:.3f}")
    return failures


def main():
    folder, golden = map(pathlib.Path, sys.argv[1:3])
    failures = checks = 0
    for path in sorted(folder.glob("*.onnx")):
        if path.name.endswith("-original.onnx"):
            continue
        checks += 1
        try:
            # Without a loss a step has no forward part, and a graph without outputs is none to the checker.
            if not (path.name.startswith("golden") and path.name.endswith("-training.onnx")):
                onnx.checker.check_model(str(path), full_check=True)
        except Exception as error:  # noqa: BLE001 - any complaint is a failure
            failures += 1
            print(f"FAIL {path.name} checker: {str(error).splitlines()[0]}")
    for path in sorted(golden.glob("*.json")):
        case = json.loads(path.read_text())
        gates = json.loads((folder / f"golden-{path.stem}.gates.json").read_text())
        for suffix in ("functions", "inline", "training"):
            for engine in (Ort, Reference):
                checks += 1
                ratio = check_golden(folder / f"golden-{path.stem}-{suffix}.onnx", engine, case, gates)
                failures += ratio > 1
                if ratio > 1:
                    print(f"FAIL golden {path.stem} {suffix} {engine.__name__}: {ratio:.2f} of the tolerance")
    for path in sorted(folder.glob("step-*-original.onnx")):
        checks += 1
        failures += check_step(folder, path.name[len("step-"):-len("-original.onnx")])
    print(f"{checks - failures} passed, {failures} failed")
    sys.exit(failures > 0 or checks == 0)


main()
