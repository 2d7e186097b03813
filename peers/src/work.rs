//! What is measured: the works, their seeded operands, and the truth about some rows of each result.

use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use double_routing::{
    Linear, Weights,
    reference::{Axis, Forward, Product, matmul, signal_error, softmax},
};

/// Rows of a matmul's or a softmax's result that are held against the truth.
const CHECKED_ROWS: usize = 16;
/// A result may be this many times as far from the truth as plain f32 loops on the CPU are; errors below the floor are too
/// small to compare.
const YARDSTICKS: f64 = 4.0;
const FLOOR: f64 = 1e-6;

#[derive(Debug, Clone, Copy)]
pub struct Work {
    pub name: &'static str,
    kind: Kind,
    /// Too long for a software adapter.
    pub large: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `width` is A, R and O.
    Forward {
        batch: usize,
        tokens: usize,
        input: usize,
        width: usize,
    },
    /// Square. Transposed: B is stored as nn.Linear stores it, `[N, K]`.
    Matmul {
        size: usize,
        transposed: bool,
    },
    Softmax {
        rows: usize,
        columns: usize,
    },
}

impl Work {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, large: false }
    }

    const fn large(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, large: true }
    }
}

pub const WORKS: [Work; 10] = [
    Work::new("forward a", Kind::Forward { batch: 8, tokens: 512, input: 768, width: 256 }),
    Work::new("forward b", Kind::Forward { batch: 1, tokens: 128, input: 768, width: 64 }),
    Work::new("forward c", Kind::Forward { batch: 4, tokens: 2048, input: 1024, width: 512 }),
    Work::large("forward large", Kind::Forward { batch: 32, tokens: 4096, input: 4096, width: 1024 }),
    Work::new("matmul 1024", Kind::Matmul { size: 1024, transposed: true }),
    Work::new("matmul 2048", Kind::Matmul { size: 2048, transposed: true }),
    Work::new("matmul 2048 ab", Kind::Matmul { size: 2048, transposed: false }),
    Work::large("matmul 4096", Kind::Matmul { size: 4096, transposed: true }),
    Work::new("softmax 4096x1024", Kind::Softmax { rows: 4096, columns: 1024 }),
    Work::new("softmax 64x65536", Kind::Softmax { rows: 64, columns: 65536 }),
];

/// A work's operands.
#[derive(Debug)]
pub enum Problem {
    Forward { shape: [usize; 3], weights: Weights, x: Vec<f32> },
    Matmul { size: usize, transposed: bool, a: Vec<f32>, b: Vec<f32> },
    Softmax { shape: [usize; 2], x: Vec<f32> },
}

impl Work {
    /// The same operands every time.
    pub fn problem(&self) -> Result<Problem> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut values =
            |count: usize, scale: f32| -> Vec<f32> { (0..count).map(|_| scale * (2.0 * random.f32() - 1.0)).collect() };
        Ok(match self.kind {
            Kind::Forward { batch, tokens, input, width } => {
                // As PyTorch initialises them: uniform within 1/√in.
                let mut linear = |out: usize, features: usize| {
                    let scale = 1.0 / (features as f32).sqrt();
                    Linear::new(values(out * features, scale), [out, features], values(out, scale))
                };
                let weights =
                    Weights::new(linear(width, input), linear(1, width), linear(width, width), linear(width, width))?;
                Problem::Forward { shape: [batch, tokens, input], weights, x: values(batch * tokens * input, 1.0) }
            }
            Kind::Matmul { size, transposed } => {
                Problem::Matmul { size, transposed, a: values(size * size, 1.0), b: values(size * size, 1.0) }
            }
            Kind::Softmax { rows, columns } => {
                Problem::Softmax { shape: [rows, columns], x: values(rows * columns, 1.0) }
            }
        })
    }
}

/// The truth about some rows of a problem's result.
#[derive(Debug)]
pub struct Truth {
    rows: Vec<usize>,
    all: usize,
    exact: Forward<f64>,
    /// What an error may be, by the signal for a forward's y and by the norm for the rest.
    pub allowed: f64,
}

impl Truth {
    pub fn new(problem: &Problem) -> Result<Self> {
        let (rows, all, exact, plain) = match problem {
            Problem::Forward { shape, weights, x } => {
                let &[batch, tokens, input] = shape;
                let layer = weights.to_reference();
                // A sequence does not depend on the others. The last is the one that a wrong stride misses.
                let x = &x[(batch - 1) * tokens * input..];
                let shape = [1, tokens, input];
                let (exact, plain) = both(
                    || layer.forward(&exactly(x), &shape, None),
                    || layer.cast::<f32>().forward(x, &shape, None).y,
                )?;
                (((batch - 1) * tokens..batch * tokens).collect(), batch * tokens, exact, plain)
            }
            Problem::Matmul { size, transposed, a, b } => {
                let rows = spread(*size);
                let a = gather(a, &rows, *size)?;
                let product = Product {
                    rows: rows.len(),
                    columns: *size,
                    depth: *size,
                    transposed: *transposed,
                    ..Product::default()
                };
                let (exact, plain) =
                    both(|| matmul(&exactly(&a), &exactly(b), None, &product), || matmul(&a, b, None, &product))?;
                (rows, *size, unshared(exact), plain)
            }
            Problem::Softmax { shape: [count, columns], x } => {
                let rows = spread(*count);
                let x = gather(x, &rows, *columns)?;
                let axis = Axis { outer: rows.len(), length: *columns, inner: 1 };
                let (exact, plain) = both(|| softmax(&exactly(&x), axis, None), || softmax(&x, axis, None))?;
                (rows, *count, unshared(exact), plain)
            }
        };
        let allowed = (YARDSTICKS * signal_error(&plain, &exact)).max(FLOOR);
        Ok(Self { rows, all, exact, allowed })
    }

    /// How far a result is from the truth.
    pub fn error(&self, result: &[f32]) -> Result<f64> {
        let columns = self.exact.y.len() / self.rows.len();
        ensure!(result.len() == self.all * columns, "{} values, expected {}", result.len(), self.all * columns);
        Ok(signal_error(&gather(result, &self.rows, columns)?, &self.exact))
    }
}

/// Runs both at once: each may take long.
fn both<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> Result<(A, B)> {
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        Ok((one.join().map_err(|_| anyhow!("the reference failed"))?, other))
    })
}

fn exactly(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

/// A result without a part that all its rows share: its signal is the whole of it.
fn unshared(y: Vec<f64>) -> Forward<f64> {
    Forward { h: vec![], logits: vec![], w: vec![], routed: vec![], y, d: vec![0.0] }
}

/// Rows from the first to the last.
fn spread(count: usize) -> Vec<usize> {
    let checked = count.min(CHECKED_ROWS);
    (0..checked).map(|row| row * (count - 1) / (checked - 1).max(1)).collect()
}

fn gather(matrix: &[f32], rows: &[usize], columns: usize) -> Result<Vec<f32>> {
    let row = |&row: &usize| matrix.get(row * columns..(row + 1) * columns).with_context(|| format!("no row {row}"));
    Ok(rows.iter().map(row).collect::<Result<Vec<_>>>()?.concat())
}
