//! What the parser makes: the text's structure, with every name still a name.

use crate::types::Type;

/// Where a variable lives or an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Generic,
    Global,
    Const,
    Shared,
    Local,
    Param,
}

impl Space {
    /// The space that a modifier such as `global` or `shared::cta` names.
    pub fn named(name: &str) -> Option<Space> {
        Some(match name {
            "global" => Space::Global,
            "const" => Space::Const,
            "shared" | "shared::cta" => Space::Shared,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            _ => return None,
        })
    }
}

/// A whole PTX text.
#[derive(Debug, Default)]
pub(crate) struct Source<'a> {
    pub functions: Vec<Function<'a>>,
    pub variables: Vec<Variable<'a>>,
}

/// An `.entry` or a `.func`.
#[derive(Debug)]
pub(crate) struct Function<'a> {
    pub name: &'a str,
    pub entry: bool,
    pub returns: Vec<Variable<'a>>,
    pub parameters: Vec<Variable<'a>>,
    pub max_threads: Option<u64>,
    /// `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    pub line: u32,
}

/// A declared variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable<'a> {
    pub name: &'a str,
    pub space: Space,
    pub alignment: u64,
    /// `None` for an array of open length: the launch's dynamic shared memory.
    pub bytes: Option<u64>,
    pub element: Type,
    pub initialiser: Vec<Initial<'a>>,
    pub line: u32,
}

/// One element of an initialiser.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Initial<'a> {
    Bits(u64),
    /// The address of another variable.
    Address(&'a str),
}

#[derive(Debug)]
pub(crate) enum Statement<'a> {
    Open,
    Close,
    Label(&'a str),
    /// `.reg .b32 %r<count>`, or one register where `count` is `None`.
    Registers {
        name: &'a str,
        count: Option<u64>,
    },
    Variable(Variable<'a>),
    /// `label: .branchtargets a, b, …;`
    Targets {
        label: &'a str,
        targets: Vec<&'a str>,
    },
    Instruction(Instruction<'a>),
}

#[derive(Debug)]
pub(crate) struct Instruction<'a> {
    pub line: u32,
    /// The predicate register and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub modifiers: Vec<&'a str>,
    pub operands: Vec<Operand<'a>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Operand<'a> {
    /// A register, special register, symbol or label.
    Name(&'a str),
    /// `%tid.x`
    Component(&'a str, &'a str),
    /// `name+4`
    Sum(&'a str, i64),
    Integer(u64),
    Single(u32),
    Double(u64),
    /// `!%p1`
    Not(&'a str),
    /// `%p1|%p2`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `{a, b}`
    Vector(Vec<Operand<'a>>),
    /// `[base+offset]`
    Address(Box<Operand<'a>>, i64),
    /// `(a, b)` of a call
    List(Vec<Operand<'a>>),
}
