//! A GPU that runs a step's commands as one CUDA graph.

use super::dnn::{self, Dnn};
use super::lt::{self, Lt};
use super::probe::{has_cublas, has_cudnn, has_driver, reason};
use super::staging::{LARGEST, Staging};
use crate::plan::command::{Command, Commands};
use crate::plan::device::{Device, DeviceError};
use crate::plan::{Convolution, Epilogue, Libraries, Numbers, Precision};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result as driver};
use npc_kernels::cpu::contraction::Product;
use npc_kernels::cuda::{Argument, DevicePointer, Source};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

type Result<T> = std::result::Result<T, DeviceError>;

/// A kernel, ready to start.
struct Ready {
    function: sys::CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    /// Bytes of each argument.
    arguments: Vec<Vec<u8>>,
}

/// How the next step is run.
#[derive(Clone, Copy)]
enum Pace {
    /// Command by command, each waited for: libraries and driver load their kernels at the first use, which a capture does not
    /// allow, and what fails has a name.
    Careful,
    /// Recorded as a graph, which is started.
    Record,
    /// As that graph.
    Graph(sys::CUgraphExec),
    /// Command by command, because it cannot be recorded.
    Plain,
}

/// One prepared command.
enum Action {
    Kernel(Ready),
    Product(lt::Ready),
    Convolution(dnn::Ready),
    Copy { from: DevicePointer, to: DevicePointer, bytes: u64 },
}

/// One GPU.
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    lt: Option<Lt>,
    products_workspace: Option<DevicePointer>,
    /// Opened once; `Some(None)` where it is not installed.
    dnn: Option<Option<Dnn>>,
    /// What convolutions work in, one after the other.
    workspace: DevicePointer,
    modules: HashMap<Source, sys::CUmodule>,
    generated: Option<sys::CUmodule>,
    allocations: Vec<sys::CUdeviceptr>,
    actions: Vec<(String, Action)>,
    pace: Pace,
    checks_nodes: bool,
    most_free: u64,
    staging: Option<Staging>,
    multiprocessors: u64,
    cache: u64,
}

fn failed(call: &str, node: &str) -> impl FnOnce(DriverError) -> DeviceError {
    let (call, place) = (call.to_string(), if node.is_empty() { String::new() } else { format!(" at node '{node}'") });
    move |error| DeviceError::Call { call, place, why: reason(error) }
}

fn library_failed<E: std::fmt::Debug>(call: &str, node: &str) -> impl FnOnce(E) -> DeviceError {
    let (call, place) = (call.to_string(), if node.is_empty() { String::new() } else { format!(" at node '{node}'") });
    move |error| DeviceError::Call { call, place, why: format!("{error:?}") }
}

