//! `--device cuda` on the test driver, in a child process: the command as it is, kernels in the PTX interpreter.

use crate::{model, root, text};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STEP: &str = "pytorch-train-step/mlp_sgd.onnx";
const CNN: &str = "cnn-train-step/cnn_adamw.onnx";

/// A folder with the driver and a small dataset.
struct Machine {
    folder: tempfile::TempDir,
    step: PathBuf,
}

impl Machine {
    /// For the MLP: 3 batches of 16 images to train on, 20 images to test.
    fn new() -> Self {
        Self::with(STEP, 48)
    }

    fn with(step: &str, images: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        npc_test_driver::install(folder.path());
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        for (name, count, seed) in [("train", images, 1u32), ("t10k", 20, 2)] {
            // Each class has its own stripes, so that there is something to learn.
            let label = |i: u32| (i * 7 + seed) % 10;
            let pixel = |i: u32, p: u32| if (p / 28 + label(i)) % 5 < 2 { 200 + (i * 31 + p * 17) % 50 } else { 20 };
            let pixels = (0..count).flat_map(|i| (0..784).map(move |p| pixel(i, p) as u8));
            let images: Vec<u8> = header(8 << 8 | 3, &[count, 28, 28]).into_iter().chain(pixels).collect();
            let labels: Vec<u8> =
                header(8 << 8 | 1, &[count]).into_iter().chain((0..count).map(|i| label(i) as u8)).collect();
            std::fs::write(data.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
            std::fs::write(data.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
        }
        Machine { folder, step: model(step) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the command; its output, and what the driver found and counted.
    fn npc(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Output, String) {
        let report = self.path("report");
        let _ = std::fs::remove_file(&report);
        let mut command = Command::new(env!("CARGO_BIN_EXE_npc"));
        command.args(arguments).current_dir(root());
        command.env("LD_LIBRARY_PATH", self.folder.path()).env("NPC_TEST_DRIVER_REPORT", &report);
        let variables = variables.iter().map(|(name, value)| (format!("NPC_TEST_DRIVER_{name}"), value));
        let output = command.envs(variables).output().unwrap();
        (output, std::fs::read_to_string(&report).unwrap_or_default())
    }

    fn train(&self, run: &str, extra: &[&str], variables: &[(&str, &str)]) -> (Output, String) {
        let (data, out) = (self.path("data"), self.path(run));
        let mut arguments = vec!["train", text(&self.step), "--data", text(&data), "--seed", "1", "--out", text(&out)];
        arguments.extend(extra);
        if !extra.contains(&"--lr") {
            arguments.extend(["--lr", "0.1"]);
        }
        if !extra.contains(&"--epochs") {
            arguments.extend(["--epochs", "2"]);
        }
        self.npc(&arguments, variables)
    }

    /// A run on the driver that ends well and does nothing wrong; what the driver counted.
    fn trained(&self, run: &str, extra: &[&str], variables: &[(&str, &str)]) -> String {
        let (output, report) = self.train(run, &[&["--device", "cuda"], extra].concat(), variables);
        assert!(output.status.success(), "{}{report}", said(&output));
        is_clean(&report);
        report
    }

    fn metrics(&self, run: &str) -> Vec<serde_json::Value> {
        let lines = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn header(magic: u32, dims: &[u32]) -> Vec<u8> {
    [magic].iter().chain(dims).flat_map(|x| x.to_be_bytes()).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn is_clean(report: &str) {
    assert!(report.lines().count() == 1 && report.starts_with("end: "), "{report}");
}

/// The losses of two runs differ by so much at most, relatively.
fn agree(a: &[serde_json::Value], b: &[serde_json::Value], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        for key in ["train_loss", "test_loss"] {
            let (x, y) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
            assert!((x - y).abs() <= tolerance * y, "{key}: {x} and {y}");
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

#[test]
fn devices_are_listed() {
    let (output, report) = Machine::new().npc(&["devices"], &[("MEMORY_MIB", "512")]);
    let listed = String::from_utf8_lossy(&output.stdout);
    let gpu = "cuda:0   npc test driver, compute capability 8.0, 4 multiprocessors, 512 of 512 MiB free, 2 MiB of L2";
    assert!(output.status.success() && listed.contains(gpu), "{listed}{}", said(&output));
    let found = |library: &str| listed.lines().any(|line| line.contains(library) && line.trim_end().ends_with("found"));
    assert!(found("driver (libcuda)") && found("cuBLASLt 12 or 13") && found("cuDNN 9"), "{listed}");
    is_clean(&report);
}

#[test]
fn training_follows_the_cpu_under_every_order() {
    let machine = Machine::new();
    let (output, _) = machine.train("cpu", &["--device", "cpu"], &[]);
    assert!(output.status.success(), "{}", said(&output));
    let wanted = machine.metrics("cpu");
    assert!(wanted[1]["train_loss"].as_f64() < wanted[0]["train_loss"].as_f64(), "{wanted:?}");
    for order in ["lazy", "oldest", "newest", "seed:5"] {
        let report = machine.trained(order, &[], &[("ORDER", order)]);
        agree(&machine.metrics(order), &wanted, 1e-4);
        for (a, b) in machine.metrics(order).iter().zip(&wanted) {
            assert_eq!((&a["train_accuracy"], &a["test_accuracy"]), (&b["train_accuracy"], &b["test_accuracy"]));
        }
        // Six steps, and two batches of test images after each epoch, the first of each command by command.
        assert!(report.contains(" 8 graph launches"), "{report}");
    }
    // The bits do not depend on when the device did what.
    assert!(same_file(&machine.path("lazy").join("model.onnx"), &machine.path("newest").join("model.onnx")));
}

#[test]
fn a_resumed_run_ends_like_an_uninterrupted_one() {
    let machine = Machine::new();
    machine.trained("whole", &[], &[]);
    machine.trained("parts", &["--epochs", "1"], &[]);
    machine.trained("parts", &["--resume"], &[("ORDER", "newest")]);
    assert_eq!(machine.metrics("parts").len(), 2);
    // The gates of this model do not depend on the number of epochs.
    assert!(same_file(&machine.path("whole").join("model.onnx"), &machine.path("parts").join("model.onnx")));
}

#[test]
fn lower_precisions_train() {
    let machine = Machine::new();
    machine.trained("f32", &[], &[]);
    for precision in ["tf32", "bf16", "f16"] {
        machine.trained(precision, &["--precision", precision], &[]);
        agree(&machine.metrics(precision), &machine.metrics("f32"), 0.02);
        assert_ne!(machine.metrics(precision)[1]["train_loss"], machine.metrics("f32")[1]["train_loss"]);
    }
}

/// One step of 128 images, and the test: with the library, and by our own kernels.
#[test]
fn a_convolutional_network_follows_the_cpu_with_and_without_cudnn() {
    let machine = Machine::with(CNN, 128);
    let options = ["--epochs", "1", "--lr", "0.001"];
    let (output, _) = machine.train("cpu", &[&["--device", "cpu"][..], &options].concat(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let wanted = machine.metrics("cpu");
    let report = machine.trained("library", &options, &[]);
    agree(&machine.metrics("library"), &wanted, 2e-4);
    assert!(!report.contains(" 0 convolutions"), "{report}");
    for name in ["libcudnn.so", "libcudnn.so.9"] {
        std::fs::remove_file(machine.path(name)).unwrap();
    }
    // Where the machine itself has the library, it has to be kept from it.
    let report = machine.trained("missing", &options, &[("REFUSE", "cudnn")]);
    agree(&machine.metrics("missing"), &wanted, 2e-4);
    assert!(report.contains(" 0 convolutions"), "{report}");
}

/// Batch normalisations hand their running statistics on, from 0 and 1, and both devices give the same.
#[test]
fn running_statistics_follow_the_cpu() {
    let machine = Machine::with("cnn-train-step/cnn_norm_adamw.onnx", 32);
    let options = ["--epochs", "1", "--lr", "0.001"];
    let (output, _) = machine.train("cpu", &[&["--device", "cpu"][..], &options].concat(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    machine.trained("gpu", &options, &[]);
    agree(&machine.metrics("gpu"), &machine.metrics("cpu"), 2e-4);
    let statistic = |run: &str, name: &str| {
        let graph = npc_compiler::onnx::load(&machine.path(run).join("model.onnx")).unwrap().graph;
        let tensor = graph.value(graph.value_named(name).unwrap()).initializer.clone().unwrap();
        npc_runtime::HostTensor::from_constant(&tensor).unwrap().to_f64()
    };
    for (name, first) in [("norm1.mean", 0.0), ("norm1.variance", 1.0), ("norm2.mean", 0.0), ("norm2.variance", 1.0)] {
        let (gpu, cpu) = (statistic("gpu", name), statistic("cpu", name));
        assert!(cpu.iter().all(|x| *x != first && (x - first).abs() < 1.0), "{name}: {cpu:?}");
        assert!(gpu.iter().zip(&cpu).all(|(a, b)| (a - b).abs() <= 1e-4), "{name}: {gpu:?} and {cpu:?}");
    }
}

#[test]
fn too_little_memory_is_one_sentence() {
    let machine = Machine::new();
    for (memory, what) in [
        // The evaluation, which comes first and has a device of its own.
        ("1", "the GPU has 0 MiB of memory free, cuBLASLt needs 32 MiB"),
        ("32", "the GPU has 0 MiB of memory free, the step's arena needs 1 MiB"),
        ("33", "the GPU has 0 MiB of memory free, net."),
        // The training.
        ("64", " MiB of memory free, cuBLASLt needs 32 MiB"),
        ("65", "the GPU has 0 MiB of memory free, net."),
    ] {
        let (output, report) = machine.train("run", &["--device", "cuda"], &[("MEMORY_MIB", memory)]);
        let message = said(&output);
        assert_eq!(output.status.code(), Some(3), "{memory}: {message}");
        assert!(message.contains(what) && message.contains(" MiB; take a smaller batch"), "{memory}: {message}");
        assert_eq!(message.trim().lines().count(), 1, "{message}");
        is_clean(&report);
        assert!(!machine.path("run").exists());
    }
}

#[test]
fn a_kernel_that_does_not_start_is_said_with_its_node() {
    let machine = Machine::new();
    let (output, report) = machine.train("run", &["--device", "cuda"], &[("REFUSE", "kernel:score")]);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    let wanted = ["starting a kernel failed at node '", "too many resources requested"];
    assert!(wanted.iter().all(|words| message.contains(words)), "{message}");
    is_clean(&report);
}

#[test]
fn work_that_fails_on_the_device_is_said_with_its_node() {
    let machine = Machine::new();
    let (output, report) = machine.train("run", &["--device", "cuda"], &[("REFUSE", "fault:score")]);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    let wanted = "the step failed at node 'npc.totals': an illegal memory access was encountered";
    assert!(message.contains(wanted), "{message}");
    assert!(report.starts_with("fault: kernel `score`"), "{report}");
}

/// In a graph no node has a name: the message says how to get it.
#[test]
fn work_that_fails_later_is_found_by_checking_nodes() {
    let machine = Machine::new();
    let after = [("REFUSE", "fault:score:4")];
    let (output, _) = machine.train("run", &["--device", "cuda"], &after);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("the step failed: an illegal memory access was encountered"), "{message}");
    assert!(message.contains("--check-nodes runs it node by node"), "{message}");
    let (output, _) = machine.train("run", &["--device", "cuda", "--check-nodes"], &after);
    let message = said(&output);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("the step failed at node 'npc.totals': an illegal memory access"), "{message}");
}

#[test]
fn checking_nodes_changes_no_bits() {
    let machine = Machine::new();
    machine.trained("graph", &[], &[]);
    let report = machine.trained("nodes", &["--check-nodes"], &[]);
    assert!(report.contains(" 0 graph launches"), "{report}");
    assert!(same_file(&machine.path("graph").join("model.onnx"), &machine.path("nodes").join("model.onnx")));
}

#[test]
fn a_device_without_a_memory_pool_trains() {
    let machine = Machine::new();
    machine.trained("pool", &[], &[]);
    machine.trained("none", &[], &[("REFUSE", "pools")]);
    assert!(same_file(&machine.path("pool").join("model.onnx"), &machine.path("none").join("model.onnx")));
}

#[test]
fn where_there_are_no_graphs_kernels_are_started_one_by_one() {
    let machine = Machine::new();
    machine.trained("graph", &[], &[]);
    for function in ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"] {
        let (output, report) = machine.train("run", &["--device", "cuda"], &[("REFUSE", function)]);
        let message = said(&output);
        assert!(output.status.success() && message.contains("cannot be captured"), "{function}: {message}");
        is_clean(&report);
        assert!(report.contains(" 0 graph launches"), "{function}: {report}");
        assert!(same_file(&machine.path("graph").join("model.onnx"), &machine.path("run").join("model.onnx")));
    }
}
