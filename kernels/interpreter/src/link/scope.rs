//! Which name means what, inside nested braces.

use rustc_hash::FxHashMap;

use crate::program::Register;

/// What a name stands for inside a function.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entity {
    Register(Register),
    /// A shared variable, at its offset.
    Shared(u32),
    /// Dynamic shared memory.
    DynamicShared,
    /// A local variable, or a function's parameter, at its offset in local memory.
    Local {
        offset: u32,
        bytes: u32,
    },
    /// A parameter of the kernel, at its offset.
    Parameter(u32),
    /// A `.global` or `.const` variable, by number.
    Variable(usize),
}

#[derive(Debug)]
struct Scope<'a> {
    parent: Option<usize>,
    names: FxHashMap<&'a str, Entity>,
    /// `.reg .b32 %r<count>`: the prefix, the first register, the count.
    ranges: Vec<(&'a str, Register, u64)>,
    labels: FxHashMap<&'a str, u32>,
    tables: FxHashMap<&'a str, &'a [&'a str]>,
}

/// All scopes of one function, so that labels can be looked up after the last statement.
#[derive(Debug)]
pub(crate) struct Scopes<'a> {
    scopes: Vec<Scope<'a>>,
    current: usize,
}

impl<'a> Scopes<'a> {
    pub fn new() -> Self {
        let mut scopes = Scopes { scopes: Vec::new(), current: 0 };
        scopes.push(None);
        scopes
    }

    fn push(&mut self, parent: Option<usize>) {
        self.scopes.push(Scope {
            parent,
            names: FxHashMap::default(),
            ranges: Vec::new(),
            labels: FxHashMap::default(),
            tables: FxHashMap::default(),
        });
        self.current = self.scopes.len() - 1;
    }

    pub fn open(&mut self) {
        self.push(Some(self.current));
    }

    pub fn close(&mut self) {
        self.current = self.scopes[self.current].parent.unwrap_or(0);
    }

    /// The scope that statements are in now, to be given to [`Scopes::label`] later.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Declares a name; `false` where this scope has it already.
    pub fn declare(&mut self, name: &'a str, entity: Entity) -> bool {
        self.scopes[self.current].names.insert(name, entity).is_none()
    }

    pub fn declare_range(&mut self, prefix: &'a str, first: Register, count: u64) {
        self.scopes[self.current].ranges.push((prefix, first, count));
    }

    pub fn declare_label(&mut self, name: &'a str, target: u32) -> bool {
        self.scopes[self.current].labels.insert(name, target).is_none()
    }

    pub fn declare_table(&mut self, name: &'a str, targets: &'a [&'a str]) -> bool {
        self.scopes[self.current].tables.insert(name, targets).is_none()
    }

    fn chain(&self, from: usize) -> impl Iterator<Item = &Scope<'a>> {
        std::iter::successors(self.scopes.get(from), |scope| scope.parent.and_then(|parent| self.scopes.get(parent)))
    }

    pub fn find(&self, name: &str) -> Option<Entity> {
        self.chain(self.current).find_map(|scope| {
            scope.names.get(name).copied().or_else(|| {
                scope.ranges.iter().find_map(|&(prefix, first, count)| {
                    let digits = name.strip_prefix(prefix).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
                    let index = digits.parse::<u64>().ok().filter(|&index| index < count)?;
                    Some(Entity::Register(first + index as u32))
                })
            })
        })
    }

    pub fn label(&self, scope: usize, name: &str) -> Option<u32> {
        self.chain(scope).find_map(|scope| scope.labels.get(name).copied())
    }

    pub fn table(&self, scope: usize, name: &str) -> Option<&'a [&'a str]> {
        self.chain(scope).find_map(|scope| scope.tables.get(name).copied())
    }
}
