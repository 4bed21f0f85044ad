//! Small PTX texts for the instructions that involve more than one thread's registers.

mod support;

use npc_ptx_interpreter::{Argument, FaultKind, Memory, Module};
use support::{SCHEDULES, line, run};

/// A kernel whose threads each compute `%r1` from their number in the block, `%r0`.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{declarations}\n\
         .visible .entry k(.param .u64 out, .param .align 16 .b8 given[16])\n{{\n\
         .reg .pred %p<10>;\n.reg .b16 %h<10>;\n.reg .b32 %r<20>;\n.reg .b64 %rd<20>;\n.reg .f32 %f<10>;\n\
         .reg .f64 %fd<10>;\n\
         ld.param.u64 %rd0, [out];\ncvta.to.global.u64 %rd0, %rd0;\nmov.u32 %r0, %tid.x;\n\
         mad.wide.u32 %rd0, %r0, 4, %rd0;\nmov.u32 %r1, 0;\n{body}\nst.global.u32 [%rd0], %r1;\nret;\n}}\n"
    )
}

const THREADS: u32 = 64;

fn compute(declarations: &str, body: &str) -> Vec<u32> {
    let text = kernel(declarations, body);
    let module = Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut results: Vec<Vec<u32>> = Vec::new();
    for schedule in SCHEDULES {
        let mut memory = Memory::new();
        let out = memory.alloc(4 * THREADS as usize);
        let given = [7_u32, 8, 9, 10].iter().flat_map(|value| value.to_le_bytes()).collect();
        let arguments = [Argument::U64(out), Argument::Bytes(given)];
        run(&module, &mut memory, "k", line(1, THREADS), 0, &arguments, schedule)
            .unwrap_or_else(|fault| panic!("{fault}\n{text}"));
        results.push(memory.read(out, THREADS as usize).unwrap());
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "the schedules differ");
    results.swap_remove(0)
}

#[track_caller]
fn check(body: &str, expected: impl Fn(u32) -> u32) {
    check_with("", body, expected);
}

#[track_caller]
fn check_with(declarations: &str, body: &str, expected: impl Fn(u32) -> u32) {
    let expected: Vec<u32> = (0..THREADS).map(expected).collect();
    assert_eq!(compute(declarations, body), expected);
}

#[test]
fn shuffles() {
    check("shfl.sync.idx.b32 %r1, %r0, 3, 31, -1;", |t| t / 32 * 32 + 3);
    check("shfl.sync.up.b32 %r1, %r0, 2, 0, -1;", |t| if t % 32 < 2 { t } else { t - 2 });
    check("shfl.sync.down.b32 %r1, %r0, 5, 31, -1;", |t| if t % 32 > 26 { t } else { t + 5 });
    check("shfl.sync.bfly.b32 %r1|%p1, %r0, 9, 31, -1;", |t| t ^ 9);
    // Segments of eight lanes: the upper byte of the clamp is 32 - 8.
    check("shfl.sync.down.b32 %r1, %r0, 3, 0x181f, -1;", |t| if t % 8 > 4 { t } else { t + 3 });
    check("shfl.sync.idx.b32 %r1, %r0, 5, 0x181f, -1;", |t| t / 8 * 8 + 5);
    check("shfl.sync.up.b32 %r2|%p1, %r0, 4, 0x1800, -1;\nselp.b32 %r1, %r2, 99, %p1;", |t| {
        if t % 8 < 4 { 99 } else { t - 4 }
    });
    // Half a warp; what is outside of the mask gives all ones.
    check(
        "setp.lt.u32 %p1, %r0, 16;\n@%p1 shfl.sync.idx.b32 %r1, %r0, 4, 31, 0xffff;\n\
         @%p1 shfl.sync.down.b32 %r2, %r0, 1, 31, 0xffff;\n@%p1 add.s32 %r1, %r1, %r2;",
        |t| match t {
            0..15 => 4 + t + 1,
            15 => 3,
            _ => 0,
        },
    );
}