impl Gpu {
    /// Opens a GPU.
    ///
    /// # Errors
    /// No driver, no such GPU.
    pub fn new(ordinal: usize) -> Result<Self> {
        if !has_driver() {
            let why = "no NVIDIA driver is installed (libcuda.so was not found); train with --device cpu";
            return Err(DeviceError::Missing(why.into()));
        }
        let count =
            driver::init().and_then(|()| driver::device::get_count()).map_err(failed("looking for GPUs", ""))?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            let why = format!("there is no GPU number {ordinal}: the driver knows {count}; see npc devices");
            return Err(DeviceError::Missing(why));
        }
        let context = CudaContext::new(ordinal).map_err(failed("opening the GPU", ""))?;
        let stream = context.new_stream().map_err(failed("making a stream", ""))?;
        let attribute = |which| context.attribute(which).map_err(failed("asking for the GPU's properties", ""));
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as u64;
        let cache = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.max(1 << 20) as u64;
        Ok(Gpu {
            context,
            stream,
            lt: None,
            products_workspace: None,
            dnn: None,
            workspace: DevicePointer::NULL,
            modules: HashMap::new(),
            generated: None,
            allocations: Vec::new(),
            actions: Vec::new(),
            pace: Pace::Careful,
            checks_nodes: false,
            most_free: u64::MAX,
            staging: None,
            multiprocessors,
            cache,
        })
    }

    /// Whether every step is run node by node, each waited for, so that a failure names its node; as one graph otherwise.
    #[must_use]
    pub fn checking_nodes(mut self, checks: bool) -> Self {
        self.checks_nodes = checks;
        self
    }

    /// What is free counts as `bytes` at most when it is decided what is kept on the GPU: the rest is for others.
    #[must_use]
    pub fn with_free_limit(mut self, bytes: u64) -> Self {
        self.most_free = bytes;
        self
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("making the GPU current", ""))
    }

    fn load(&self, ptx: &str, name: &str) -> Result<sys::CUmodule> {
        let text =
            CString::new(ptx).map_err(|_| DeviceError::Missing(format!("the kernels '{name}' hold a zero byte")))?;
        // SAFETY: the image is PTX that ends with a zero and outlives the call.
        unsafe { driver::module::load_data(text.as_ptr().cast::<c_void>()) }.map_err(failed("loading kernels", name))
    }

    fn function(module: sys::CUmodule, kernel: &str) -> Result<sys::CUfunction> {
        let name = CString::new(kernel).map_err(|_| DeviceError::Missing(format!("'{kernel}' is no name")))?;
        // SAFETY: the module is loaded and stays so for as long as `self`.
        unsafe { driver::module::get_function(module, name) }.map_err(failed("finding a kernel", kernel))
    }

    fn products(&mut self) -> Result<&mut Lt> {
        if self.lt.is_none() {
            if !has_cublas() {
                let why = "this model needs cuBLASLt 12 or 13, which was not found: pip install nvidia-cublas (drivers from 580 on) or nvidia-cublas-cu12, or set NPC_CUDA_LIBS to the folder that holds it";
                return Err(DeviceError::Missing(why.into()));
            }
            // Taken once, also where the library does not open at the first attempt.
            let workspace = match self.products_workspace {
                Some(workspace) => workspace,
                None => self.allocate(lt::WORKSPACE, "cuBLASLt")?,
            };
            self.products_workspace = Some(workspace);
            self.lt = Some(Lt::new(workspace).map_err(library_failed("opening cuBLASLt", ""))?);
        }
        self.lt.as_mut().ok_or_else(|| DeviceError::Missing("cuBLASLt was not opened".into()))
    }

    fn convolutions(&mut self) -> Option<&mut Dnn> {
        if self.dnn.is_none() {
            let opened = has_cudnn().then(|| Dnn::new(self.stream.cu_stream().cast()));
            if let Some(Err(error)) = &opened {
                tracing::warn!("cuDNN does not open ({error:?}); convolutions run on npc's own kernels");
            }
            self.dnn = Some(opened.and_then(std::result::Result::ok));
        }
        self.dnn.as_mut()?.as_mut()
    }

    /// Starts every command on the stream, and waits for each if `waits`.
    fn start(&mut self, waits: bool) -> Result<()> {
        let stream = self.stream.cu_stream();
        let wait = |call: &str, name: &str| match waits {
            // SAFETY: the stream is alive.
            true => unsafe { driver::stream::synchronize(stream) }.map_err(failed(call, name)),
            false => Ok(()),
        };
        wait("copying to the GPU", "")?;
        for (name, action) in &mut self.actions {
            match action {
                Action::Kernel(k) => {
                    let mut pointers: Vec<*mut c_void> =
                        k.arguments.iter_mut().map(|a| a.as_mut_ptr().cast()).collect();
                    let (grid, block) = ((k.grid[0], k.grid[1], k.grid[2]), (k.block[0], k.block[1], k.block[2]));
                    // SAFETY: number and sizes of the arguments are those of the kernel; memory they point to is this
                    // device's and allocated.
                    unsafe { driver::launch_kernel(k.function, grid, block, k.shared, stream, &mut pointers) }
                        .map_err(failed("starting a kernel", name))?;
                }
                Action::Copy { from, to, bytes } => {
                    // SAFETY: both ranges lie in allocations of this device.
                    unsafe { driver::memcpy_dtod_async(to.0, from.0, *bytes as usize, stream) }
                        .map_err(failed("copying", name))?;
                }
                Action::Convolution(convolution) => {
                    let Some(Some(dnn)) = &self.dnn else { continue };
                    dnn.start(convolution, self.workspace).map_err(library_failed("a convolution", name))?;
                }
                Action::Product(product) => {
                    let Some(lt) = &self.lt else { continue };
                    lt.start(product, stream.cast()).map_err(library_failed("a matrix product", name))?;
                }
            }
            wait("the step", name)?;
        }
        Ok(())
    }

    /// Copies at most [`LARGEST`] bytes; they may change when this returns.
    fn upload(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.cu_stream();
        let staging = match &mut self.staging {
            Some(staging) => staging,
            None => self.staging.insert(Staging::new().map_err(failed("making a stream", ""))?),
        };
        match staging.copy(to.0, bytes, stream) {
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let size = bytes.len();
                tracing::debug!("no memory to copy {size} bytes beside the GPU's work: it waits for the copy");
            }
            copied => return copied.map_err(failed("copying to the GPU", "")),
        }
        // SAFETY: the range is allocated, and `bytes` outlives the copy, which is waited for.
        unsafe {
            driver::memcpy_htod_async(to.0, bytes, stream).map_err(failed("copying to the GPU", ""))?;
            driver::stream::synchronize(stream).map_err(failed("copying to the GPU", ""))
        }
    }

    /// Forgets the prepared commands; nothing on the stream uses their graph any more.
    fn forget(&mut self) {
        if let Pace::Graph(graph) = std::mem::replace(&mut self.pace, Pace::Careful) {
            // SAFETY: made by this object, destroyed once, and idle.
            unsafe {
                let _ = driver::stream::synchronize(self.stream.cu_stream());
                let _ = driver::graph::exec_destroy(graph);
            }
        }
        self.actions.clear();
    }

    /// Records the commands as a graph; `None`, and a warning, when the driver cannot.
    fn capture(&mut self) -> Option<sys::CUgraphExec> {
        match self.graph() {
            Ok(graph) => Some(graph),
            Err(error) => {
                tracing::warn!("the step cannot be captured ({error}); its kernels are started one by one");
                None
            }
        }
    }

    fn graph(&mut self) -> Result<sys::CUgraphExec> {
        let stream = self.stream.cu_stream();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive.
        unsafe { driver::stream::begin_capture(stream, mode) }.map_err(failed("capturing the step", ""))?;
        let started = self.start(false);
        // SAFETY: the capture was begun above and has to be ended whatever happened since.
        let graph = unsafe { driver::stream::end_capture(stream) };
        // SAFETY: the graph was just made; the executable one does not need it any more.
        unsafe {
            let exec = match (&started, &graph) {
                (Ok(()), Ok(graph)) => Some(driver::graph::instantiate(*graph, sys::CUgraphInstantiate_flags(0))),
                _ => None,
            };
            if let Some(graph) = graph.as_ref().ok().filter(|graph| !graph.is_null()) {
                let _ = driver::graph::destroy(*graph);
            }
            started?;
            graph.map_err(failed("capturing the step", ""))?;
            let missing = || DeviceError::Missing("the capture gave no graph".into());
            exec.ok_or_else(missing)?.map_err(failed("preparing the step's graph", ""))
        }
    }
}

