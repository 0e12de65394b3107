//! Work that would hold up others.

use std::any::Any;

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task,
};

/// The work panicked.
#[derive(Debug, thiserror::Error)]
#[error("work on a thread of its own panicked")]
pub struct Panicked(pub Box<dyn Any + Send>);

/// Does `work`, which takes long or blocks, on a thread where it holds up nobody.
///
/// A runtime that has one thread only waits for it: nobody else would gain much, and what happens in a
/// simulation happens in the same order in every run.
///
/// # Errors
/// `Panicked`, with what it panicked with.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        // On another thread all the same: the work may itself wait for futures.
        return std::thread::spawn(work).join().map_err(Panicked);
    }
    let done = task::spawn_blocking(work).await;
    // One that was cancelled was not begun: the runtime is being shut down.
    done.map_err(|error| match error.try_into_panic() {
        Ok(panic) => Panicked(panic),
        Err(error) => Panicked(Box::new(error.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn works() {
        assert_eq!(blocking(|| 1 + 1).await.unwrap(), 2);
        let work = || Handle::try_current().is_ok();
        blocking(work).await.unwrap();
        let panicked = blocking(|| assert!(std::thread::panicking(), "as it should"))
            .await
            .unwrap_err();
        assert_eq!(panicked.0.downcast_ref(), Some(&"as it should"));
    }

    #[tokio::test]
    async fn on_one_thread() {
        works().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn on_many_threads() {
        works().await;
    }
}
