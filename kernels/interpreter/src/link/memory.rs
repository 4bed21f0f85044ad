//! Loads, stores, fences and prefetches.

use super::body::Body;
use crate::parse::ParseError;
use crate::parse::syntax::{Operand, Space};
use crate::program::{Access, Operation, Order, Register, Scope};
use crate::semantics::Opcode;
use crate::types::Type;

pub(super) fn decode<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    match (opcode.name, operands) {
        ("ld" | "ldu", [destination, address]) => {
            let access = access(body, opcode, address)?;
            let destinations = lanes(body, opcode, destination, access, false)?;
            Ok(Some(Operation::Load { access, destinations }))
        }
        ("st", [address, source]) => {
            let access = access(body, opcode, address)?;
            let sources = lanes(body, opcode, source, access, true)?;
            Ok(Some(Operation::Store { access, sources }))
        }
        ("membar" | "fence", []) => {
            opcode.choice(&["sc", "acq_rel", "acquire", "release"]);
            let scope = match opcode.choice(&["cta", "cluster", "gl", "gpu", "sys"]) {
                Some("cta") => Scope::Block,
                Some(_) => Scope::Device,
                None => return Err(opcode.unknown()),
            };
            Ok(Some(Operation::Fence { scope }))
        }
        ("prefetch" | "prefetchu", [_]) => {
            opcode.choice(&["global", "local"]);
            opcode.choice(&["L1", "L2", "L2::evict_last", "L2::evict_normal"]);
            Ok(Some(Operation::Nothing))
        }
        ("cp", _) => copy(body, opcode, operands),
        _ => Ok(None),
    }
}

/// The scope that a modifier names; a block's own where none other is there to speak to.
pub(super) fn scope(opcode: &mut Opcode<'_>) -> Option<Scope> {
    Some(match opcode.choice(&["cta", "cluster", "gpu", "sys"])? {
        "cta" => Scope::Block,
        _ => Scope::Device,
    })
}

fn access<'a>(body: &mut Body<'_, 'a>, opcode: &mut Opcode<'_>, address: &Operand<'a>) -> Result<Access, ParseError> {
    let manner = opcode.choice(&["weak", "relaxed", "acquire", "release", "volatile", "mmio"]);
    let named_scope = scope(opcode).unwrap_or(Scope::Device);
    let order = match manner {
        None | Some("weak") => Order::WEAK,
        Some("volatile" | "mmio") => Order { strong: Some(Scope::Device), ..Order::WEAK },
        Some(manner) => {
            Order { strong: Some(named_scope), acquire: manner == "acquire", release: manner == "release" }
        }
    };
    let non_coherent = opcode.flag("nc");
    // How long a line is to be kept says nothing about what is read.
    opcode.choice(&["ca", "cg", "cs", "lu", "cv", "wb", "wt"]);
    while let Some(hint) = opcode.prefixed("L1::").or_else(|| opcode.prefixed("L2::")) {
        if hint == "L2::cache_hint" {
            return Err(opcode.unknown());
        }
    }
    let space = opcode
        .choice(&["global", "const", "shared", "shared::cta", "local", "param", "param::entry", "param::func"])
        .and_then(Space::named)
        .unwrap_or(Space::Generic);
    let count = match opcode.choice(&["v2", "v4"]) {
        None => 1,
        Some("v2") => 2,
        Some(_) => 4,
    };
    let element = opcode.ty().filter(|&ty| ty != Type::Pred).ok_or_else(|| opcode.unknown())?;
    if element.bytes() * u64::from(count) > 16 {
        return Err(opcode.unknown());
    }
    Ok(Access { address: body.address(address, space, opcode)?, element, count, order, non_coherent })
}

fn lanes<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &Opcode<'_>,
    operand: &Operand<'a>,
    access: Access,
    reading: bool,
) -> Result<[Register; 4], ParseError> {
    let operands = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        single => std::slice::from_ref(single),
    };
    if operands.len() != usize::from(access.count) {
        return Err(opcode.bad_operand(format!("{} registers are wanted", access.count)));
    }
    let mut registers = [0; 4];
    for (register, operand) in registers.iter_mut().zip(operands) {
        *register = if reading {
            body.source(operand, access.element, opcode)?
        } else {
            body.destination(operand, opcode)?
        };
    }
    Ok(registers)
}

/// `cp.async`, carried out at once: what it copies may be read too early here without a fault.
fn copy<'a>(
    body: &mut Body<'_, 'a>,
    opcode: &mut Opcode<'_>,
    operands: &'a [Operand<'a>],
) -> Result<Option<Operation>, ParseError> {
    if !opcode.flag("async") {
        return Ok(None);
    }
    if opcode.flag("commit_group") || opcode.flag("wait_all") || opcode.flag("wait_group") {
        return Ok(Some(Operation::Nothing));
    }
    opcode.choice(&["ca", "cg"]).ok_or_else(|| opcode.unknown())?;
    opcode.choice(&["shared", "shared::cta"]).ok_or_else(|| opcode.unknown())?;
    opcode.choice(&["global"]).ok_or_else(|| opcode.unknown())?;
    while opcode.prefixed("L2::").is_some_and(|hint| hint != "L2::cache_hint") {}
    let (shared, global, bytes, source) = match operands {
        [shared, global, bytes] => (shared, global, bytes, bytes),
        [shared, global, bytes, source] => (shared, global, bytes, source),
        _ => return Err(opcode.bad_operand("3 or 4 operands are wanted")),
    };
    let &Operand::Integer(length @ (4 | 8 | 16)) = bytes else {
        return Err(opcode.bad_operand("4, 8 or 16 bytes are copied"));
    };
    Ok(Some(Operation::CopyAsync {
        shared: body.address(shared, Space::Shared, opcode)?,
        global: body.address(global, Space::Global, opcode)?,
        bytes: length as u32,
        source_bytes: body.source(source, Type::U32, opcode)?,
    }))
}
