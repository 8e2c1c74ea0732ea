//! Processor time of this process: on adapters that are CPUs, what their work costs,
//! whatever else the machine does. And its threads.

/// Threads that work side by side; 1 where none can be made, as in a browser.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// User and system seconds of all threads so far; `None` where the system does not say.
#[cfg(unix)]
pub fn processor_seconds() -> Option<f64> {
    // SAFETY: a zeroed rusage is a valid value, and getrusage only writes to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
            return None;
        }
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// User and system seconds of all threads so far; not known here.
#[cfg(not(unix))]
pub fn processor_seconds() -> Option<f64> {
    None
}