fn bytes(argument: &Argument) -> Vec<u8> {
    match argument {
        Argument::U32(x) => x.to_le_bytes().to_vec(),
        Argument::U64(x) => x.to_le_bytes().to_vec(),
        Argument::F32(x) => x.to_le_bytes().to_vec(),
        Argument::Pointer(p) => p.0.to_le_bytes().to_vec(),
        Argument::Bytes(bytes) => bytes.clone(),
    }
}

impl Device for Gpu {
    fn allocate(&mut self, bytes: u64, what: &str) -> Result<DevicePointer> {
        self.bind()?;
        let bytes_or_one = bytes.max(1) as usize;
        // SAFETY: freed once, when `self` is dropped, and used on its stream only.
        let taken = unsafe {
            match self.context.has_async_alloc() {
                true => driver::malloc_async(self.stream.cu_stream(), bytes_or_one),
                false => driver::malloc_sync(bytes_or_one),
            }
        };
        match taken {
            Ok(pointer) => {
                self.allocations.push(pointer);
                Ok(DevicePointer(pointer))
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let free = driver::mem_get_info().map_or(0, |(free, _)| free as u64) >> 20;
                Err(DeviceError::Memory { what: what.to_string(), needed: bytes.div_ceil(1 << 20), free })
            }
            Err(error) => Err(failed("taking memory", what)(error)),
        }
    }

    fn write(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        let parts = bytes.chunks(LARGEST).enumerate();
        parts.map(|(i, part)| (to.offset((i * LARGEST) as u64), part)).try_for_each(|(to, part)| self.upload(to, part))
    }

    fn clear(&mut self, at: DevicePointer, bytes: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the range is allocated.
        unsafe { driver::memset_d8_async(at.0, 0, bytes as usize, self.stream.cu_stream()) }
            .map_err(failed("clearing memory", ""))
    }

    fn read(&mut self, from: DevicePointer, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let stream = self.stream.cu_stream();
        // SAFETY: the range is allocated, and `bytes` outlives the copy, which is waited for. What failed before is not the
        // copy's fault.
        unsafe {
            driver::stream::synchronize(stream).map_err(|error| match failed("the step", "")(error) {
                DeviceError::Call { call, place, why } if !self.checks_nodes => {
                    let why = format!("{why}; --check-nodes runs it node by node and names the one that fails");
                    DeviceError::Call { call, place, why }
                }
                other => other,
            })?;
            driver::memcpy_dtoh_async(bytes, from.0, stream).map_err(failed("copying from the GPU", ""))?;
            driver::stream::synchronize(stream).map_err(failed("copying from the GPU", ""))
        }
    }

