//! Texts that are wrong: each gives an error with its line, and none stops the process.

mod support;

use npc_ptx_interpreter::{Argument, Launch, Memory, Module, Options, ParseError, Schedule, launch_with};
use support::{ELEMENTS, ROWS, SUMS};

fn error(body: &str) -> ParseError {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 out)\n{{\n.reg .b32 %r<4>;\n\
         .reg .pred %p;\n.reg .b64 %rd<4>;\n{body}\nret;\n}}\n"
    );
    Module::parse(&text).expect_err(&text)
}

#[test]
fn errors_name_what_is_wrong() {
    let cases = [
        ("frobnicate.u32 %r1, %r2;", "PTX line 9: the opcode `frobnicate.u32` is not known"),
        ("add.s32.wild %r1, %r2, %r3;", "PTX line 9: `add` does not know the modifier `.wild`"),
        ("add.s32 %r1, %r2;", "PTX line 9: `add.s32` has an operand that does not fit: 3 operands are wanted"),
        ("add.s32 %r1, %r2, %q3;", "PTX line 9: the name `%q3` is not declared"),
        ("\nadd.s32 %r1, %r2, %r4;", "PTX line 10: the name `%r4` is not declared"),
        ("bra NOWHERE;", "PTX line 9: the name `NOWHERE` is not declared"),
        ("call nobody;", "PTX line 9: the name `nobody` is not declared"),
        ("shfl.idx.b32 %r1, %r2, 0, 31;", "PTX line 9: the opcode `shfl.idx.b32` is not known"),
        ("ld.global.v8.u32 %r1, [%rd1];", "PTX line 9: `ld` does not know the modifier `.v8`"),
        (
            "add.s32 %r1, %r2, %tid.x;",
            "PTX line 9: `add.s32` has an operand that does not fit: a special register is read by `mov` and `cvt` only",
        ),
        ("cvt.s32.f32 %r1, %r2;", "PTX line 9: the opcode `cvt.s32.f32` is not known"),
        ("mov.u32 %r1, 0xzz;", "PTX line 9: `0xzz` is no number"),
        ("mov.u32 %r1 %r2;", "PTX line 9: expected `,`, found `%r2`"),
        (".alias a, b;", "PTX line 9: the directive `.alias` is not known"),
        (".reg .b32 %r1;\n.reg .b32 %r1;", "PTX line 10: `%r1` is declared twice"),
        ("L:\nL:", "PTX line 10: `L` is declared twice"),
        ("mov.u32 %r1, %tid.w;", "PTX line 9: the name `%tid.w` is not declared"),
        ("/* no end", "PTX line 9: a comment is not closed"),
        ("mov.u32 %r1, ä;", "PTX line 9: `ä` begins no token"),
    ];
    for (body, expected) in cases {
        assert_eq!(error(body).to_string(), expected);
    }
    let recursive = ".func a() { call b; ret; }\n.func b() { call a; ret; }\n.visible .entry k() { call a; ret; }";
    assert!(matches!(Module::parse(recursive), Err(ParseError::Recursion { line: 1 | 2, .. })));
    let twice = ".visible .entry k() { ret; }\n.visible .entry k() { ret; }";
    assert!(matches!(Module::parse(twice), Err(ParseError::Duplicate { line: 2, .. })));
    // A function that nobody calls is decoded all the same.
    let uncalled = ".func a() {\n frob; ret; }";
    assert!(matches!(Module::parse(uncalled), Err(ParseError::UnknownOpcode { line: 2, .. })));
}

#[test]
fn deep_and_large_texts() {
    let deep = format!(".global .b8 x[4] = {}", "{".repeat(1_000_000));
    assert!(Module::parse(&deep).is_err());
    let scopes = format!(".entry k() {}", "{".repeat(100_000));
    assert!(Module::parse(&scopes).is_err());
    assert!(matches!(Module::parse(".entry k() { .reg .b32 %r<4000000000>; }"), Err(ParseError::TooLarge { .. })));
    assert!(matches!(Module::parse(".global .b8 x[99999999999];"), Err(ParseError::TooLarge { .. })));
    assert!(matches!(Module::parse(".entry k() { .local .b8 x[1000000000]; }"), Err(ParseError::TooLarge { .. })));
}

/// Damages texts in many ways; whatever still parses is launched with arguments that mean nothing.
#[test]
fn damaged_texts() {
    let mut state = 1_u64;
    let mut random = move |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let (mut parsed, mut refused) = (0, 0);
    for text in [ROWS, SUMS, ELEMENTS] {
        let lines: Vec<&str> = text.lines().collect();
        for _ in 0..60 {
            let mut damaged: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            for _ in 0..1 + random(3) {
                let (at, other) = (random(lines.len()), random(lines.len()));
                match random(5) {
                    0 => damaged[at] = String::new(),
                    1 => damaged[at] = lines[other].to_owned(),
                    2 => damaged.swap(at, other),
                    3 => damaged[at] = damaged[at].replace(char::from(b'0' + random(10) as u8), "9"),
                    _ => {
                        let cut = random(damaged[at].len() + 1);
                        damaged[at].truncate(cut);
                    }
                }
            }
            let Ok(module) = Module::parse(&damaged.join("\n")) else {
                refused += 1;
                continue;
            };
            parsed += 1;
            for name in module.kernels() {
                let kernel = module.kernel(name).unwrap();
                let mut memory = Memory::new();
                let data = memory.alloc_from(&[1_u32; 512]);
                let arguments: Vec<Argument> = kernel
                    .parameter_sizes()
                    .map(|size| match size {
                        8 => Argument::U64(data),
                        size => Argument::Bytes(vec![1; size]),
                    })
                    .collect();
                let (grid, block) = ([2, 1, 1], [40, 1, 1]);
                let launch = Launch { kernel: name, grid, block, dynamic_shared: 160, arguments: &arguments };
                let schedule = Schedule::Random(random(1000) as u64);
                let options = Options { schedule, budget: 5_000, patience: 2_000, ..Options::default() };
                // Any outcome will do.
                let _ = launch_with(&module, &mut memory, &launch, &options);
            }
        }
    }
    assert!(parsed > 50 && refused > 30, "{parsed} {refused}");
}
