//! The reference device: our kernels' and the generated PTX in the interpreter, matrix products on the host.

use super::command::{Command, Commands, Extra};
use super::convolution::{Convolution, Pass};
use super::device::{Device, DeviceError};
use super::epilogue::{Activation, Epilogue};
use super::{Libraries, Numbers, Precision};
use npc_kernels::cpu::contraction::Product;
use npc_kernels::cuda::{Argument, DevicePointer, Source as Module};
use npc_kernels::elementwise::DType;
use npc_ptx_interpreter as ptx;
use std::collections::HashMap;

/// A device made of the interpreter.
pub struct Reference {
    memory: ptx::Memory,
    /// What it says is free.
    pub free: u64,
    /// Whether products have epilogues.
    pub epilogues: bool,
    /// Whether products take factors of 16 bits.
    pub narrow: bool,
    /// Whether they write results of 16 bits.
    pub narrow_results: bool,
    /// Whether it has whole convolutions.
    pub convolutions: bool,
    /// Steps it has run.
    pub steps: usize,
    modules: HashMap<Module, ptx::Module>,
    generated: Option<ptx::Module>,
    commands: Vec<(String, Command)>,
}

impl Default for Reference {
    fn default() -> Self {
        Reference {
            memory: ptx::Memory::default(),
            free: 1 << 30,
            epilogues: true,
            narrow: true,
            narrow_results: true,
            convolutions: false,
            steps: 0,
            modules: HashMap::new(),
            generated: None,
            commands: Vec::new(),
        }
    }
}

