//! Tests of the expression and everything that runs it.

mod functions;