#[test]
fn votes_and_matches() {
    let odd = "and.b32 %r2, %r0, 1;\nsetp.ne.u32 %p1, %r2, 0;\n";
    check(&format!("{odd}vote.sync.ballot.b32 %r1, %p1, -1;"), |_| 0xaaaa_aaaa);
    check(&format!("{odd}vote.sync.any.pred %p2, !%p1, -1;\nselp.u32 %r1, 1, 0, %p2;"), |_| 1);
    check(&format!("{odd}vote.sync.all.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;"), |_| 0);
    check(&format!("{odd}vote.sync.uni.pred %p2, %p1, -1;\nselp.u32 %r1, 1, 0, %p2;"), |_| 0);
    check("shr.u32 %r2, %r0, 3;\nmatch.any.sync.b32 %r1, %r2, -1;", |t| 0xff << (t % 32 / 8 * 8));
    check("match.all.sync.b32 %r1|%p1, 5, -1;", |_| u32::MAX);
    check("cvt.u64.u32 %rd1, %r0;\nmatch.all.sync.b64 %r1|%p1, %rd1, -1;", |_| 0);
    check("activemask.b32 %r1;", |_| u32::MAX);
    check("setp.lt.u32 %p1, %r0, 3;\n@%p1 activemask.b32 %r1;", |t| if t < 3 { 7 } else { 0 });
}

#[test]
fn reductions() {
    check("redux.sync.add.s32 %r1, %r0, -1;", |t| (0..32).map(|lane| t / 32 * 32 + lane).sum());
    check("redux.sync.max.u32 %r1, %r0, -1;", |t| t / 32 * 32 + 31);
    check("sub.s32 %r2, 5, %r0;\nredux.sync.min.s32 %r1, %r2, -1;", |t| 5_u32.wrapping_sub(t / 32 * 32 + 31));
    check("redux.sync.xor.b32 %r1, %r0, -1;", |_| 0);
    check("setp.gt.u32 %p1, %r0, 60;\nbar.red.popc.u32 %r1, 0, %p1;", |_| 3);
    check("setp.gt.u32 %p1, %r0, 60;\nbar.red.or.pred %p2, 0, %p1;\nselp.u32 %r1, 1, 0, %p2;", |_| 1);
    check("setp.gt.u32 %p1, %r0, 60;\nbar.red.and.pred %p2, 0, !%p1;\nselp.u32 %r1, 1, 0, %p2;", |_| 0);
}

#[test]
fn special_registers() {
    check("mov.u32 %r1, %laneid;", |t| t % 32);
    check("mov.u32 %r1, %warpid;", |t| t / 32);
    check("mov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %ntid.x;\nmad.lo.s32 %r1, %r2, %r3, %r0;", |t| t);
    check("mov.u32 %r1, %lanemask_lt;", |t| (1 << (t % 32)) - 1);
    check("mov.u32 %r1, %lanemask_ge;", |t| u32::MAX << (t % 32));
    check("mov.u32 %r1, %nctaid.y;", |_| 1);
    check("mov.u32 %r1, WARP_SZ;", |_| 32);
    check("mov.u64 %rd1, %clock64;\nmov.u32 %r2, %clock;\nsetp.ne.u64 %p1, %rd1, 0;\nselp.u32 %r1, 1, 0, %p1;", |_| 1);
}

#[test]
fn vectors_and_parts() {
    check("mov.b64 %rd1, {%r0, 7};\nmov.b64 {%r2, %r3}, %rd1;\nmad.lo.s32 %r1, %r3, 100, %r2;", |t| 700 + t);
    check("mov.b32 {%h1, %h2}, 0x00050003;\nmov.b32 %r1, {%h2, %h1};", |_| 0x0003_0005);
    check("mov.b64 {_, %r1}, 0x1234567800000000;", |_| 0x1234_5678);
    check("ld.param.v4.u32 {%r2, %r3, %r4, %r5}, [given];\nmad.lo.s32 %r1, %r2, %r5, %r4;", |_| 79);
    check("mov.b64 %rd1, given;\nld.param.u32 %r1, [%rd1+4];", |_| 8);
    check("{.reg .b32 %t;\n.reg .pred %q;\nadd.s32 %t, %r0, 5;\nsetp.eq.s32 %q, %t, 6;\n@%q mov.b32 %r1, %t;}", |t| {
        if t == 1 { 6 } else { 0 }
    });
}

