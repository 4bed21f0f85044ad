//! The driver's state, one for the process, and the way into it.

use crate::graph::Graph;
use crate::objects;
use crate::refusal::{Answer, Refusal, misuse, refuse};
use crate::report::Report;
use crate::settings::Settings;
use crate::stream::{Event, Stream, Ticket};
use crate::work::Work;
use crate::{dnn, lt};
use cudarc::driver::sys::CUresult;
use npc_ptx_interpreter as ptx;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An object's name in the C interface. None is used twice, and none is a real address.
pub type Handle = u64;

/// The one context there is, the device's primary one.
pub const CONTEXT: Handle = 0x1000;

/// A loaded module. Work that was queued keeps it alive, and says so.
pub struct Loaded {
    pub module: ptx::Module,
    pub unloaded: std::sync::atomic::AtomicBool,
}

pub struct Function {
    pub module: Arc<Loaded>,
    pub of: Handle,
    pub name: String,
    /// Bytes of dynamic shared memory that a launch may take.
    pub dynamic_shared: u32,
}

/// Host memory that copies reach without staging.
pub struct Pinned {
    pub data: Box<[u8]>,
    pub number: u64,
}

#[derive(Default)]
pub struct Driver {
    pub settings: Option<Settings>,
    pub report: Report,
    pub is_initialised: bool,
    /// How often the primary context was retained and not released.
    pub retained: u32,
    pub memory: ptx::Memory,
    /// Bytes of every live allocation, by address.
    pub live: BTreeMap<u64, u64>,
    /// Addresses of those that come from the pool.
    pub pooled: BTreeSet<u64>,
    /// Of these, those that their stream has not come to yet.
    pub unborn: BTreeSet<u64>,
    /// Bytes that were freed on a stream which has not come to it yet.
    pub dying: BTreeMap<u64, u64>,
    pub pinned: BTreeMap<usize, Pinned>,
    pub streams: BTreeMap<Handle, Stream>,
    pub events: BTreeMap<Handle, Event>,
    pub modules: BTreeMap<Handle, Arc<Loaded>>,
    pub functions: BTreeMap<Handle, Function>,
    /// How often kernels have run.
    pub runs: BTreeMap<String, u64>,
    /// Kernels that were started outside of a capture, by module and name: those that are surely loaded.
    pub started: BTreeSet<(Handle, String)>,
    pub graphs: BTreeMap<Handle, Graph>,
    pub executables: BTreeMap<Handle, Arc<Vec<Work>>>,
    /// Records that were not reached yet, and their streams.
    pub pending: BTreeMap<Ticket, Handle>,
    /// What failed on the device.
    pub failed: Option<CUresult>,
    pub lt: lt::Tables,
    pub dnn: dnn::Tables,
    next: u64,
}

static DRIVER: Mutex<Option<Box<Driver>>> = Mutex::new(None);

thread_local! {
    static CURRENT: Cell<Handle> = const { Cell::new(0) };
}

/// What has to be there for a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// `cuInit` was called.
    Init,
    /// The calling thread has a context, and no work has failed.
    Context,
}

fn lock() -> MutexGuard<'static, Option<Box<Driver>>> {
    DRIVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries out a call of a function of the driver.
