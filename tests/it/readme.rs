//! Every `npc` command of the README runs, in the README's order, in a folder that has the repository's models.

use crate::root;
use std::process::Command;

/// Every line up to the end of the block, but for times and gaps, stands in what the command printed.
fn compare(printed: &str, readme: &[&str]) {
    let timeless = |line: &str| -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_time = |i: usize| words.get(i + 1).is_some_and(|next| next.starts_with("ms"));
        words.iter().enumerate().map(|(i, word)| if is_time(i) { "TIME " } else { word }.to_string() + " ").collect()
    };
    let printed: Vec<String> = printed.lines().map(timeless).collect();
    let block = readme.iter().take_while(|line| !line.starts_with("```"));
    for line in block.filter(|line| **line != "…" && !printed.is_empty()) {
        assert!(printed.contains(&timeless(line)), "the README shows a line that npc does not print: {line}");
    }
}

#[test]
fn commands_run_as_written() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models"), folder.path().join("models")).unwrap();
    let mut commands = 0;
    let mut inside = false;
    let mut shown = String::new();
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with("```") {
            inside = *line == "```sh";
            if *line == "```text" {
                // What a compilation says is what the README shows; a run's figures are another machine's.
                compare(&shown, &lines[at + 1..]);
            }
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
        shown = if line.starts_with("npc compile") { String::from_utf8(output.stdout).unwrap() } else { String::new() };
        commands += 1;
    }
    assert!(commands >= 6, "only {commands} commands found");
}
