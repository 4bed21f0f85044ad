//! Every `npc` command of the README runs, in the README's order, in a folder that has the repository's models.

use crate::root;
use std::process::Command;

#[test]
fn commands_run_as_written() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models"), folder.path().join("models")).unwrap();
    let mut commands = 0;
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```sh";
            continue;
        }
        // The set-up commands build with cargo; what they run is what the other lines run.
        let line = line.replace("cargo run --release --quiet -- ", "npc ");
        if !inside || !line.starts_with("npc ") {
            continue;
        }
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_npc")).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let output =
            Command::new("bash").args(["-c", &line]).env("PATH", path).current_dir(folder.path()).output().unwrap();
        // On a machine without a GPU the answer is a sentence and the code for input that cannot be used.
        let lacks_gpu = || !crate::stdout(&crate::npc(["devices"])).contains("cuda:0");
        let expected = match () {
            () if line.starts_with("npc diff") => 1,
            () if line.contains("--device cuda") && lacks_gpu() => 3,
            () => 0,
        };
        assert_eq!(output.status.code(), Some(expected), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
        commands += 1;
    }
    assert!(commands >= 6, "only {commands} commands found");
}
