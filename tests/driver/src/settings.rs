//! What the environment asks for.

use std::path::PathBuf;

/// How far streams run that nothing waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not at all.
    Lazy,
    /// The one made first runs at once.
    Oldest,
    /// The one made last runs at once.
    Newest,
    /// Anyone, some entries at a time.
    Random(u64),
}

impl Order {
    pub fn named(text: &str) -> Option<Self> {
        match text {
            "lazy" => Some(Order::Lazy),
            "oldest" => Some(Order::Oldest),
            "newest" => Some(Order::Newest),
            other => other.strip_prefix("seed:")?.parse().ok().map(Order::Random),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub order: Order,
    /// Bytes of device memory.
    pub memory: u64,
    /// What always fails.
    pub refuse: Option<String>,
    pub report: Option<PathBuf>,
}

impl Settings {
    /// From the environment; what it does not understand it refuses loudly, so that no test runs with other settings than it
    /// asked for.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(format!("NPC_TEST_DRIVER_{name}")).ok();
        let order = text("ORDER").map_or(Some(Order::Lazy), |text| Order::named(&text));
        let order = order.expect("NPC_TEST_DRIVER_ORDER is lazy, oldest, newest or seed:N");
        let mebibytes = text("MEMORY_MIB").map_or(4096, |text| text.parse().expect("NPC_TEST_DRIVER_MEMORY_MIB"));
        Settings { order, memory: mebibytes << 20, refuse: text("REFUSE"), report: text("REPORT").map(PathBuf::from) }
    }

    /// Whether `what` always fails.
    pub fn refuses(&self, what: &str) -> bool {
        self.refuse.as_deref() == Some(what)
    }

    /// Whether a kernel fails that has run `before` times: `fault:NAME` always does, `fault:NAME:4` after four times.
    pub fn faults(&self, kernel: &str, before: u64) -> bool {
        let asked = self.refuse.as_deref().and_then(|text| text.strip_prefix("fault:"));
        asked.is_some_and(|text| match text.split_once(':') {
            Some((name, after)) => name == kernel && after.parse() == Ok(before),
            None => text == kernel,
        })
    }
}