#[test]
fn carries() {
    // 64-bit arithmetic on halves, and the carry that a subtraction leaves where nothing was borrowed.
    let parts = "mov.u32 %r2, 0xfffffff0;\nmov.u32 %r3, 5;\n";
    check(&format!("{parts}add.cc.u32 %r4, %r2, %r0;\naddc.u32 %r1, %r3, 0;"), |t| 5 + u32::from(t >= 16));
    check(&format!("{parts}sub.cc.u32 %r4, %r0, 9;\nsubc.u32 %r1, %r3, 0;"), |t| 5 - u32::from(t < 9));
    check(&format!("{parts}sub.cc.u32 %r4, %r0, 9;\naddc.u32 %r1, 0, 0;"), |t| u32::from(t >= 9));
    check(&format!("{parts}mad.lo.cc.u32 %r4, %r2, %r0, %r2;\nmadc.hi.u32 %r1, %r2, %r0, 0;"), |t| {
        ((0xffff_fff0_u64 * u64::from(t) + 0xffff_fff0) >> 32) as u32
    });
}

#[test]
fn shared_and_local_memory() {
    let declarations = ".shared .align 16 .b8 tile[256];\n.global .align 4 .u32 numbers[3] = {2, 3, 4};\n\
                        .global .align 8 .u64 pointer = generic(numbers);\n\
                        .const .align 4 .u32 table[4] = {3, 1, 4, 1};\n.global .f32 half = 0f3F000000;";
    let fill =
        "shl.b32 %r2, %r0, 2;\nmov.u32 %r3, tile;\nadd.s32 %r4, %r3, %r2;\nst.shared.u32 [%r4], %r0;\nbar.sync 0;\n";
    check_with(
        declarations,
        &format!("{fill}sub.s32 %r5, 252, %r2;\nadd.s32 %r5, %r5, %r3;\nld.shared.u32 %r1, [%r5];"),
        |t| 63 - t,
    );
    check_with(
        declarations,
        &format!(
            "{fill}and.b32 %r5, %r2, 0xf0;\nadd.s32 %r5, %r5, %r3;\nld.shared.v4.u32 {{%r6, %r7, %r8, %r9}}, [%r5];\nadd.s32 %r1, %r6, %r9;"
        ),
        |t| t / 4 * 8 + 3,
    );
    check_with(
        declarations,
        &format!("{fill}mov.u64 %rd1, tile;\ncvta.shared.u64 %rd1, %rd1;\nld.u32 %r1, [%rd1+12];"),
        |_| 3,
    );
    check_with(
        declarations,
        "and.b32 %r2, %r0, 3;\nmul.wide.u32 %rd1, %r2, 4;\nmov.u64 %rd2, table;\nadd.s64 %rd2, %rd2, %rd1;\nld.const.u32 %r1, [%rd2];",
        |t| [3, 1, 4, 1][t as usize % 4],
    );
    check_with(declarations, "ld.global.u64 %rd1, [pointer];\nld.u32 %r1, [%rd1+8];", |_| 4);
    check_with(declarations, "ld.global.f32 %f1, [half];\nmov.b32 %r1, %f1;", |_| 0.5_f32.to_bits());
    check(
        ".local .align 8 .b8 depot[16];\nmov.u64 %rd1, depot;\ncvta.local.u64 %rd2, %rd1;\nst.u32 [%rd2+8], %r0;\n\
         st.local.s8 [%rd1+8], -3;\nld.local.s8 %r1, [%rd1+8];",
        |_| -3_i32 as u32,
    );
}