    fn prepare(&mut self, commands: Commands) -> Result<()> {
        self.bind()?;
        if commands.list.iter().any(|(_, c)| matches!(c, Command::Generated { .. })) {
            self.generated = Some(self.load(&commands.module, "generated")?);
        }
        let mut actions = Vec::with_capacity(commands.list.len());
        for (name, command) in commands.list {
            let action = match command {
                Command::Launch(l) => {
                    let module = match self.modules.get(&l.source) {
                        Some(module) => *module,
                        None => {
                            let module = self.load(l.source.ptx(), l.source.name())?;
                            self.modules.insert(l.source, module);
                            module
                        }
                    };
                    Action::Kernel(Ready {
                        function: Self::function(module, l.kernel)?,
                        grid: l.grid,
                        block: l.block,
                        shared: l.dynamic_shared,
                        arguments: l.arguments.iter().map(bytes).collect(),
                    })
                }
                Command::Generated { kernel, grid, block, shared, arguments } => {
                    let Some(module) = self.generated else { continue };
                    Action::Kernel(Ready {
                        function: Self::function(module, &kernel)?,
                        grid: [grid, 1, 1],
                        block: [block, 1, 1],
                        shared,
                        arguments: arguments.iter().map(|p| p.0.to_le_bytes().to_vec()).collect(),
                    })
                }
                Command::Product { product, numbers, a, b, c, extra } => {
                    let ready = self.products()?.prepare(&product, numbers, [a, b, c], extra.as_ref());
                    Action::Product(ready.map_err(library_failed("preparing a matrix product", &name))?)
                }
                Command::Convolution { convolution, precision, a, b, c } => {
                    let missing = || DeviceError::Missing("cuDNN is not there any more".into());
                    let dnn = self.convolutions().ok_or_else(missing)?;
                    let ready = dnn.prepare(&convolution, precision, [a, b, c]);
                    Action::Convolution(ready.map_err(library_failed("preparing a convolution", &name))?)
                }
                Command::Copy { from, to, bytes } => Action::Copy { from, to, bytes },
            };
            actions.push((name, action));
        }
        let convolutions = actions.iter().filter_map(|(_, action)| match action {
            Action::Convolution(ready) => Some(ready.workspace() as u64),
            _ => None,
        });
        if let Some(bytes) = convolutions.max() {
            self.workspace = self.allocate(bytes, "convolutions")?;
        }
        self.forget();
        self.actions = actions;
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.bind()?;
        if self.checks_nodes {
            return self.start(true);
        }
        if let Pace::Record = self.pace {
            self.pace = self.capture().map_or(Pace::Plain, Pace::Graph);
        }
        match self.pace {
            Pace::Careful => {
                self.start(true)?;
                self.pace = Pace::Record;
                Ok(())
            }
            // SAFETY: graph and stream are alive.
            Pace::Graph(graph) => unsafe { driver::graph::launch(graph, self.stream.cu_stream()) }
                .map_err(failed("starting the step", "")),
            Pace::Record | Pace::Plain => self.start(false),
        }
    }

    fn free_bytes(&self) -> Result<u64> {
        self.bind()?;
        let free = driver::mem_get_info().map(|(free, _)| free as u64);
        free.map(|free| free.min(self.most_free)).map_err(failed("asking for free memory", ""))
    }

    fn cache_bytes(&self) -> u64 {
        // The rest is for what else passes through the cache meanwhile.
        self.cache / 4 * 3
    }

    fn multiprocessors(&self) -> u64 {
        self.multiprocessors
    }
}

impl Libraries for Gpu {
    fn has_epilogue(&mut self, product: &Product, precision: Precision, epilogue: Epilogue) -> bool {
        // What is missing is said when the products are prepared.
        self.bind().is_ok() && self.products().is_ok_and(|lt| lt.has(product, Numbers::wide(precision), Some(epilogue)))
    }

    fn has_narrow(&mut self, product: &Product, numbers: Numbers, epilogue: Option<Epilogue>) -> bool {
        self.bind().is_ok() && self.products().is_ok_and(|lt| lt.has(product, numbers, epilogue))
    }

    fn has_convolution(&mut self, convolution: &Convolution, precision: Precision) -> bool {
        self.bind().is_ok() && self.convolutions().is_some_and(|dnn| dnn.has(convolution, precision))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        // SAFETY: each was made by this object and is destroyed once; the stream is idle before.
        unsafe {
            let _ = driver::stream::synchronize(self.stream.cu_stream());
            if let Some(mut staging) = self.staging.take() {
                staging.free();
            }
            self.forget();
            drop(self.lt.take());
            drop(self.dnn.take());
            for module in self.modules.drain().map(|(_, m)| m).chain(self.generated.take()) {
                let _ = driver::module::unload(module);
            }
            let stream = self.stream.cu_stream();
            let is_pooled = self.context.has_async_alloc();
            for pointer in self.allocations.drain(..) {
                let _ = if is_pooled { driver::free_async(pointer, stream) } else { driver::free_sync(pointer) };
            }
            // The pool gives back what is free when it is waited for.
            let _ = driver::stream::synchronize(stream);
        }
    }
}
