//! What steps a model: the CPU engine, or a plan on a device.

use super::TrainError;
use super::state::State;
use crate::HostTensor;
use crate::cpu::Program;
use crate::plan::device::{Device, Session};
use npc_compiler::bindings::Bindings;

/// Steps a model whose parameters and states are a [`State`].
pub trait Engine {
    /// Runs one step with these batch inputs and scalars; gives loss and logits, where the model has them.
    ///
    /// # Errors
    /// A failed step.
    fn step(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        feeds: Vec<(String, HostTensor)>,
    ) -> Result<(Option<f64>, Option<HostTensor>), TrainError>;

    /// Brings the state up to date: before it is saved or evaluated.
    ///
    /// # Errors
    /// A failed copy.
    fn fetch(&mut self, _state: &mut State) -> Result<(), TrainError> {
        Ok(())
    }
}

impl Engine for Program {
    fn step(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        feeds: Vec<(String, HostTensor)>,
    ) -> Result<(Option<f64>, Option<HostTensor>), TrainError> {
        let mut all = state.take();
        all.extend(feeds);
        let (mut loss, mut logits) = (None, None);
        for (name, tensor) in self.run(all)? {
            if bindings.outputs.loss.as_ref() == Some(&name) {
                loss = tensor.to_f64().first().copied();
            } else if bindings.outputs.logits.as_ref() == Some(&name) {
                logits = Some(tensor);
            } else {
                state.put(&name, tensor);
            }
        }
        Ok((loss, logits))
    }
}

/// A plan on a device; parameters and states stay there between the steps.
pub struct OnDevice<D> {
    session: Session<D>,
    is_loaded: bool,
}

impl<D: Device> OnDevice<D> {
    /// Takes a session whose state is not set yet.
    pub fn new(session: Session<D>) -> Self {
        OnDevice { session, is_loaded: false }
    }
}

impl<D: Device> Engine for OnDevice<D> {
    fn step(
        &mut self,
        state: &mut State,
        bindings: &Bindings,
        feeds: Vec<(String, HostTensor)>,
    ) -> Result<(Option<f64>, Option<HostTensor>), TrainError> {
        if !self.is_loaded {
            for (name, tensor) in state.tensors() {
                self.session.set(name, tensor)?;
            }
            self.is_loaded = true;
        }
        for (name, tensor) in &feeds {
            self.session.set(name, tensor)?;
        }
        self.session.step()?;
        self.session.check()?;
        let loss = match &bindings.outputs.loss {
            Some(name) => self.session.get(name, None)?.to_f64().first().copied(),
            None => None,
        };
        let logits = bindings.outputs.logits.as_ref().map(|name| self.session.get(name, None)).transpose()?;
        Ok((loss, logits))
    }

    fn fetch(&mut self, state: &mut State) -> Result<(), TrainError> {
        if self.is_loaded {
            for (name, tensor) in state.tensors_mut() {
                *tensor = self.session.get(name, Some(tensor.dims()))?;
            }
        }
        Ok(())
    }
}