#[test]
fn atomics() {
    let declarations = ".shared .align 8 .b8 word[8];";
    let zero = "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u64 [word], 0;\nbar.sync 0;\n";
    let after = "\nbar.sync 0;\nld.shared.u32 %r1, [word];";
    let cases: [(&str, u32); 12] = [
        ("red.shared.add.u32 [word], %r0;", 2016),
        ("atom.shared.max.u32 %r2, [word], %r0;", 63),
        ("atom.shared.min.s32 %r2, [word], %r3;", -63_i32 as u32),
        ("atom.shared.or.b32 %r2, [word], %r0;", 63),
        ("atom.shared.xor.b32 %r2, [word], %r0;", 0),
        ("atom.shared.inc.u32 %r2, [word], 9;", 4),
        ("atom.shared.dec.u32 %r2, [word], 9;", 6),
        ("red.shared.add.f32 [word], 0f3F000000;", 32.0_f32.to_bits()),
        ("red.shared.and.b32 [word], %r0;", 0),
        ("atom.shared.add.u64 %rd1, [word], 0x100000002;", 128),
        ("atom.shared.cas.b32 %r2, [word], 0, 77;", 77),
        ("atom.acq_rel.cta.shared.exch.b32 %r2, [word], 5;", 5),
    ];
    for (operation, expected) in cases {
        check_with(declarations, &format!("neg.s32 %r3, %r0;\n{zero}{operation}{after}"), |_| expected);
    }
}

#[test]
fn control() {
    check(
        "and.b32 %r2, %r0, 3;\nTABLE: .branchtargets A, B, C, B;\nbrx.idx %r2, TABLE;\nA: mov.u32 %r1, 10;\nbra DONE;\n\
           B: mov.u32 %r1, 20;\nbra DONE;\nC: mov.u32 %r1, 30;\nDONE:",
        |t| [10, 20, 30, 20][t as usize % 4],
    );
    // As many rounds as the thread's number.
    check(
        "mov.u32 %r2, 0;\nLOOP: setp.ge.u32 %p1, %r2, %r0;\n@%p1 bra END;\nadd.s32 %r1, %r1, %r2;\nadd.s32 %r2, %r2, 1;\nbra LOOP;\nEND:",
        |t| t * t.saturating_sub(1) / 2,
    );
    // The same label in two scopes.
    check(
        "{ setp.lt.u32 %p1, %r0, 5;\n@%p1 bra L;\nadd.s32 %r1, %r1, 1;\nL: }\n{ setp.lt.u32 %p1, %r0, 9;\n@%p1 bra L;\nadd.s32 %r1, %r1, 2;\nL: }",
        |t| u32::from(t >= 5) + 2 * u32::from(t >= 9),
    );
    // A lock that lanes of one warp take in turn: the holder must get on while others spin.
    check_with(
        ".shared .u32 lock;\n.shared .u32 sum;",
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [lock], 0;\n@%p1 st.shared.u32 [sum], 0;\nbar.sync 0;\n\
         SPIN: atom.shared.cas.b32 %r2, [lock], 0, 1;\nsetp.ne.u32 %p2, %r2, 0;\n@%p2 bra SPIN;\nmembar.cta;\n\
         ld.shared.u32 %r3, [sum];\nadd.s32 %r3, %r3, %r0;\nst.shared.u32 [sum], %r3;\nmembar.cta;\n\
         atom.shared.exch.b32 %r2, [lock], 0;\nbar.sync 0;\nld.shared.u32 %r1, [sum];",
        |_| 2016,
    );
    // Named barriers: the second warp waits for the first, which goes on.
    check_with(
        ".shared .u32 word[32];",
        "and.b32 %r2, %r0, 31;\nshl.b32 %r2, %r2, 2;\nmov.u32 %r3, word;\nadd.s32 %r3, %r3, %r2;\nsetp.ge.u32 %p1, %r0, 32;\n\
         @%p1 bra SECOND;\nst.shared.u32 [%r3], %r0;\nbar.arrive 1, 64;\nbra DONE;\nSECOND: bar.sync 1, 64;\n\
         ld.shared.u32 %r1, [%r3];\nDONE:",
        |t| t.saturating_sub(32),
    );
}

