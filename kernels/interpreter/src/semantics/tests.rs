//! Each computing instruction against known values.

use half::{bf16, f16};

use super::{Function, Opcode, carrying, comparison, flush_single, form, saturate_single};
use crate::parse::ParseError;
use crate::types::Type;

/// Carries out one instruction for one thread; the result has its type's bits and no others.
fn evaluate(text: &str, operands: &[u64]) -> u64 {
    let mut parts = text.split('.');
    let name = parts.next().unwrap();
    let modifiers: Vec<&str> = parts.collect();
    let mut opcode = Opcode::new(1, name, &modifiers);
    let form = match name {
        "setp" => comparison(&mut opcode).unwrap().form,
        _ => form(&mut opcode).unwrap().unwrap_or_else(|| panic!("{text} is not known")),
    };
    let operand = |index: usize| match form.sources[index] {
        Type::F32 if form.flush => flush_single(operands[index]),
        _ => operands[index],
    };
    assert_eq!(operands.len(), form.function.arity(), "{text}");
    let result = match form.function {
        Function::One(f) => f(operand(0)),
        Function::Two(f) => f(operand(0), operand(1)),
        Function::Three(f) => f(operand(0), operand(1), operand(2)),
        Function::Four(f) => f(operand(0), operand(1), operand(2), operand(3)),
        Function::Convert(conversion) => conversion.apply(operand(0)),
    };
    let result = if form.saturate { saturate_single(result) } else { result };
    let result = if form.flush && form.result == Type::F32 { flush_single(result) } else { result };
    let wide = modifiers.contains(&"wide");
    match form.result.bits() * if wide { 2 } else { 1 } {
        1 => result & 1,
        64 => result,
        bits => result & ((1 << bits) - 1),
    }
}

