//! The variables of modules: placed in memory when a module is first used, and kept between launches.

use super::Memory;
use crate::module::Module;

impl Memory {
    /// The address of a module's `.global` or `.const` variable, or `None` where it has no such variable.
    pub fn symbol(&mut self, module: &Module, name: &str) -> Option<u64> {
        let number = module.linked.variables.iter().position(|variable| variable.name == name)?;
        self.module_variables(module).get(number).copied()
    }

    /// Where each of a module's variables lies.
    pub(crate) fn module_variables(&mut self, module: &Module) -> Vec<u64> {
        if let Some(addresses) = self.variables.get(&module.identity) {
            return addresses.clone();
        }
        let variables = &module.linked.variables;
        let addresses: Vec<u64> = variables.iter().map(|variable| self.alloc_from(&variable.bytes)).collect();
        for (variable, &address) in variables.iter().zip(&addresses) {
            for &(offset, number) in &variable.addresses {
                // The place was checked when the module was linked.
                let _ = self.write(address + offset as u64, &[addresses[number]]);
            }
        }
        self.variables.insert(module.identity, addresses.clone());
        addresses
    }
}