pub fn call(name: &str, needs: Needs, body: impl FnOnce(&mut Driver) -> Answer) -> CUresult {
    let mut guard = lock();
    let driver = guard.get_or_insert_with(Driver::new);
    let answer = driver.admit(name, needs).and_then(|()| body(driver));
    driver.answer(name, answer).err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// Carries out a call of a function of another library, which answers `refused` where that was asked for.
pub fn call_library<C>(name: &str, refused: C, body: impl FnOnce(&mut Driver) -> Answer<(), C>) -> Result<(), C> {
    let mut guard = lock();
    let driver = guard.get_or_insert_with(Driver::new);
    let answer = match driver.settings().refuses(name) {
        true => refuse(refused, "as was asked for"),
        false => body(driver),
    };
    driver.answer(name, answer)
}

pub fn current() -> Handle {
    CURRENT.get()
}

pub fn make_current(context: Handle) {
    CURRENT.set(context);
}

impl Driver {
    fn new() -> Box<Driver> {
        let settings = Settings::from_environment();
        let report = Report { path: settings.report.clone(), ..Report::default() };
        Box::new(Driver { settings: Some(settings), report, next: CONTEXT, ..Driver::default() })
    }

    pub fn settings(&self) -> &Settings {
        self.settings.as_ref().expect("made with settings")
    }

    pub fn handle(&mut self) -> Handle {
        self.next += 0x10;
        self.next
    }

    fn admit(&self, name: &str, needs: Needs) -> Answer {
        if needs != Needs::Nothing && !self.is_initialised {
            return misuse(CUresult::CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
        }
        if needs == Needs::Context {
            self.has_context()?;
        }
        if self.settings().refuses(name) {
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, "as was asked for");
        }
        Ok(())
    }

    /// Whether the calling thread has a context that works.
    pub fn has_context(&self) -> Answer {
        if current() != CONTEXT || self.retained == 0 {
            return misuse(CUresult::CUDA_ERROR_INVALID_CONTEXT, "the thread has no context");
        }
        self.works()
    }

    /// Whether no work has failed so far.
    pub fn works(&self) -> Answer {
        match self.failed {
            Some(code) => refuse(code, "earlier work has failed"),
            None => Ok(()),
        }
    }

    fn answer<C>(&mut self, name: &str, answer: Answer<(), C>) -> Result<(), C> {
        answer.map_err(|Refusal { code, why, is_misuse }| {
            if is_misuse {
                self.report.line(format!("misuse: {name}: {why}"));
            }
            code
        })
    }

    /// Reports what the context still holds, and takes it away.
    pub fn end_context(&mut self) {
        if self.failed.is_none() {
            let mut left: Vec<String> = Vec::new();
            left.extend(self.live.iter().map(|(at, bytes)| format!("{bytes} bytes of device memory at {at:#x}")));
            left.extend(self.pinned.values().map(|p| format!("{} bytes of pinned memory", p.data.len())));
            let counts = [
                ("streams", self.streams.len()),
                ("events", self.events.len()),
                ("modules", self.modules.len()),
                ("graphs", self.graphs.len()),
                ("executable graphs", self.executables.len()),
            ];
            left.extend(objects::left(&counts));
            left.into_iter().for_each(|what| self.report.line(format!("leak: {what}")));
        }
        let addresses: Vec<u64> = std::mem::take(&mut self.live).into_keys().collect();
        addresses.into_iter().for_each(|at| self.memory.free(at).unwrap_or_default());
        self.pinned.clear();
        self.streams.clear();
        self.events.clear();
        self.modules.clear();
        self.functions.clear();
        self.graphs.clear();
        self.executables.clear();
        self.pending.clear();
        self.failed = None;
    }

    fn end(&mut self) {
        if self.retained > 0 {
            self.report.line(format!("leak: the context, retained {} times", self.retained));
            self.end_context();
        }
        self.lt.leaks().into_iter().chain(self.dnn.leaks()).for_each(|what| self.report.line(format!("leak: {what}")));
        self.report.end();
    }
}

/// Runs `body` with a driver of its own and the settings of the environment, `change`d; nothing else in the process calls the
/// driver meanwhile. Returns the report's lines.
pub fn alone(variables: &[(&str, &str)], body: impl FnOnce()) -> Vec<String> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut driver = Driver::new();
    if let Some(settings) = &mut driver.settings {
        for (name, value) in variables {
            match *name {
                "ORDER" => settings.order = crate::settings::Order::named(value).expect("an order"),
                "MEMORY_MIB" => settings.memory = value.parse::<u64>().expect("a number") << 20,
                "REFUSE" => settings.refuse = Some((*value).to_string()),
                other => panic!("there is no setting {other}"),
            }
        }
        settings.report = None;
    }
    driver.report.path = None;
    *lock() = Some(driver);
    make_current(0);
    body();
    let mut driver = lock().take().expect("set above");
    driver.end();
    driver.report.lines
}

extern "C" fn at_exit() {
    if let Some(driver) = lock().as_deref_mut() {
        driver.end();
    }
}

/// Called when the process ends or the library is unloaded.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
