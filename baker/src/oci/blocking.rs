//! A dedicated thread for work that blocks on an async runtime.

use super::error::Error;

/// Runs `work` on a thread where it may block on a runtime of its own, even if the caller is inside
/// one.
pub(crate) fn on_own_thread<T: Send, E: Send + From<Error>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("oci-fetch".to_owned())
            .spawn_scoped(scope, work)
            .map_err(Error::io("start the thread", "oci-fetch"))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