impl Reference {
    fn launch(&mut self, source: Option<Module>, launch: &ptx::Launch<'_>) {
        let module = match source {
            Some(source) => self.modules.entry(source).or_insert_with(|| ptx::Module::parse(source.ptx()).unwrap()),
            None => self.generated.as_mut().unwrap(),
        };
        ptx::launch(module, &mut self.memory, launch, ptx::Schedule::Random(11)).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Elements of a product's operand as float32.
    fn elements(&self, dtype: DType, base: DevicePointer, start: usize, count: usize) -> Vec<f32> {
        let at = base.0 + (start * dtype.bytes()) as u64;
        if dtype == DType::F32 {
            return self.memory.read::<f32>(at, count).unwrap();
        }
        let bytes = self.memory.read::<u8>(at, 2 * count).unwrap();
        let wide = |two: &[u8; 2]| match dtype {
            DType::F16 => half::f16::from_le_bytes(*two).to_f32(),
            DType::BF16 => half::bf16::from_le_bytes(*two).to_f32(),
            other => panic!("a product of {other:?}"),
        };
        bytes.as_chunks().0.iter().map(wide).collect()
    }

    /// A product of rounded factors in float64, rounded to float32 and then to the result's type.
    fn product(&mut self, p: &Product, numbers: Numbers, [a, b, c]: [DevicePointer; 3]) {
        let (precision, factors, result) = (numbers.precision, numbers.factors(), numbers.result());
        assert!(result == DType::F32 || factors == result, "float32 factors, {result:?} result");
        let span = |o: &npc_kernels::cpu::contraction::Operand, rows: usize, columns: usize| {
            (p.batch - 1) * o.batch + (rows - 1) * o.down + (columns - 1) * o.along + 1
        };
        let read = |base: DevicePointer, start: usize, count| {
            let values = self.elements(factors, base, start, count);
            values.into_iter().map(|x| precision.round(x)).collect::<Vec<_>>()
        };
        let x = read(a, p.a.start, span(&p.a, p.rows, p.inner));
        let y = read(b, p.b.start, span(&p.b, p.inner, p.columns));
        for batch in 0..p.batch {
            let y: Vec<f64> = (0..p.inner)
                .flat_map(|k| (0..p.columns).map(move |j| (k, j)))
                .map(|(k, j)| f64::from(y[batch * p.b.batch + k * p.b.down + j * p.b.along]))
                .collect();
            for row in 0..p.rows {
                let mut sums = vec![0f64; p.columns];
                for (k, line) in y.chunks_exact(p.columns).enumerate() {
                    let factor = f64::from(x[batch * p.a.batch + row * p.a.down + k * p.a.along]);
                    sums.iter_mut().zip(line).for_each(|(sum, y)| *sum += factor * y);
                }
                let at = p.c.start + batch * p.c.batch + row * p.c.down;
                let place = |column: usize| at + column * p.c.along;
                if p.accumulate {
                    let old = |j: usize| self.elements(result, c, place(j), 1)[0];
                    sums.iter_mut().enumerate().for_each(|(j, sum)| *sum += f64::from(old(j)));
                }
                let stored = |sum: f64| match result {
                    DType::F16 => half::f16::from_f32(sum as f32).to_le_bytes().to_vec(),
                    DType::BF16 => half::bf16::from_f32(sum as f32).to_le_bytes().to_vec(),
                    _ => (sum as f32).to_le_bytes().to_vec(),
                };
                let size = result.bytes();
                let bytes: Vec<u8> = sums.into_iter().flat_map(stored).collect();
                let step = if p.c.along == 1 { bytes.len() } else { size };
                for (i, part) in bytes.chunks(step.max(1)).enumerate() {
                    self.memory.write(c.0 + (size * place(i)) as u64, part).unwrap();
                }
            }
        }
    }

    /// What follows a product. What is kept has the layout that cuBLASLt gives it.
    fn finish(&mut self, p: &Product, numbers: Numbers, extra: Extra, [a, b, c]: [DevicePointer; 3]) {
        assert_eq!(numbers.result(), DType::F32, "an epilogue's bias and what it keeps have the result's type");
        let (rows, columns) = (p.rows, p.columns);
        let mut values = self.memory.read::<f32>(c.0, rows * columns).unwrap();
        let sums = match extra.epilogue {
            Epilogue::Bias { activation, keeps } => {
                let bias = self.memory.read::<f32>(extra.read.0, columns).unwrap();
                values.iter_mut().zip(bias.iter().cycle()).for_each(|(x, b)| *x += b);
                if let Some(activation) = activation.filter(|_| keeps) {
                    self.keep(activation, &values, columns, extra.write);
                }
                if let Some(activation) = activation {
                    values.iter_mut().for_each(|x| *x = activation.at(f64::from(*x)).0 as f32);
                }
                None
            }
            Epilogue::Gradient { activation, sums } => {
                let slopes = self.slopes(activation, rows, columns, extra.read);
                values.iter_mut().zip(slopes).for_each(|(x, slope)| *x = (f64::from(*x) * slope) as f32);
                let column = |j: usize| values.iter().skip(j).step_by(columns).map(|x| f64::from(*x)).sum::<f64>();
                sums.then(|| (0..columns).map(column).collect::<Vec<f64>>())
            }
            Epilogue::Sums { of_right } => {
                assert_eq!(numbers.factors(), DType::F32, "sums of what is rounded for the product");
                let read = |at: DevicePointer, i: usize| f64::from(self.elements(DType::F32, at, i, 1)[0]);
                let left =
                    |i: usize| (0..p.inner).map(|k| read(a, p.a.start + i * p.a.down + k * p.a.along)).sum::<f64>();
                let right = |j: usize| (0..p.inner).map(|k| read(b, p.b.start + k * p.b.down + j * p.b.along)).sum();
                Some(if of_right { (0..columns).map(right).collect() } else { (0..rows).map(left).collect() })
            }
        };
        self.memory.write(c.0, &values).unwrap();
        if let Some(sums) = sums {
            let sums: Vec<f32> = sums.into_iter().map(|sum: f64| sum as f32).collect();
            self.memory.write(extra.write.0, &sums).unwrap();
        }
    }

    /// A convolution of rounded factors in float64, term by term.
    fn convolve(&mut self, c: &Convolution, precision: Precision, [a, b, to]: [DevicePointer; 3]) {
        let g = &c.geometry;
        let (inputs, positions, taps) = (g.input_len(), g.output_len(), g.taps());
        let (per_group, per_filter) = (c.channels / c.groups, c.filters / c.groups);
        let sizes = [c.batch * c.channels * inputs, c.filters * per_group * taps, c.batch * c.filters * positions];
        let (first, second, result) = match c.pass {
            Pass::Forward => (0, 1, 2),
            Pass::Data => (1, 2, 0),
            Pass::Filter => (0, 2, 1),
        };
        let mut tensors = sizes.map(|n| vec![0f64; n]);
        for (which, from) in [(first, a), (second, b)] {
            let values = self.memory.read::<f32>(from.0, sizes[which]).unwrap();
            tensors[which] = values.into_iter().map(|v| f64::from(precision.round(v))).collect();
        }
        let apart = |at: usize, e: [usize; 3]| [at / (e[1] * e[2]), at / e[2] % e[1], at % e[2]];
        // Where each tap of each window reads.
        let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
        for o in 0..positions {
            for k in 0..taps {
                let (p, t) = (apart(o, g.output()), apart(k, g.kernel()));
                let at = [0, 1, 2].map(|i| {
                    let at = (p[i] * g.strides()[i] + t[i] * g.dilations()[i]) as isize - g.pads()[i];
                    usize::try_from(at).ok().filter(|at| *at < g.input()[i])
                });
                if let [Some(d), Some(h), Some(w)] = at {
                    pairs.push((o, k, (d * g.input()[1] + h) * g.input()[2] + w));
                }
            }
        }
        let ([x_sample, x_channel], [y_sample, y_channel]) = (c.x_distances(), c.y_distances());
        let [x, w, y] = &mut tensors;
        for n in 0..c.batch {
            for f in 0..c.filters {
                for i in 0..per_group {
                    let channel = f / per_filter * per_group + i;
                    let (xs, ws) = (n * x_sample + channel * x_channel, (f * per_group + i) * taps);
                    let ys = n * y_sample + f * y_channel;
                    for &(o, k, at) in &pairs {
                        match c.pass {
                            Pass::Forward => y[ys + o] += w[ws + k] * x[xs + at],
                            Pass::Data => x[xs + at] += w[ws + k] * y[ys + o],
                            Pass::Filter => w[ws + k] += y[ys + o] * x[xs + at],
                        }
                    }
                }
            }
        }
        let values: Vec<f32> = tensors[result].iter().map(|v| *v as f32).collect();
        self.memory.write(to.0, &values).unwrap();
    }

    fn keep(&mut self, activation: Activation, z: &[f32], columns: usize, to: DevicePointer) {
        let leading = activation.kept_leading(columns);
        for (row, z) in z.chunks_exact(columns).enumerate() {
            match activation {
                Activation::Relu => {
                    let mut bits = vec![0u8; leading / 8];
                    z.iter().enumerate().filter(|(_, z)| **z > 0.0).for_each(|(j, _)| bits[j / 8] |= 1 << (j % 8));
                    self.memory.write(to.0 + (row * leading / 8) as u64, &bits).unwrap();
                }
                Activation::Gelu => self.memory.write(to.0 + (4 * row * leading) as u64, z).unwrap(),
            }
        }
    }

    fn slopes(&self, activation: Activation, rows: usize, columns: usize, from: DevicePointer) -> Vec<f64> {
        let leading = activation.kept_leading(columns);
        let row = |row: usize| match activation {
            Activation::Relu => {
                let bits = self.memory.read::<u8>(from.0 + (row * leading / 8) as u64, leading / 8).unwrap();
                (0..columns).map(|j| f64::from(bits[j / 8] >> (j % 8) & 1)).collect::<Vec<f64>>()
            }
            Activation::Gelu => {
                let z = self.memory.read::<f32>(from.0 + (4 * row * leading) as u64, columns).unwrap();
                z.into_iter().map(|z| activation.at(f64::from(z)).1).collect()
            }
        };
        (0..rows).flat_map(row).collect()
    }
}

impl Device for Reference {
    fn allocate(&mut self, bytes: u64, _: &str) -> Result<DevicePointer, DeviceError> {
        Ok(DevicePointer(self.memory.alloc(bytes as usize)))
    }

