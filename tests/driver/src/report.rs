//! What was found, and the line at the end.

use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Default)]
pub struct Report {
    pub path: Option<PathBuf>,
    /// Every line so far.
    pub lines: Vec<String>,
    pub kernels: u64,
    pub products: u64,
    /// Those of them whose factors, and whose results, are of 16 bits.
    pub narrow: [u64; 2],
    pub graphs: u64,
    pub copies: u64,
    pub convolutions: u64,
}

impl Report {
    pub fn line(&mut self, line: String) {
        match &self.path {
            Some(path) => {
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                let written = file.and_then(|mut file| writeln!(file, "{line}"));
                written.unwrap_or_else(|error| eprintln!("test driver: {line} ({error})"));
            }
            None if !line.starts_with("end:") => eprintln!("test driver: {line}"),
            None => {}
        }
        self.lines.push(line);
    }

    pub fn end(&mut self) {
        let Report { kernels, products, narrow: [factors, results], convolutions, graphs, copies, .. } = self;
        let line = format!(
            "end: {kernels} kernels, {products} products, {factors} of 16-bit factors, {results} to 16 bits, \
             {convolutions} convolutions, {graphs} graph launches, {copies} copies"
        );
        self.line(line);
    }
}
