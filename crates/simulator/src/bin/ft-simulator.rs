//! Runs seeds of the simulator; `cargo xtask simulate` drives it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ft_simulator::command::main()
}
