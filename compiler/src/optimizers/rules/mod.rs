//! One file per optimizer family: formula, checks, reference, tests.

mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod lamb;
mod lion;
mod momentum;
mod nadam;
mod rmsprop;
mod sgd;
#[cfg(test)]
mod snapshots;

use super::Found;
use super::update::{Mismatch, Update};

/// Asks an update questions; says what it is or why it is not.
pub type Rule = fn(&Update) -> Result<Found, Mismatch>;

/// Every rule, simplest first. An update that two rules accept is the same under both.
pub const ALL: &[Rule] = &[
    sgd::check,
    momentum::check,
    adam::check,
    adamax::check,
    nadam::check,
    adagrad::check,
    rmsprop::check,
    adadelta::check,
    lion::check,
    lamb::check,
];
