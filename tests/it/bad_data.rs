//! Archives that do not fit a model.

use crate::bad_input::one_sentence;
use crate::{model, npc, text};
use ndarray::{Array1, Array2};
use ndarray_npy::NpzWriter;
use std::path::{Path, PathBuf};

struct Archive {
    path: PathBuf,
    writer: NpzWriter<std::fs::File>,
}

impl Archive {
    fn new(folder: &Path) -> Self {
        let path = folder.join("data.npz");
        Archive { writer: NpzWriter::new(std::fs::File::create(&path).unwrap()), path }
    }

    fn input(mut self, samples: usize, width: usize) -> Self {
        self.writer.add_array("input", &Array2::<f32>::zeros((samples, width))).unwrap();
        self
    }

    fn labels(mut self, labels: &[i64]) -> Self {
        self.writer.add_array("labels", &Array1::from(labels.to_vec())).unwrap();
        self
    }

    fn finish(self) -> PathBuf {
        self.writer.finish().unwrap();
        self.path
    }
}

fn train(data: &Path, out: &Path) -> std::process::Output {
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    npc(["train", text(&step), "--data", text(data), "--epochs", "1", "--out", text(out)])
}

#[test]
fn archives_that_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let refused = |data: PathBuf, word: &str| {
        one_sentence(&train(&data, &out), 3, word);
        assert!(!out.exists());
    };
    let new = || Archive::new(folder.path());
    refused(new().labels(&[1; 40]).finish(), "'input' is missing");
    refused(new().input(40, 784).finish(), "'labels' is missing");
    refused(new().input(40, 784).labels(&[1; 39]).finish(), "39 samples where the arrays before it have 40");
    refused(new().input(40, 783).labels(&[1; 40]).finish(), "no whole number of samples of 784");
    let mut labels = [1; 40];
    labels[7] = 10;
    refused(
        new().input(40, 784).labels(&labels).finish(),
        "label 10 of sample 7 is out of range: the model has 10 classes",
    );
    labels[7] = -1;
    refused(new().input(40, 784).labels(&labels).finish(), "label -1 of sample 7");
    refused(new().input(9, 784).labels(&[1; 9]).finish(), "do not fill one batch of 16");
    refused(new().input(0, 784).labels(&[]).finish(), "no samples");
    let mut archive = new().input(40, 784);
    archive.writer.add_array("labels", &Array1::<f32>::zeros(40)).unwrap();
    refused(archive.finish(), "'labels' takes integers");
    let mut archive = new().labels(&[1; 40]);
    archive.writer.add_array("input", &Array2::<u64>::zeros((40, 784))).unwrap();
    refused(archive.finish(), "neither float32/64 nor an integer");
    for bytes in [&b""[..], b"PK", b"no archive at all"] {
        let path = folder.path().join("data.npz");
        std::fs::write(&path, bytes).unwrap();
        refused(path, "cannot read");
    }
    let whole = std::fs::read(new().input(40, 784).labels(&[1; 40]).finish()).unwrap();
    std::fs::write(folder.path().join("data.npz"), &whole[..whole.len() / 2]).unwrap();
    refused(folder.path().join("data.npz"), "cannot read");
}

#[test]
fn fashion_mnist_is_looked_for_where_the_environment_says() {
    let folder = tempfile::tempdir().unwrap();
    let step = model("pytorch-train-step/mlp_sgd.onnx");
    let run = |variable: &str, place: &Path| {
        let out = folder.path().join("run");
        let home = folder.path().join("empty");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_npc"));
        command.args(["train", text(&step), "--data", "fashion-mnist", "--epochs", "1", "--out", text(&out)]);
        command.env_remove("NPC_DATA").env("XDG_CACHE_HOME", home).env(variable, place);
        command.output().unwrap()
    };
    let samples = |output: &std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // The shipped t10k files stand in for the full set.
    let full = folder.path().join("cache/npc/fashion-mnist");
    std::fs::create_dir_all(&full).unwrap();
    for kind in ["images-idx3", "labels-idx1"] {
        let shipped = model("fashion-mnist").join(format!("t10k-{kind}-ubyte.gz"));
        for split in ["train", "t10k"] {
            std::os::unix::fs::symlink(&shipped, full.join(format!("{split}-{kind}-ubyte.gz"))).unwrap();
        }
    }
    samples(&run("NPC_DATA", &full));
    let installed = Path::new("/usr/share/datasets/fashion-mnist").exists();
    if !installed {
        samples(&run("XDG_CACHE_HOME", &folder.path().join("cache")));
        one_sentence(&run("NPC_DATA", folder.path()), 3, "install Debian's package dataset-fashion-mnist");
    }
}
