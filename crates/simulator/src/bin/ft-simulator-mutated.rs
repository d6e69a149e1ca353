//! The same, of a protocol with deliberate mistakes in it; `cargo xtask simulate --controls` drives it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ft_simulator::command::main()
}