    fn write(&mut self, to: DevicePointer, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(to.0, bytes).unwrap();
        Ok(())
    }

    fn clear(&mut self, at: DevicePointer, bytes: u64) -> Result<(), DeviceError> {
        self.memory.write(at.0, &vec![0u8; bytes as usize]).unwrap();
        Ok(())
    }

    fn read(&mut self, from: DevicePointer, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(&self.memory.read::<u8>(from.0, bytes.len()).unwrap());
        Ok(())
    }

    fn prepare(&mut self, commands: Commands) -> Result<(), DeviceError> {
        self.generated = Some(ptx::Module::parse(&commands.module).unwrap());
        self.commands = commands.list;
        Ok(())
    }

    fn step(&mut self) -> Result<(), DeviceError> {
        self.steps += 1;
        for (_, command) in self.commands.clone() {
            match &command {
                Command::Launch(l) => {
                    let arguments: Vec<ptx::Argument> = (l.arguments.iter())
                        .map(|argument| match argument {
                            Argument::U32(x) => ptx::Argument::U32(*x),
                            Argument::U64(x) => ptx::Argument::U64(*x),
                            Argument::F32(x) => ptx::Argument::F32(*x),
                            Argument::Pointer(p) => ptx::Argument::U64(p.0),
                            Argument::Bytes(bytes) => ptx::Argument::Bytes(bytes.clone()),
                        })
                        .collect();
                    let launch = ptx::Launch {
                        kernel: l.kernel,
                        grid: l.grid,
                        block: l.block,
                        dynamic_shared: l.dynamic_shared,
                        arguments: &arguments,
                    };
                    self.launch(Some(l.source), &launch);
                }
                Command::Generated { kernel, grid, block, shared, arguments } => {
                    let arguments: Vec<ptx::Argument> = arguments.iter().map(|p| ptx::Argument::U64(p.0)).collect();
                    let launch = ptx::Launch {
                        kernel,
                        grid: [*grid, 1, 1],
                        block: [*block, 1, 1],
                        dynamic_shared: *shared,
                        arguments: &arguments,
                    };
                    self.launch(None, &launch);
                }
                Command::Product { product, numbers, a, b, c, extra } => {
                    self.product(product, *numbers, [*a, *b, *c]);
                    if let Some(extra) = extra {
                        self.finish(product, *numbers, *extra, [*a, *b, *c]);
                    }
                }
                Command::Convolution { convolution, precision, a, b, c } => {
                    self.convolve(convolution, *precision, [*a, *b, *c]);
                }
                Command::Copy { from, to, bytes } => {
                    let data = self.memory.read::<u8>(from.0, *bytes as usize).unwrap();
                    self.memory.write(to.0, &data).unwrap();
                }
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(self.free)
    }

    fn cache_bytes(&self) -> u64 {
        1 << 20
    }

    fn multiprocessors(&self) -> u64 {
        4
    }
}

impl Libraries for Reference {
    fn has_epilogue(&mut self, _: &Product, _: Precision, _: Epilogue) -> bool {
        self.epilogues
    }

    fn has_narrow(&mut self, _: &Product, numbers: Numbers, epilogue: Option<Epilogue>) -> bool {
        self.narrow && (!numbers.narrow_result || self.narrow_results && epilogue.is_none())
    }

    fn has_convolution(&mut self, _: &Convolution, _: Precision) -> bool {
        self.convolutions
    }
}
