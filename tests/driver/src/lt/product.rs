//! A product, computed.

use super::check::{BFLOAT, FLOAT, Shape, size};
use super::epilogue::{Activation, Factor, gelu_slope};
use super::{Description, Layout};
use crate::driver::Driver;
use crate::ranges::{Range, overlap};
use crate::rounding;
use crate::work::{Failure, failure};
use cudarc::cublaslt::sys::cublasComputeType_t as Compute;
use cudarc::driver::sys::CUresult;
use half::{bf16, f16};

/// A product on a stream.
pub struct Product {
    pub shape: Shape,
    pub description: Description,
    /// A, B, C, D.
    pub layouts: [Layout; 4],
    pub addresses: [u64; 4],
    pub alpha: f32,
    pub beta: f32,
}

/// A factor as tensor cores take it.
pub fn rounded(compute: u32, x: f32) -> f32 {
    match compute {
        c if c == Compute::CUBLAS_COMPUTE_32F_FAST_16BF as u32 => rounding::bf16(x),
        c if c == Compute::CUBLAS_COMPUTE_32F_FAST_16F as u32 => rounding::f16(x),
        c if c == Compute::CUBLAS_COMPUTE_32F_FAST_TF32 as u32 => rounding::tf32(x),
        _ => x,
    }
}

impl Product {
    /// Addresses and bytes of every stored column.
    fn columns(&self, which: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (base, size) = (self.addresses[which], size(self.layouts[which].dtype));
        self.layouts[which].columns().map(move |(first, count)| (base + size * first as u64, size * count as u64))
    }

    fn bias_bytes(&self) -> u64 {
        4 * self.shape.bias() as u64
    }

    fn aux_bytes(&self, activation: Activation) -> u64 {
        let elements = self.description.aux_leading as u64 * self.shape.n as u64;
        match activation {
            Activation::Relu => elements / 8,
            Activation::Gelu => 4 * elements,
        }
    }

    /// What it writes, and what it reads but for C.
    fn ranges(&self) -> (Vec<Range>, Vec<Range>) {
        let (mut written, mut read): (Vec<_>, Vec<_>) = (self.columns(3).collect(), self.columns(0).collect());
        read.extend(self.columns(1));
        let bias = self.shape.parts.has_bias_pointer().then(|| (self.description.bias, self.bias_bytes()));
        let aux = self.shape.parts.aux().map(|a| (self.description.aux, self.aux_bytes(a)));
        match self.shape.parts.bias {
            true => read.extend(bias),
            false => written.extend(bias),
        }
        match self.shape.parts.keeps {
            true => written.extend(aux),
            false => read.extend(aux),
        }
        (written, read)
    }

    /// Where it writes what it also reads or writes otherwise.
    pub fn overlap(&self) -> Option<u64> {
        let (written, read) = self.ranges();
        overlap(written, read)
    }
}

impl Driver {
    fn floats(&self, address: u64, count: usize) -> Result<Vec<f32>, Failure> {
        self.memory.read(address, count).map_err(|fault| failure("a matrix product", &fault))
    }

    fn write_floats(&mut self, address: u64, values: &[f32]) -> Result<(), Failure> {
        self.memory.write(address, values).map_err(|fault| failure("a matrix product", &fault))
    }

    /// Elements of a matrix of any type that is built.
    fn elements(&self, dtype: u32, address: u64, count: usize) -> Result<Vec<f32>, Failure> {
        if dtype == FLOAT {
            return self.floats(address, count);
        }
        let bytes = self.read_bytes(address, 2 * count)?;
        let wide = |two: &[u8; 2]| match dtype {
            BFLOAT => bf16::from_le_bytes(*two).to_f32(),
            _ => f16::from_le_bytes(*two).to_f32(),
        };
        Ok(bytes.as_chunks().0.iter().map(wide).collect())
    }

    fn write_elements(&mut self, dtype: u32, address: u64, values: &[f32]) -> Result<(), Failure> {
        if dtype == FLOAT {
            return self.write_floats(address, values);
        }
        let narrow = |x: &f32| match dtype {
            BFLOAT => bf16::from_f32(*x).to_le_bytes(),
            _ => f16::from_f32(*x).to_le_bytes(),
        };
        let bytes: Vec<u8> = values.iter().flat_map(narrow).collect();
        self.memory.write(address, &bytes).map_err(|fault| failure("a matrix product", &fault))
    }

    /// One factor of one batch as rows × columns of op(X), by rows.
    fn factor(&self, p: &Product, which: usize, batch: usize) -> Result<Vec<f64>, Failure> {
        let layout = &p.layouts[which];
        let (rows, columns) = (layout.rows as usize, layout.columns as usize);
        let is_transposed = p.description.transposes[which] == 1;
        let mut out = vec![0.0; rows * columns];
        for j in 0..columns {
            let first = batch as i64 * layout.stride + j as i64 * layout.leading;
            let at = p.addresses[which] + size(layout.dtype) * first as u64;
            let column = self.elements(layout.dtype, at, rows)?;
            for (i, x) in column.into_iter().enumerate() {
                let at = if is_transposed { j * rows + i } else { i * columns + j };
                out[at] = f64::from(rounded(p.description.compute, x));
            }
        }
        Ok(out)
    }

