//! Waiting for the device. What waits is `async`, since a browser's page may not block;
//! elsewhere nothing is left to wait for when a future is first polled, so that
//! [`block_on`] makes the functions that block.

use super::Gpu;
use crate::Result;
use futures_channel::oneshot;
use std::future::Future;

/// Work that was submitted.
pub struct Submission {
    #[cfg(not(target_family = "wasm"))]
    index: wgpu::SubmissionIndex,
    #[cfg(target_family = "wasm")]
    done: oneshot::Receiver<()>,
}

/// Blocks until `future` is done.
///
/// # Errors
/// Its own; in a browser, [`Error::Internal`] where it has to wait.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    #[cfg(not(target_family = "wasm"))]
    return pollster::block_on(future);
    #[cfg(target_family = "wasm")]
    {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => Err(crate::Error::internal(
                "a function that blocks",
                "a browser waits for the device in async functions alone",
            )),
        }
    }
}

impl Gpu {
    /// Submits what `encoder` recorded, to be waited for by [`Self::done`].
    pub fn submit(&self, encoder: wgpu::CommandEncoder) -> Submission {
        let _index = self.queue.submit([encoder.finish()]);
        #[cfg(not(target_family = "wasm"))]
        return Submission { index: _index };
        #[cfg(target_family = "wasm")]
        {
            let (tell, done) = oneshot::channel();
            self.queue.on_submitted_work_done(move || {
                // Nobody may be waiting any more.
                let _ = tell.send(());
            });
            Submission { done }
        }
    }

    /// Returns once `submission` has run.
    ///
    /// # Errors
    /// What went wrong on the device so far.
    pub async fn done(&self, submission: Submission) -> Result<()> {
        #[cfg(not(target_family = "wasm"))]
        self.poll(Some(submission.index))?;
        #[cfg(target_family = "wasm")]
        // Where the device was lost nobody tells; the check does.
        let _ = submission.done.await;
        self.check()
    }

    /// Blocks until everything submitted has run. In a browser it does not block: what is
    /// submitted later runs later all the same, and what reads results waits for them.
    ///
    /// # Errors
    /// What went wrong on the device so far.
    pub fn wait(&self) -> Result<()> {
        self.poll(None)?;
        self.check()
    }

    /// Until `index`, or everything.
    fn poll(&self, index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let poll = wgpu::PollType::Wait {
            submission_index: index,
            timeout: None,
        };
        match self.device.poll(poll) {
            Ok(_) => Ok(()),
            Err(e) => {
                let problem = format!("waiting for the device failed: {e}");
                Err(self.error(problem, "update the driver"))
            }
        }
    }

    /// Gives what `make` makes, and the first error that this was. In a browser, which tells
    /// later, [`Gpu::check`] finds it.
    pub(super) fn caught<T>(
        &self,
        filters: &[wgpu::ErrorFilter],
        make: impl FnOnce() -> T,
    ) -> (T, Option<wgpu::Error>) {
        if cfg!(target_family = "wasm") {
            return (make(), None);
        }
        let push = |filter: &wgpu::ErrorFilter| self.device.push_error_scope(*filter);
        let scopes: Vec<_> = filters.iter().map(push).collect();
        let made = make();
        let scopes = scopes.into_iter().rev();
        let errors: Vec<_> = scopes
            .map(|scope| pollster::block_on(scope.pop()))
            .collect();
        (made, errors.into_iter().flatten().next())
    }

    /// What `buffer`, made with `MAP_READ`, holds in its first `bytes` bytes, once
    /// everything submitted has run.
    pub(super) async fn mapped(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<Vec<u8>> {
        let slice = buffer.slice(..bytes);
        let (tell, mapped) = oneshot::channel();
        slice.map_async(wgpu::MapMode::Read, move |result| {
            // Nobody may be waiting any more.
            let _ = tell.send(result);
        });
        self.wait()?;
        let failed = |problem: String| {
            let problem = format!("reading back failed: {problem}");
            self.error(problem, "update the driver")
        };
        match mapped.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(failed(e.to_string())),
            Err(_) => return Err(failed("the device does not answer".into())),
        }
        self.check()?;
        match slice.get_mapped_range() {
            Ok(view) => Ok(view.to_vec()),
            Err(e) => Err(failed(e.to_string())),
        }
    }
}
