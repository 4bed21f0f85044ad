//! What a person sees of a run: a bar on a terminal, a line an epoch otherwise.

use crate::problem::say;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use npc_runtime::train::{Epoch, Observer, Progress};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Watcher {
    bar: ProgressBar,
    epochs: u32,
    stop: Arc<AtomicBool>,
}

impl Watcher {
    pub fn new(epochs: u32, stop: Arc<AtomicBool>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} ETA {eta}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Watcher { bar, epochs, stop }
    }
}

fn percent(accuracy: Option<f64>) -> String {
    accuracy.map_or_else(|| "—".into(), |a| format!("{:.2} %", 100.0 * a))
}

impl Observer for Watcher {
    fn step(&mut self, p: &Progress) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_length(p.batches as u64);
        self.bar.set_position(p.batch as u64);
        self.bar.set_prefix(format!("epoch {}/{}", p.epoch, self.epochs));
        self.bar.set_message(format!(
            "loss {:.4} accuracy {} {:.0}/s",
            p.loss,
            percent(p.accuracy),
            p.samples_per_second
        ));
    }

    fn epoch(&mut self, e: &Epoch) {
        let line = format!(
            "epoch {}/{}: loss {:.4}, accuracy {}; test loss {:.4}, test accuracy {}; {:.1} s, {:.0} samples/s",
            e.epoch,
            self.epochs,
            e.train_loss,
            percent(e.train_accuracy),
            e.test_loss,
            percent(e.test_accuracy),
            e.seconds,
            e.samples_per_second
        );
        self.bar.suspend(|| say(&line));
        self.bar.reset();
    }

    fn stop(&mut self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
