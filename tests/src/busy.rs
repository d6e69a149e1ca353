//! A loaded host: busy processes on every core.

use std::process::{Child, Command, Stdio};

use crate::survivors;

/// Busy processes; they end with this value.
pub struct Busy(Vec<Child>);

impl Busy {
    /// One on every core.
    pub fn everywhere() -> Self {
        Self::on_every_core(1)
    }

    /// This many for every core.
    pub fn on_every_core(count: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).stdout(Stdio::null());
            survivors::die_with_us(&mut shell);
            shell.spawn().expect("a shell starts")
        };
        Self((0..cores * count).map(start).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
