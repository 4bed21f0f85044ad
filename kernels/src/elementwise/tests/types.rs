//! What builders refuse.

use crate::elementwise::{DType, Expression, Operand, Operation, Reduce, Scalar};

#[test]
fn nonsense_is_refused() {
    let mut builder = Expression::builder(&[2, 3]);
    assert!(builder.input(DType::F32, &[2]).is_err());
    assert!(builder.input(DType::F32, &[1, 2, 3]).is_err());
    let x = builder.input(DType::F32, &[3]).unwrap();
    let i = builder.input(DType::I32, &[]).unwrap();
    let flag = builder.input(DType::Bool, &[2, 1]).unwrap();
    assert!(builder.apply(Operation::Add, &[x, i]).is_err());
    assert!(builder.apply(Operation::Add, &[x]).is_err());
    assert!(builder.apply(Operation::Exp, &[i]).is_err());
    assert!(builder.apply(Operation::Add, &[flag, flag]).is_err());
    assert!(builder.apply(Operation::Select, &[x, x, x]).is_err());
    assert!(builder.apply(Operation::Add, &[x, Operand::Result(0)]).is_err());
    assert!(builder.apply(Operation::Add, &[x, Operand::Constant(DType::F32, Scalar::I32(1))]).is_err());
    assert!(builder.output(Operand::Input(3)).is_err());
    assert!(builder.reduce(Reduce::Sum, flag, &[0]).is_err());
    assert!(builder.reduce(Reduce::Sum, x, &[2]).is_err());
    assert!(builder.clone().finish().is_err());
    builder.reduce(Reduce::Sum, x, &[0, 1]).unwrap();
    assert!(builder.reduce(Reduce::Sum, x, &[0]).is_err());
    let expression = builder.finish().unwrap();
    assert_eq!(expression.outputs(), [(DType::F32, vec![1, 1])]);
    assert!(expression.evaluate(&[&[0; 12], &[0; 4]]).is_err());
    assert!(expression.evaluate(&[&[0; 12], &[0; 3], &[0; 2]]).is_err());
    assert_eq!(expression.evaluate(&[&[0; 12], &[0; 4], &[0; 2]]).unwrap(), [vec![0; 4]]);
}

#[test]
fn powers_of_small_exponents_become_products() {
    let mut builder = Expression::builder(&[2]);
    let x = builder.input(DType::F32, &[2]).unwrap();
    assert_eq!(builder.apply(Operation::Power, &[x, 1.0.into()]).unwrap(), x);
    let square = builder.apply(Operation::Power, &[x, 2.0.into()]).unwrap();
    builder.output(square).unwrap();
    assert_eq!(builder.finish().unwrap().instructions()[0].operation, Operation::Square);
}