#[test]
fn functions() {
    let declarations = ".func (.param .b32 result) twice(.param .b32 value)\n{\n.reg .b32 %r<3>;\n\
        ld.param.u32 %r1, [value];\nadd.s32 %r2, %r1, %r1;\nst.param.b32 [result], %r2;\nret;\n}\n\
        .func (.param .b32 result) chosen(.param .b32 value, .param .align 4 .b8 pair[8])\n{\n.reg .b32 %r<6>;\n.reg .pred %p;\n\
        ld.param.u32 %r1, [value];\nld.param.u32 %r2, [pair+4];\nsetp.lt.u32 %p, %r1, 7;\n@%p bra SMALL;\n\
        st.param.b32 [result], %r2;\nret;\nSMALL:\n{\n.param .b32 a;\n.param .b32 b;\nst.param.b32 [a], %r1;\ncall.uni (b), twice, (a);\n\
        ld.param.b32 %r3, [b];\n}\nst.param.b32 [result], %r3;\nret;\n}\n\
        .func nothing() { ret; }";
    check_with(
        declarations,
        "{\n.param .b32 v;\n.param .align 4 .b8 p[8];\n.param .b32 r;\nst.param.b32 [v], %r0;\nst.param.b32 [p+4], 1000;\n\
         call (r), chosen, (v, p);\nld.param.b32 %r1, [r];\n}\ncall nothing;",
        |t| if t < 7 { 2 * t } else { 1000 },
    );
}

#[test]
fn copies_into_shared_memory() {
    check_with(
        ".shared .align 16 .b8 tile[1024];\n.global .align 16 .u32 data[4] = {1, 2, 3, 4};",
        "shl.b32 %r2, %r0, 4;\nmov.u32 %r3, tile;\nadd.s32 %r3, %r3, %r2;\nmov.u64 %rd1, data;\n\
         cp.async.cg.shared.global [%r3], [%rd1], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n\
         cp.async.wait_all;\nld.shared.v2.u32 {%r4, %r5}, [%r3+8];\nadd.s32 %r1, %r4, %r5;",
        |_| 7,
    );
}

#[test]
fn acquire_and_release() {
    // One thread of each warp: the first publishes, the second waits, with no fence but the accesses' own.
    let body = |store: &str, load: &str| {
        format!(
            "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [flag], 0;\nbar.sync 0;\nsetp.eq.u32 %p1, %r0, 0;\n\
             setp.eq.u32 %p2, %r0, 32;\n@%p1 st.shared.u32 [data], 42;\n@%p1 {store} [flag], 1;\n@!%p2 bra DONE;\n\
             WAIT: {load} %r2, [flag];\nsetp.eq.u32 %p3, %r2, 0;\n@%p3 bra WAIT;\nld.shared.u32 %r1, [data];\nDONE:"
        )
    };
    let declarations = ".shared .u32 flag;\n.shared .u32 data;";
    let expected = |t| if t == 32 { 42 } else { 0 };
    check_with(declarations, &body("st.release.cta.shared.u32", "ld.acquire.cta.shared.u32"), expected);
    for (store, load) in [
        ("st.relaxed.cta.shared.u32", "ld.acquire.cta.shared.u32"),
        ("st.release.cta.shared.u32", "ld.relaxed.cta.shared.u32"),
    ] {
        let module = Module::parse(&kernel(declarations, &body(store, load))).unwrap();
        for schedule in SCHEDULES {
            let mut memory = Memory::new();
            let out = memory.alloc(256);
            let arguments = [Argument::U64(out), Argument::Bytes(vec![0; 16])];
            let fault = run(&module, &mut memory, "k", line(1, THREADS), 0, &arguments, schedule).unwrap_err();
            assert!(matches!(fault.kind, FaultKind::Race { .. }), "{fault}");
        }
    }
}
