//! PTX for NVIDIA GPUs, from sm_70 on, generated from expressions.
//!
//! Shapes and strides are constants of the text. Without a reduction one kernel does everything; a reduction of few results
//! out of many elements takes a second kernel that adds up the first one's partial results. No atomics are used and the
//! order of every sum depends on the shape only, so results are the same in every run and on every GPU.

mod emitter;
mod frame;
mod lower;
mod map;
mod memory;
mod reduce;

use super::expression::{Expression, Input, Reduction};
use super::operation::Operand;
use crate::cpu::KernelError;
use emitter::Emitter;
use frame::{BLOCK, Frame};
use reduce::Cut;
use std::collections::HashSet;

/// What a kernel parameter points to. Every parameter is a 64-bit device address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// The expression's input of this number.
    Input(usize),
    /// The expression's output of this number.
    Output(usize),
    /// [`Generated::scratch`] bytes that kernel after kernel of one expression shares.
    Scratch,
}

/// One kernel and how it is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Name of the entry point, the same for the same text.
    pub name: String,
    /// The entry point's text, to be put into a [`module`].
    pub entry: String,
    /// Blocks, all along x.
    pub grid: u32,
    /// Threads of a block, all along x.
    pub block: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// The parameters in order.
    pub arguments: Vec<Argument>,
}

/// The kernels of an expression, to be launched one after the other. There is none when nothing is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// In order.
    pub kernels: Vec<Kernel>,
    /// Bytes of scratch memory, which need no initial value.
    pub scratch: usize,
}

/// Generates the kernels of `expression`.
///
/// With `aligned`, all tensors must lie at multiples of 16 bytes, and up to four elements are moved at a time. An output may
/// take the place of an input of the same type and of the expression's full shape if every access to both is through this
/// expression; the reduction's output may take no input's place.
///
/// # Errors
/// When a launch would need more than 2³¹ − 1 blocks or more than 512 arguments.
pub fn generate(expression: &Expression, aligned: bool) -> Result<Generated, KernelError> {
    let outputs: Vec<Argument> = (0..expression.outputs.len()).map(Argument::Output).collect();
    let inputs = (0..expression.inputs.len()).map(Argument::Input);
    let mut arguments: Vec<Argument> = inputs.chain(outputs.iter().copied()).collect();
    let mut frame = Frame::new(expression, aligned);
    let Some(reduction) = &expression.reduction else {
        if expression.elements() == 0 {
            return Ok(Generated { kernels: Vec::new(), scratch: 0 });
        }
        let blocks = map::emit(&mut frame).ok_or_else(unsupported)?;
        return Ok(Generated { kernels: vec![kernel(frame.e, blocks, arguments)?], scratch: 0 });
    };
    let results: usize = expression.shape.iter().zip(&reduction.axes).filter(|(_, r)| !**r).map(|(n, _)| n).product();
    if results == 0 {
        return Ok(Generated { kernels: Vec::new(), scratch: 0 });
    }
    let last = Argument::Output(outputs.len());
    let cut = Cut::new(&frame, true);
    let blocks = reduce::emit(&mut frame, reduction, &cut).ok_or_else(unsupported)?;
    if cut.slices == 1 {
        arguments.push(last);
        return Ok(Generated { kernels: vec![kernel(frame.e, blocks, arguments)?], scratch: 0 });
    }
    arguments.push(Argument::Scratch);
    let rest = total(reduction, cut.slices, results);
    let mut second = Frame::new(&rest, aligned);
    let second_cut = Cut::new(&second, false);
    let second_blocks = reduce::emit(&mut second, reduction, &second_cut).ok_or_else(unsupported)?;
    let kernels =
        vec![kernel(frame.e, blocks, arguments)?, kernel(second.e, second_blocks, vec![Argument::Scratch, last])?];
    Ok(Generated { kernels, scratch: cut.slices * results * reduction.dtype.accumulator().bytes() })
}

/// The reduction of partial results, one row for each slice.
fn total(reduction: &Reduction, slices: usize, results: usize) -> Expression {
    let shape = vec![slices, results];
    Expression {
        inputs: vec![Input { dtype: reduction.dtype.accumulator(), shape: shape.clone() }],
        shape,
        instructions: Vec::new(),
        outputs: Vec::new(),
        reduction: Some(Reduction { value: Operand::Input(0), axes: vec![true, false], ..reduction.clone() }),
    }
}

/// Builders check types, so that no instruction is left without PTX.
fn unsupported() -> KernelError {
    KernelError::Shape("an operation on operands of another type".into())
}

fn kernel(emitter: Emitter, blocks: usize, arguments: Vec<Argument>) -> Result<Kernel, KernelError> {
    let grid = u32::try_from(blocks).ok().filter(|blocks| *blocks <= i32::MAX as u32);
    let grid = grid.ok_or_else(|| KernelError::Shape(format!("{blocks} blocks are more than a launch can have")))?;
    // 4 KiB of parameters are what every architecture takes.
    if arguments.len() > 512 {
        return Err(KernelError::Shape(format!("{} tensors are more than a kernel can be given", arguments.len())));
    }
    let parameters: Vec<String> = (0..arguments.len()).map(|i| format!("\t.param .u64 p{i}")).collect();
    let text = format!("(\n{}\n)\n.reqntid {BLOCK}, 1, 1\n{{\n{}}}\n", parameters.join(",\n"), emitter.finish());
    let name = format!("npc_elementwise_{:016x}", hash(&text));
    let entry = format!(".visible .entry {name}{text}");
    Ok(Kernel { name, entry, grid, block: BLOCK as u32, shared: 0, arguments })
}

/// FNV-1a, which stays the same from release to release.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// One PTX module of many kernels; the same kernel enters it once.
pub fn module<'a>(kernels: impl IntoIterator<Item = &'a Kernel>) -> String {
    let mut known = HashSet::new();
    let mut text = String::from(".version 7.0\n.target sm_70\n.address_size 64\n");
    for kernel in kernels.into_iter().filter(|kernel| known.insert(&kernel.name)) {
        text.push('\n');
        text.push_str(&kernel.entry);
    }
    text
}