fn s(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

fn h(value: f32) -> u64 {
    u64::from(f16::from_f32(value).to_bits())
}

fn b(value: f32) -> u64 {
    u64::from(bf16::from_f32(value).to_bits())
}

fn check(table: &[(&str, &[u64], u64)]) {
    // What lies above an operand's type is noise.
    for &(text, operands, expected) in table {
        let found = evaluate(text, operands);
        assert_eq!(found, expected, "{text} of {operands:x?}: {found:#x} instead of {expected:#x}");
    }
}

const MINUS: u64 = 0xffff_ffff;

#[test]
fn integers() {
    check(&[
        ("add.s32", &[MINUS, 1], 0),
        ("add.u64", &[u64::MAX, 2], 1),
        ("add.s16", &[0x1_7fff, 1], 0x8000),
        ("add.sat.s32", &[0x7fff_ffff, 5], 0x7fff_ffff),
        ("sub.sat.s32", &[0x8000_0000, 5], 0x8000_0000),
        ("sub.s32", &[3, 5], 0xffff_fffe),
        ("mul.lo.s32", &[MINUS, 7], 0xffff_fff9),
        ("mul.hi.u32", &[0xd251_1f53, 0x9e37_79b9], 0x81fb_a4c3),
        ("mul.hi.s32", &[MINUS, 7], MINUS),
        ("mul.hi.u64", &[1 << 63, 6], 3),
        ("mul.hi.s64", &[1 << 63, 6], (-3_i64) as u64),
        ("mul.wide.u32", &[MINUS, MINUS], 0xffff_fffe_0000_0001),
        ("mul.wide.s32", &[MINUS, 5], (-5_i64) as u64),
        ("mul.wide.u16", &[0xffff, 0xffff], 0xfffe_0001),
        ("mul24.lo.u32", &[0x1_ff00_0003, 4], 12),
        ("mul24.hi.u32", &[0x00ff_0000, 0x0001_0000], 0x00ff_0000),
        ("mad24.lo.s32", &[0x00ff_ffff, 3, 5], 2),
        ("mad.lo.s32", &[3, 4, 5], 17),
        ("mad.hi.u32", &[1 << 31, 4, 5], 7),
        ("mad.hi.sat.s32", &[0x7fff_ffff, 0x7fff_ffff, 0x7fff_ffff], 0x7fff_ffff),
        ("mad.wide.u32", &[MINUS, 2, 3], 0x2_0000_0001),
        ("mad.wide.s32", &[MINUS, 2, 3], 1),
        ("div.u32", &[17, 5], 3),
        ("div.s32", &[(-17_i32) as u64, 5], (-3_i32) as u32 as u64),
        ("div.s32", &[0x8000_0000, MINUS], 0x8000_0000),
        ("div.u32", &[17, 0], MINUS),
        ("rem.u32", &[17, 0], MINUS),
        ("div.s64", &[17, 0], u64::MAX),
        ("rem.s32", &[(-17_i32) as u64, 5], (-2_i32) as u32 as u64),
        ("rem.u64", &[1 << 40, 1000], (1 << 40) % 1000),
        ("min.s32", &[MINUS, 1], MINUS),
        ("min.u32", &[MINUS, 1], 1),
        ("max.s16", &[0xffff, 1], 1),
        ("max.u64", &[u64::MAX, 1], u64::MAX),
        ("abs.s32", &[(-5_i32) as u64], 5),
        ("abs.s64", &[1 << 63], 1 << 63),
        ("neg.s32", &[5], (-5_i32) as u32 as u64),
        ("sad.u32", &[3, 10, 100], 107),
        ("sad.s32", &[(-3_i32) as u64, 10, 100], 113),
        ("and.b32", &[0xf0f0, 0xff00], 0xf000),
        ("or.b64", &[1 << 63, 1], 1 << 63 | 1),
        ("xor.pred", &[1, 1], 0),
        ("not.pred", &[1], 0),
        ("not.b16", &[0xff], 0xff00),
        ("cnot.b32", &[0], 1),
        ("shl.b32", &[3, 31], 1 << 31),
        ("shl.b32", &[3, 32], 0),
        ("shl.b64", &[3, 63], 1 << 63),
        ("shl.b64", &[3, 100], 0),
        ("shr.u32", &[0x1_8000_0000, 31], 1),
        ("shr.u32", &[0x8000_0000, 32], 0),
        ("shr.s32", &[0x8000_0000, 40], MINUS),
        ("shr.s64", &[1 << 63, 63], u64::MAX),
        ("shr.b32", &[0x8000_0000, 4], 0x0800_0000),
        ("dp4a.s32.s32", &[0xff02_0304, 0x0101_0101, 10], 18),
        ("dp4a.u32.u32", &[0xff02_0304, 0x0101_0101, 10], 274),
        ("selp.b32", &[1, 2, 1], 1),
        ("selp.f64", &[d(1.0), d(2.0), 0], d(2.0)),
        ("slct.b32.s32", &[1, 2, MINUS], 2),
        ("slct.f32.f32", &[s(1.0), s(2.0), s(0.0)], s(1.0)),
        ("mov.u32", &[7], 7),
    ]);
}

#[test]
fn bits() {
    check(&[
        ("popc.b32", &[0x1_0000_00ff], 8),
        ("popc.b64", &[u64::MAX], 64),
        ("clz.b32", &[1], 31),
        ("clz.b64", &[1], 63),
        ("brev.b32", &[1], 1 << 31),
        ("brev.b64", &[2], 1 << 62),
        ("bfe.u32", &[0x1234_5678, 8, 12], 0x456),
        ("bfe.u32", &[0x1234_5678, 24, 20], 0x12),
        ("bfe.s32", &[0x0000_f000, 12, 4], MINUS),
        ("bfe.s32", &[0x8000_0000, 28, 20], 0xffff_fff8),
        ("bfe.u64", &[u64::MAX, 60, 64], 15),
        ("bfe.s64", &[1 << 63, 0, 64], 1 << 63),
        ("bfe.u32", &[MINUS, 4, 0], 0),
        ("bfi.b32", &[0xab, 0x1111_1111, 8, 8], 0x1111_ab11),
        ("bfi.b64", &[0x1234_5678, 0xffff_ffff, 32, 32], 0x1234_5678_ffff_ffff),
        ("bfind.u32", &[0x0001_0000], 16),
        ("bfind.s32", &[MINUS], MINUS),
        ("bfind.shiftamt.u32", &[0x0001_0000], 15),
        ("bfind.u64", &[1 << 40], 40),
        ("lop3.b32", &[0xf0, 0xcc, 0xaa, 0x96], 0x96),
        ("lop3.b32", &[0xf0, 0xcc, 0xaa, 0x1a], 0x1a),
        ("prmt.b32", &[0x3322_1100, 0x7766_5544, 0x7531], 0x7755_3311),
        ("prmt.b32", &[0x0000_0080, 0, 0x0088], 0x8080_ffff),
        ("prmt.f4e.b32", &[0x3322_1100, 0x7766_5544, 1], 0x4433_2211),
        ("prmt.rc16.b32", &[0x3322_1100, 0, 1], 0x3322_3322),
        ("shf.l.wrap.b32", &[0x8000_0000, 0x1, 33], 3),
        ("shf.r.wrap.b32", &[0x8000_0000, 0x1, 33], 0xc000_0000),
        ("shf.l.clamp.b32", &[0x1234_5678, 0x1, 40], 0x1234_5678),
        ("shf.r.clamp.b32", &[0x1234_5678, 0x9, 40], 0x9),
        ("isspacep.global", &[0x7000_0000_0000], 1),
        ("isspacep.shared", &[0x7000_0000_0000], 0),
    ]);
}

#[test]
fn carries() {
    let apply = |text: &str, operands: [u64; 4]| {
        let mut parts = text.split('.');
        let name = parts.next().unwrap();
        let modifiers: Vec<&str> = parts.collect();
        let carrying = carrying(&mut Opcode::new(1, name, &modifiers)).unwrap();
        (carrying.function)(operands[0], operands[1], operands[2], operands[3])
    };
    assert_eq!(apply("add.cc.u32", [MINUS, 1, 0, 1]), (0, 1));
    assert_eq!(apply("addc.u32", [MINUS, 0, 0, 1]), (0, 1));
    assert_eq!(apply("sub.cc.u32", [0, 1, 0, 0]), (MINUS, 0));
    assert_eq!(apply("sub.cc.u64", [1, 1, 0, 0]), (0, 1));
    assert_eq!(apply("subc.u64", [5, 3, 0, 0]), (1, 1));
    assert_eq!(apply("mad.lo.cc.u32", [MINUS, 2, 2, 0]), (0, 1));
    assert_eq!(apply("madc.hi.u32", [MINUS, 2, 5, 1]), (7, 0));
    assert_eq!(apply("addc.cc.u64", [u64::MAX, 0, 0, 1]), (0, 1));
}

#[test]
fn floats() {
    let tiny = f32::from_bits(1);
    let third = 1.0_f32 / 3.0;
    check(&[
        ("add.f32", &[s(0.1), s(0.2)], s(0.1 + 0.2)),
        ("add.rz.f32", &[s(1.0), s(1e-10)], s(1.0)),
        ("add.rp.f32", &[s(1.0), s(1e-10)], s(1.0_f32.next_up())),
        ("add.rm.f32", &[s(1.0), s(-1e-10)], s(1.0_f32.next_down())),
        ("add.rz.f32", &[s(1.0), s(-1e-10)], s(1.0_f32.next_down())),
        ("add.rz.f32", &[s(f32::MAX), s(f32::MAX)], s(f32::MAX)),
        ("add.rm.f32", &[s(1.0), s(-1.0)], s(-0.0)),
        ("add.ftz.f32", &[s(tiny), s(0.0)], 0),
        ("add.f32", &[s(tiny), s(0.0)], s(tiny)),
        ("add.sat.f32", &[s(0.75), s(0.75)], s(1.0)),
        ("add.f32", &[s(f32::INFINITY), s(f32::NEG_INFINITY)], 0x7fff_ffff),
        ("sub.f32", &[s(1.0), s(0.1)], s(1.0 - 0.1)),
        ("mul.rn.f32", &[s(third), s(3.0)], s(1.0)),
        ("mul.rz.f32", &[s(third), s(3.0)], s(1.0)),
        ("mul.rm.f32", &[s(0.1), s(0.1)], s((0.1_f32 * 0.1).next_down())),
        ("mul.ftz.f32", &[s(1e-30), s(1e-10)], 0),
        ("fma.rn.f32", &[s(1.0 + f32::EPSILON), s(1.0 - f32::EPSILON), s(-1.0)], s(-f32::EPSILON * f32::EPSILON)),
        ("fma.rz.f32", &[s(1.0), s(1.0), s(1e-20)], s(1.0)),
        ("fma.rm.f32", &[s(1.0), s(1.0), s(-1e-20)], s(1.0_f32.next_down())),
        ("mad.rn.f32", &[s(2.0), s(3.0), s(4.0)], s(10.0)),
        ("min.f32", &[s(f32::NAN), s(2.0)], s(2.0)),
        ("min.NaN.f32", &[s(f32::NAN), s(2.0)], 0x7fff_ffff),
        ("max.f32", &[s(-0.0), s(0.0)], s(0.0)),
        ("min.f32", &[s(0.0), s(-0.0)], s(-0.0)),
        ("abs.f32", &[s(-3.0)], s(3.0)),
        ("neg.f64", &[d(3.0)], d(-3.0)),
        ("copysign.f32", &[s(-1.0), s(5.0)], s(-5.0)),
        ("div.rn.f32", &[s(1.0), s(3.0)], s(third)),
        ("div.rz.f32", &[s(2.0), s(3.0)], s((2.0_f32 / 3.0).next_down())),
        ("div.full.f32", &[s(1.0), s(4.0)], s(0.25)),
        ("div.approx.ftz.f32", &[s(tiny), s(1.0)], 0),
        ("div.rn.f32", &[s(1.0), s(0.0)], s(f32::INFINITY)),
        ("rcp.rn.f32", &[s(3.0)], s(third)),
        ("rcp.approx.ftz.f64", &[d(4.0)], d(0.25)),
        ("sqrt.rn.f32", &[s(2.0)], s(2.0_f32.sqrt())),
        ("sqrt.approx.f32", &[s(9.0)], s(3.0)),
        ("sqrt.rp.f64", &[d(2.0)], d(2.0_f64.sqrt())),
        ("rsqrt.approx.f32", &[s(4.0)], s(0.5)),
        ("rsqrt.approx.f64", &[d(3.0)], d(1.0 / 3.0_f64.sqrt())),
        ("rsqrt.approx.ftz.f64", &[d(3.0)], d(1.0 / 3.0_f64.sqrt()) & !0xffff_ffff),
        ("ex2.approx.ftz.f32", &[s(-1.0)], s(0.5)),
        ("ex2.approx.ftz.f32", &[s(-140.0)], 0),
        ("lg2.approx.f32", &[s(8.0)], s(3.0)),
        ("sin.approx.f32", &[s(0.0)], s(0.0)),
        ("cos.approx.f32", &[s(0.0)], s(1.0)),
        ("tanh.approx.f32", &[s(0.5)], s(0.5_f64.tanh() as f32)),
        ("testp.finite.f32", &[s(f32::INFINITY)], 0),
        ("testp.subnormal.f32", &[s(tiny)], 1),
        ("testp.notanumber.f64", &[d(f64::NAN)], 1),
        ("add.rz.f64", &[d(1.0), d(-1e-30)], d(1.0_f64.next_down())),
        ("fma.rp.f64", &[d(1.0), d(1.0), d(1e-30)], d(1.0_f64.next_up())),
        ("fma.rn.f64", &[d(0.1), d(10.0), d(-1.0)], d(0.1_f64.mul_add(10.0, -1.0))),
        ("max.f64", &[d(f64::NAN), d(1.0)], d(1.0)),
    ]);
}

#[test]
fn sixteen_bit_floats() {
    check(&[
        ("add.f16", &[h(1.5), h(2.25)], h(3.75)),
        ("add.rn.bf16", &[b(1.0), b(1.0 / 256.0)], b(1.0)),
        ("mul.f16", &[h(65504.0), h(2.0)], h(f32::INFINITY)),
        ("fma.rn.f16", &[h(2.0), h(3.0), h(0.5)], h(6.5)),
        ("fma.rn.relu.f16", &[h(-2.0), h(3.0), h(0.5)], h(0.0)),
        ("fma.rn.bf16x2", &[b(2.0) << 16 | b(3.0), b(4.0) << 16 | b(5.0), b(1.0) << 16], b(9.0) << 16 | b(15.0)),
        ("fma.rn.f16x2", &[h(2.0) << 16 | h(3.0), h(4.0) << 16 | h(5.0), h(1.0)], h(8.0) << 16 | h(16.0)),
        // A product exactly between two numbers, and a little more.
        ("fma.rn.f16", &[h(1.0 + 1.0 / 1024.0), h(1.5), 1], h(1.502_441_4)),
        ("min.bf16", &[b(f32::NAN), b(1.0)], b(1.0)),
        ("max.NaN.bf16", &[b(f32::NAN), b(1.0)], 0x7fff),
        ("neg.bf16x2", &[0x3f80_bf80], 0xbf80_3f80),
        ("abs.f16", &[h(-2.0)], h(2.0)),
        ("ex2.approx.f16", &[h(3.0)], h(8.0)),
        ("tanh.approx.bf16", &[b(0.0)], 0),
        ("set.gt.f16.f16", &[h(2.0), h(1.0)], h(1.0)),
        ("set.nan.bf16.bf16", &[b(f32::NAN), b(1.0)], b(1.0)),
        ("set.leu.f16x2.f16x2", &[h(2.0) << 16 | h(1.0), h(1.0) << 16 | h(1.0)], h(1.0)),
        ("add.sat.f16", &[h(0.75), h(0.75)], h(1.0)),
        ("fma.rn.sat.f16x2", &[h(-2.0) << 16 | h(3.0), h(4.0) << 16 | h(5.0), h(1.0)], h(1.0)),
        ("setp.lt.f16", &[h(1.0), h(2.0)], 1),
        ("setp.gtu.bf16", &[b(f32::NAN), b(2.0)], 1),
    ]);
}

#[test]
fn comparisons() {
    let nan = s(f32::NAN);
    check(&[
        ("setp.lt.s32", &[MINUS, 0], 1),
        ("setp.lt.u32", &[MINUS, 0], 0),
        ("setp.lo.u32", &[1, 2], 1),
        ("setp.hs.u64", &[2, 2], 1),
        ("setp.eq.s16", &[0x1_0005, 0x5], 1),
        ("setp.ne.b64", &[1 << 40, 0], 1),
        ("setp.ge.s64", &[u64::MAX, 0], 0),
        ("setp.eq.f32", &[nan, nan], 0),
        ("setp.ne.f32", &[nan, nan], 0),
        ("setp.neu.f32", &[nan, nan], 1),
        ("setp.equ.f32", &[nan, s(1.0)], 1),
        ("setp.ltu.f32", &[nan, s(1.0)], 1),
        ("setp.leu.f32", &[s(2.0), s(1.0)], 0),
        ("setp.gtu.f64", &[d(2.0), d(1.0)], 1),
        ("setp.geu.f32", &[s(1.0), s(1.0)], 1),
        ("setp.num.f32", &[nan, s(1.0)], 0),
        ("setp.nan.f32", &[nan, s(1.0)], 1),
        ("setp.eq.f32", &[s(-0.0), s(0.0)], 1),
        ("setp.gt.ftz.f32", &[1, 0], 0),
        ("set.lt.u32.s32", &[MINUS, 0], MINUS),
        ("set.gt.f32.f32", &[s(2.0), s(1.0)], s(1.0)),
    ]);
}

#[test]
fn conversions() {
    check(&[
        ("cvt.u64.u32", &[0x5_ffff_ffff], MINUS),
        ("cvt.s64.s32", &[MINUS], u64::MAX),
        ("cvt.u32.u16", &[0x1_ffff], 0xffff),
        ("cvt.s32.s8", &[0x80], 0xffff_ff80),
        ("cvt.u16.u64", &[0x1_2345], 0x2345),
        ("cvt.u32.s8", &[0xff], MINUS),
        ("cvt.sat.u8.s32", &[300], 255),
        ("cvt.sat.u8.s32", &[MINUS], 0),
        ("cvt.rn.f32.s32", &[MINUS], s(-1.0)),
        ("cvt.rn.f32.u32", &[0x0100_0001], s(16_777_216.0)),
        ("cvt.rp.f32.u32", &[0x0100_0001], s(16_777_218.0)),
        ("cvt.rz.f32.s64", &[(-16_777_217_i64) as u64], s(-16_777_216.0)),
        ("cvt.rn.f64.u64", &[u64::MAX], d(18_446_744_073_709_551_616.0)),
        ("cvt.rz.f64.u64", &[u64::MAX], d(18_446_744_073_709_549_568.0)),
        ("cvt.rni.s32.f32", &[s(2.5)], 2),
        ("cvt.rni.s32.f32", &[s(-3.5)], (-4_i32) as u32 as u64),
        ("cvt.rzi.u32.f32", &[s(-3.5)], 0),
        ("cvt.rzi.s32.f32", &[s(1e20)], 0x7fff_ffff),
        ("cvt.rzi.s32.f32", &[s(f32::NAN)], 0),
        ("cvt.rzi.s64.f64", &[d(f64::NAN)], 1 << 63),
        ("cvt.rmi.s32.f64", &[d(-1.5)], (-2_i32) as u32 as u64),
        ("cvt.rpi.s64.f32", &[s(1.5)], 2),
        ("cvt.rni.f32.f32", &[s(2.5)], s(2.0)),
        ("cvt.rmi.f32.f32", &[s(-0.5)], s(-1.0)),
        ("cvt.rzi.f64.f64", &[d(-0.5)], d(-0.0)),
        ("cvt.sat.f32.f32", &[s(1.5)], s(1.0)),
        ("cvt.sat.f32.f32", &[s(f32::NAN)], s(0.0)),
        ("cvt.f64.f32", &[s(0.1)], d(f64::from(0.1_f32))),
        ("cvt.rn.f32.f64", &[d(0.1)], s(0.1)),
        ("cvt.rz.f32.f64", &[d(0.1)], s(0.1_f32.next_down())),
        ("cvt.rp.f32.f64", &[d(1e300)], s(f32::INFINITY)),
        ("cvt.rz.f32.f64", &[d(1e300)], s(f32::MAX)),
        ("cvt.rn.f32.f64", &[d(f64::INFINITY)], s(f32::INFINITY)),
        ("cvt.rn.ftz.f32.f64", &[d(1e-40)], 0),
        ("cvt.ftz.f64.f32", &[1], 0),
        ("cvt.rn.f16.f32", &[s(0.1)], h(0.1)),
        ("cvt.rz.f16.f32", &[s(1.0009)], h(1.0)),
        ("cvt.rn.bf16.f32", &[s(1.004)], b(1.004)),
        ("cvt.rz.bf16.f32", &[s(-1.999)], b(-1.992_187_5)),
        ("cvt.f32.f16", &[h(0.1)], s(f16::from_f32(0.1).to_f32())),
        ("cvt.f32.bf16", &[0x3f81], 0x3f81_0000),
        ("cvt.rn.f16.s32", &[100_000], h(f32::INFINITY)),
        ("cvt.rzi.s32.f16", &[h(-2.75)], (-2_i32) as u32 as u64),
        ("cvt.rn.bf16x2.f32", &[s(1.0), s(2.0)], b(1.0) << 16 | b(2.0)),
        ("cvt.rn.f16x2.f32", &[s(1.0), s(2.0)], h(1.0) << 16 | h(2.0)),
        ("cvt.rn.relu.bf16x2.f32", &[s(-1.0), s(2.0)], b(2.0)),
        ("cvt.rn.f16.f64", &[d(1.0 + 1.0 / 2048.0 + 1e-12)], h(1.0 + 1.0 / 1024.0)),
    ]);
}

#[test]
fn what_is_left_over_is_refused() {
    let parse = |name, modifiers: &[&str]| form(&mut Opcode::new(3, name, modifiers));
    assert!(matches!(
        parse("add", &["rn", "odd", "f32"]),
        Err(ParseError::UnknownModifier { line: 3, modifier, .. }) if modifier == "odd"
    ));
    assert!(matches!(parse("shuffle", &["f32"]), Ok(None)));
    assert!(matches!(parse("cvt", &["s32", "f32"]), Ok(None)));
    assert!(matches!(parse("mul", &["s32"]), Ok(None)));
}
