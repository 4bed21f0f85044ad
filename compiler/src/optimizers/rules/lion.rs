use crate::optimizers::update::{Mismatch, Update, fail}; use crate::optimizers::Found; pub fn check(_u: &Update) -> Result<Found, Mismatch> { fail(0, None, "") }
