//! The tests that need a GPU, each in a child process on the test driver: the runtime as it is, kernels in the interpreter.

use std::process::Command;

/// How far streams run that nothing waits for.
const ORDERS: [&str; 3] = ["lazy", "oldest", "newest"];

/// Runs an ignored test of this binary on the test driver, `steps` steps of it; gives what the driver counted.
fn on_the_driver(test: &str, steps: usize, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    npc_test_driver::install(folder.path());
    let report = folder.path().join("report");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", test, "--nocapture"]);
    child.env("LD_LIBRARY_PATH", folder.path()).env("NPC_TEST_DRIVER_REPORT", &report);
    child.env("NPC_TEST_STEPS", steps.to_string()).envs(variables.iter().copied());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let found = std::fs::read_to_string(&report).unwrap_or_default();
    assert!(output.status.success() && said.contains("1 passed"), "{test} {variables:?}\n{found}{said}");
    let (end, rest): (Vec<&str>, Vec<&str>) = found.lines().partition(|line| line.starts_with("end:"));
    assert!(rest.is_empty() && end.len() == 1, "{test} {variables:?}\n{found}");
    assert!(!said.contains("cannot be captured"), "{said}");
    end[0].to_string()
}

/// The count of something in the driver's last line.
fn count(end: &str, what: &str) -> u64 {
    let words: Vec<&str> = end.split(what).next().unwrap().split_whitespace().collect();
    words.last().unwrap().parse().unwrap()
}

#[test]
fn models_step_as_on_the_cpu() {
    for order in ORDERS {
        let end =
            on_the_driver("plan::tests::on_a_gpu::models_step_as_on_the_cpu", 2, &[("NPC_TEST_DRIVER_ORDER", order)]);
        // Six models, two steps each: the first command by command, the second a graph launch.
        assert_eq!(count(&end, "graph launches"), 6, "{end}");
        assert!(count(&end, "products") >= 100, "{end}");
    }
}

#[test]
fn models_step_without_epilogues() {
    let test = "plan::tests::on_a_gpu::models_step_as_on_the_cpu";
    let end = on_the_driver(test, 2, &[("NPC_TEST_DRIVER_REFUSE", "epilogues")]);
    assert_eq!(count(&end, "graph launches"), 6, "{end}");
}

/// Factors of 16 bits, and none where the library has no such products.
#[test]
fn models_step_in_bfloat16_products() {
    let test = "plan::tests::on_a_gpu::models_step_in_bfloat16_products";
    let run = |refused: &[(&str, &str)]| {
        let end = on_the_driver(test, 1, refused);
        ["16-bit factors", "to 16 bits"].map(|what| {
            // "… 31 of 16-bit factors": the count stands two words before.
            let words: Vec<&str> = end.split(what).next().unwrap().split_whitespace().collect();
            words.iter().rev().find_map(|word| word.parse::<u64>().ok()).unwrap()
        })
    };
    let [factors, results] = run(&[]);
    assert!(factors > 20 && results > 0, "{factors} {results}");
    assert_eq!(run(&[("NPC_TEST_DRIVER_REFUSE", "results of 16 bits")]), [factors, 0]);
    assert_eq!(run(&[("NPC_TEST_DRIVER_REFUSE", "factors of 16 bits")]), [0, 0]);
}

#[test]
fn golden_vectors() {
    on_the_driver("plan::tests::on_a_gpu::golden_vectors", 1, &[]);
}

#[test]
fn a_convolutional_network_steps_as_on_the_cpu() {
    let test = "plan::tests::on_a_gpu::a_convolutional_network_steps_as_on_the_cpu";
    // Of each of the two networks: two layers forward, both weights' gradients, one layer's data; the second step is a graph.
    for (steps, refused, convolutions, graphs) in [(2, "", 20, 2), (1, "cudnn", 0, 0)] {
        let end = on_the_driver(test, steps, &[("NPC_TEST_DRIVER_REFUSE", refused)]);
        assert_eq!((count(&end, "convolutions"), count(&end, "graph launches")), (convolutions, graphs), "{end}");
    }
}

#[test]
fn convolutions_are_described_and_their_algorithms_chosen() {
    on_the_driver("cuda::dnn::tests::with_the_library_every_convolution_is_described", 1, &[]);
    on_the_driver("cuda::dnn::tests::with_the_library_no_algorithm_rounds_further_than_was_asked", 1, &[]);
}

#[test]
fn a_step_is_repeatable() {
    on_the_driver("plan::tests::on_a_gpu::a_step_is_repeatable", 3, &[("NPC_TEST_DRIVER_ORDER", "seed:7")]);
}

#[test]
fn values_of_16_bits_are_the_cpus() {
    on_the_driver("plan::conformance::on_a_gpu_values_of_16_bits_are_the_cpus", 1, &[]);
}

#[test]
fn operators_agree_with_onnxruntime() {
    let end = on_the_driver("plan::conformance::on_a_gpu_operators_agree_with_onnxruntime", 1, &[]);
    assert!(count(&end, "kernels") >= 100, "{end}");
}

#[test]
fn batches_are_fed_beside_the_work() {
    let test = "train::engine_tests::on_a_gpu_a_dataset_that_does_not_fit_is_fed_beside_the_work";
    for order in ORDERS {
        let end = on_the_driver(test, 1, &[("NPC_TEST_DRIVER_ORDER", order)]);
        assert_eq!(count(&end, "graph launches"), 5, "{end}");
    }
}

/// The descriptions that the library itself is asked about where it is installed.
#[test]
fn every_product_is_described() {
    on_the_driver("cuda::lt::tests::with_the_library_every_product_is_described", 1, &[]);
}
