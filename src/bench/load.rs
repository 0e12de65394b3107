//! Bounded loads: so many operations at the most, for so long at the most.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What a load did.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Operations that succeeded.
    pub done: usize,
    /// From the first start to the last end.
    pub wall: Duration,
    /// Latency of each operation, sorted, in milliseconds.
    pub latencies: Vec<f64>,
}

impl Load {
    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.wall.as_secs_f64().max(1e-9)
    }

    /// The latency below which `share` (0 to 1) of the operations were, in milliseconds.
    pub fn percentile(&self, share: f64) -> f64 {
        percentile(&self.latencies, share)
    }
}

/// The value at `share` (0 to 1) of a sorted slice; 0 for an empty one.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(((last as f64) * share).round() as usize)
        .copied()
        .unwrap_or_default()
}

/// Runs `op(worker, index)` on `workers` tasks until `most` operations were begun or `longest` has
/// passed. The first error ends the load.
pub async fn run<F, Fut>(
    workers: usize,
    most: usize,
    longest: Duration,
    op: F,
) -> anyhow::Result<Load>
where
    F: Fn(usize, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let op = Arc::new(op);
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let (op, next) = (op.clone(), next.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while start.elapsed() < longest {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= most {
                        break;
                    }
                    let begun = Instant::now();
                    op(worker, index).await?;
                    latencies.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut load = Load::default();
    for task in tasks {
        load.latencies.extend(task.await??);
    }
    load.wall = start.elapsed();
    load.done = load.latencies.len();
    load.latencies.sort_by(f64::total_cmp);
    Ok(load)
}
