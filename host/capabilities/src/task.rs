//! Work on the host's own runtime, apart from the one that guests run on.

use tokio::runtime::Handle;
use tokio::task::JoinError;

/// A task that ends with the future that waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs a future on a runtime and waits for it; dropping the wait ends the future.
pub(crate) async fn run_on<F>(runtime: &Handle, future: F) -> Result<F::Output, JoinError>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut task = AbortOnDrop(runtime.spawn(future));
    (&mut task.0).await
}
