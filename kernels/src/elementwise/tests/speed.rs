use crate::elementwise::blocks::{Blocks, Own};
use crate::elementwise::{DType, Expression, Operation};
#[test]
#[ignore]
fn speed() {
    use Operation::*;
    for ops in [vec![Add], vec![Square], vec![Add; 8], vec![Square; 8], vec![Exp], vec![Erf], vec![Tanh], vec![Log], vec![Sigmoid], vec![Power], vec![SquareRoot], vec![Floor], vec![Maximum]] {
        let mut b = Expression::builder(&[256, 256]);
        let x = b.input(DType::F32, &[256, 256]).unwrap();
        let y = b.input(DType::F32, &[256, 256]).unwrap();
        let mut last = x;
        for op in &ops { last = b.apply(*op, &[last, y][..op.arity()]).unwrap(); }
        b.output(last).unwrap();
        let blocks = Blocks::new(&b.finish().unwrap()).unwrap();
        let (x, y) = (vec![0.7f32; 65536], vec![0.3f32; 65536]);
        let mut out = vec![0.0; 65536];
        let t = std::time::Instant::now();
        for _ in 0..200 { blocks.run(&[Some(&x), Some(&y)], &Own, &mut [&mut out]).unwrap(); }
        println!("{ops:?} {:.3} ns", t.elapsed().as_secs_f64() * 1e9 / 200.0 / 65536.0);
    }
}
