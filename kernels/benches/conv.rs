//! Convolution 32→64, 3×3, 28×28, batch 128, one thread: 3.70 GFLOP in each of the three passes. The matrix product of
//! the same work in one piece, measured beside them, is the floor.

use criterion::{Criterion, criterion_group, criterion_main};
use npc_kernels::cpu::Geometry;
use npc_kernels::cpu::conv::Convolution;

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    })
    .take(len)
    .collect()
}

fn conv(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool of one thread");
    let cases = [
        ("32-64 3x3 28", 128, 1, 32, 64, 28, 28, 3, 1, 1),
        ("1-8 3x3 28", 64, 1, 1, 8, 28, 28, 3, 1, 1),
        ("64-128 3x3/2 28", 32, 1, 64, 128, 28, 14, 3, 2, 1),
        ("64-256 1x1 14", 64, 1, 64, 256, 14, 14, 1, 1, 0),
        ("64 depthwise 3x3 28", 64, 64, 64, 64, 28, 28, 3, 1, 1),
        ("256-256 3x3 7", 32, 1, 256, 256, 7, 7, 3, 1, 1),
    ];
    for (name, batch, groups, channels, filters, input, output, kernel, stride, pad) in cases {
        let geometry = Geometry::new(&[input; 2], &[output; 2], &[kernel; 2], &[stride; 2], &[1; 2], &[pad; 2]);
        let conv = Convolution::new(batch, groups, channels, filters, geometry.expect("a window")).expect("shapes");
        let (x, w, b) = (noise(conv.x_len(), 1), noise(conv.w_len(), 2), noise(filters, 3));
        let dy = noise(conv.y_len(), 4);
        let (mut y, mut dx, mut dw) = (vec![0.0; conv.y_len()], vec![0.0; conv.x_len()], vec![0.0; conv.w_len()]);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).warm_up_time(std::time::Duration::from_millis(300));
        group.measurement_time(std::time::Duration::from_millis(1000));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| pool.install(|| conv.forward(&x, &w, Some(&b), &mut y)).expect("lengths fit"))
        });
        group.bench_function("data gradient", |bencher| {
            bencher.iter(|| pool.install(|| conv.data_gradient(&dy, &w, None, &mut dx)).expect("lengths fit"))
        });
        group.bench_function("weight gradient", |bencher| {
            bencher.iter(|| pool.install(|| conv.weight_gradient(&x, &dy, &mut dw)).expect("lengths fit"))
        });
        if groups == 1 {
            let (m, k, n) = (filters, channels * kernel * kernel, batch * output * output);
            let (a, b) = (noise(m * k, 5), noise(k * n.min(8192), 6));
            let n = n.min(8192);
            let mut c = vec![0.0; m * n];
            group.bench_function(format!("matrix product {m}x{k}x{n}"), |bencher| {
                bencher.iter(|| unsafe {
                    gemm::gemm(
                        m,
                        n,
                        k,
                        c.as_mut_ptr(),
                        1,
                        n as isize,
                        false,
                        a.as_ptr(),
                        1,
                        k as isize,
                        b.as_ptr(),
                        1,
                        n as isize,
                        0.0,
                        1.0,
                        false,
                        false,
                        false,
                        gemm::Parallelism::None,
                    )
                })
            });
        }
    }
}

criterion_group!(benches, conv);
criterion_main!(benches);
