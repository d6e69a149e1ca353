//! The ft-vm command.
fn main() {}
