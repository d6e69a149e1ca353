//! Debian's `redis-benchmark`: a real client.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Capture, survivors};

/// Whether `redis-benchmark` and `redis-cli` are installed.
pub fn have_redis_tools() -> bool {
    ["redis-benchmark", "redis-cli"].iter().all(|tool| {
        let run = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        run.is_ok_and(|status| status.success())
    })
}

/// A running `redis-benchmark`.
pub struct RedisBenchmark {
    child: Child,
    stdout: Capture,
    stderr: Capture,
}

impl RedisBenchmark {
    /// SET, GET and INCR in turn for ever, `clients` connections at a time.
    pub fn forever(port: u16, clients: u32) -> Self {
        Self::start(
            port,
            &["-l", "-q", "-n", "2000", "-r", "1000", "-c", &clients.to_string(), "-t", "set,get,incr"],
        )
    }

    /// With the given arguments.
    pub fn start(port: u16, arguments: &[&str]) -> Self {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        survivors::die_with_us(&mut command);
        let mut child = command.spawn().expect("redis-benchmark is installed (package redis-tools)");
        let stdout = Capture::of(child.stdout.take().expect("piped"));
        let stderr = Capture::of(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr }
    }

    /// Waits until one of its tests, of which it prints the result, is over from now on: its connections work.
    pub fn wait_result(&mut self, limit: Duration) -> Result<(), String> {
        let from = self.stdout.count();
        // The result of a test that ended just now may still be on its way: wait for two.
        let mut at = from;
        for _ in 0..2 {
            let Some(_) = self.stdout.wait_for(at, limit, |line| line.contains("requests per second")) else {
                return Err(format!("redis-benchmark finished no test within {limit:?}: {}", self.said()));
            };
            at = self.stdout.count();
        }
        Ok(())
    }

    /// Ends a benchmark that runs for ever. An error if it has ended by itself: it does that on the first connection that
    /// is reset or closed.
    pub fn stop(mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("redis-benchmark ended by itself, {status}: {}", self.said())),
            Err(error) => Err(format!("redis-benchmark: {error}")),
        }
    }

    /// Waits for the end of a benchmark with an end; returns what it printed.
    pub fn finish(mut self, limit: Duration) -> Result<String, String> {
        let until = Instant::now() + limit;
        if !self.stdout.wait_end(limit)
            || !self.stderr.wait_end(until.saturating_duration_since(Instant::now()))
        {
            return Err(format!("redis-benchmark did not end within {limit:?}: {}", self.said()));
        }
        let status = self.child.wait().map_err(|error| format!("redis-benchmark: {error}"))?;
        if status.success() {
            Ok(self.stdout.text())
        } else {
            Err(format!("redis-benchmark: {status}: {}", self.said()))
        }
    }

    fn said(&self) -> String {
        let tail = |capture: &Capture| {
            let lines = capture.lines();
            let from = lines.len().saturating_sub(5);
            lines[from..].iter().map(|line| line.text.clone()).collect::<Vec<_>>().join("\n")
        };
        format!("{}\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

impl Drop for RedisBenchmark {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
