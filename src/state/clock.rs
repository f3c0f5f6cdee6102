use std::fmt;
use std::time::Duration;

/// A clock for measuring time: it never goes back, goes on while the machine sleeps, and says nothing about the date.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time since some fixed moment of this boot.
    fn now(&self) -> Duration;
}

/// The clock of the system: `CLOCK_BOOTTIME` on Linux, elsewhere the monotonic clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        #[cfg(target_os = "linux")]
        let id = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let id = rustix::time::ClockId::Monotonic;
        let time = rustix::time::clock_gettime(id);
        // Neither part is negative on a clock that counts from the start of the machine.
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}
