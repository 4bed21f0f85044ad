//! The tests that need a GPU, each in a child process on the test driver: the runtime as it is, kernels in the interpreter.

use std::process::Command;

/// Runs an ignored test of this binary on the test driver; what the driver counted.
fn on_the_driver(test: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    npc_test_driver::install(folder.path());
    let report = folder.path().join("report");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", test, "--nocapture"]);
    child.env("LD_LIBRARY_PATH", folder.path()).env("NPC_TEST_DRIVER_REPORT", &report);
    child.envs(variables.iter().copied());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let found = std::fs::read_to_string(&report).unwrap_or_default();
    assert!(output.status.success() && said.contains("1 passed"), "{test} {variables:?}\n{found}{said}");
    let (end, rest): (Vec<&str>, Vec<&str>) = found.lines().partition(|line| line.starts_with("end:"));
    assert!(rest.is_empty() && end.len() == 1, "{test} {variables:?}\n{found}");
    end[0].to_string()
}

#[test]
fn models_step_as_on_the_cpu() {
    let end = on_the_driver("plan::tests::on_a_gpu::models_step_as_on_the_cpu", &[]);
    println!("{end}");
}
