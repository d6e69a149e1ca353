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

/// What `--csv` says of one test. Times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// Its name: `SET`.
    pub test: String,
    /// Requests per second.
    pub speed: f64,
    /// Half of the requests took so long, or less.
    pub p50: f64,
    /// 99 of 100 did.
    pub p99: f64,
}

impl Served {
    /// Reads the output of a benchmark with `--csv`, tests in the order in which they ran.
    pub fn all(said: &str) -> Vec<Self> {
        let words = |line: &str| line.split(',').map(|word| word.trim_matches('"').to_owned()).collect();
        let mut lines = said.lines().map(words);
        let heading: Vec<String> = lines.find(|line: &Vec<String>| line[0] == "test").unwrap_or_default();
        let column = |name: &str| heading.iter().position(|column| column == name);
        let read = |line: Vec<String>| {
            let number = |name: &str| line.get(column(name)?)?.parse().ok();
            Some(Self {
                test: line.first()?.clone(),
                speed: number("rps")?,
                p50: number("p50_latency_ms")?,
                p99: number("p99_latency_ms")?,
            })
        };
        lines.filter_map(read).collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_csv() {
        let said = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
                    \"p99_latency_ms\",\"max_latency_ms\"\n\
                    \"SET\",\"20000.00\",\"2.1\",\"0.3\",\"1.9\",\"3.0\",\"4.5\",\"9.0\"\n\
                    \"GET\",\"25000.50\",\"1.1\",\"0.2\",\"0.9\",\"2.0\",\"3.5\",\"8.0\"\n";
        let served = |test: &str, speed, p50, p99| Served { test: test.to_owned(), speed, p50, p99 };
        assert_eq!(Served::all(said), [served("SET", 20000.0, 1.9, 4.5), served("GET", 25000.5, 0.9, 3.5)]);
        assert_eq!(Served::all("Could not connect"), []);
    }
}