    pub fn multiply(&mut self, p: &Product) -> Result<(), Failure> {
        self.report.products += 1;
        for (count, which) in self.report.narrow.iter_mut().zip([0, 3]) {
            *count += u64::from(p.layouts[which].dtype != FLOAT);
        }
        if let Some(at) = p.overlap() {
            let what = format!("a matrix product writes at {at:#x} what it also reads, or writes twice");
            return Err((CUresult::CUDA_ERROR_LAUNCH_FAILED, what));
        }
        let Shape { m, n, k, .. } = p.shape;
        for batch in 0..p.layouts[3].batch as usize {
            let (x, y) = (self.factor(p, 0, batch)?, self.factor(p, 1, batch)?);
            // D by rows.
            let mut sums = vec![0.0f64; m * n];
            for i in 0..m {
                let line = &mut sums[i * n..(i + 1) * n];
                for (l, y) in y.chunks_exact(n).enumerate() {
                    let factor = x[i * k + l];
                    line.iter_mut().zip(y).for_each(|(sum, y)| *sum += factor * y);
                }
            }
            let (c, d) = (&p.layouts[2], &p.layouts[3]);
            let at = |which: usize, layout: &Layout, j: usize| {
                p.addresses[which]
                    + size(layout.dtype) * (batch as i64 * layout.stride + j as i64 * layout.leading) as u64
            };
            let mut bias_gradient = vec![0.0f64; m];
            for j in 0..n {
                let mut column: Vec<f64> = (0..m).map(|i| f64::from(p.alpha) * sums[i * n + j]).collect();
                if p.beta != 0.0 {
                    let old = self.elements(c.dtype, at(2, c, j), m)?;
                    column.iter_mut().zip(old).for_each(|(x, old)| *x += f64::from(p.beta) * f64::from(old));
                }
                let mut column: Vec<f32> = column.into_iter().map(|x| x as f32).collect();
                self.finish_column(p, j, &mut column)?;
                bias_gradient.iter_mut().zip(&column).for_each(|(sum, x)| *sum += f64::from(*x));
                self.write_elements(d.dtype, at(3, d, j), &column)?;
            }
            let gradient = match p.shape.parts.factor_sums {
                Some(Factor::A) => Some((0..m).map(|i| x[i * k..(i + 1) * k].iter().sum()).collect()),
                Some(Factor::B) => Some((0..n).map(|j| y.iter().skip(j).step_by(n).sum()).collect()),
                None => p.shape.parts.sums.then_some(bias_gradient),
            };
            if let Some(gradient) = gradient {
                let gradient: Vec<f32> = gradient.into_iter().map(|sum: f64| sum as f32).collect();
                self.write_floats(p.description.bias, &gradient)?;
            }
        }
        Ok(())
    }

    /// What the epilogue does with column j.
    fn finish_column(&mut self, p: &Product, j: usize, column: &mut [f32]) -> Result<(), Failure> {
        let (parts, d) = (p.shape.parts, &p.description);
        if parts.bias {
            let bias = self.floats(d.bias, column.len())?;
            column.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        }
        let first = j as u64 * d.aux_leading as u64;
        match parts.activation.filter(|_| parts.keeps) {
            Some(Activation::Relu) => {
                let mut bits = vec![0u8; d.aux_leading as usize / 8];
                column.iter().enumerate().filter(|(_, x)| **x > 0.0).for_each(|(i, _)| bits[i / 8] |= 1 << (i % 8));
                self.memory.write(d.aux + first / 8, &bits).map_err(|fault| failure("a matrix product", &fault))?;
            }
            Some(Activation::Gelu) => self.write_floats(d.aux + 4 * first, column)?,
            None => {}
        }
        if let Some(activation) = parts.activation {
            column.iter_mut().for_each(|x| *x = activation.value(*x));
        }
        match parts.derivative {
            Some(Activation::Relu) => {
                let bytes = column.len().div_ceil(8);
                let bits: Vec<u8> = self.read_bytes(d.aux + first / 8, bytes)?;
                let is_zero = |i: usize| bits[i / 8] >> (i % 8) & 1 == 0;
                column.iter_mut().enumerate().filter(|(i, _)| is_zero(*i)).for_each(|(_, x)| *x = 0.0);
            }
            Some(Activation::Gelu) => {
                let kept = self.floats(d.aux + 4 * first, column.len())?;
                column.iter_mut().zip(kept).for_each(|(x, z)| *x = (f64::from(*x) * gelu_slope(z)) as f32);
            }
            None => {}
        }
        Ok(())
    }
}
