//! Planted misuse, one of every class that the driver finds, beside the right use that it lets pass.

mod capture;
mod convolutions;
mod device;
mod orders;
mod products;
mod support;
