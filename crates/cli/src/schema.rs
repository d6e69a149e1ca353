//! `ft-vm schema`.

use std::io::{ErrorKind, Write as _};

use crate::exit::Exit;

/// Prints the JSON schema on standard output.
pub(crate) fn schema() -> Exit {
    let mut out = std::io::stdout().lock();
    match out.write_all(ft_policies::schema::text().as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("ft-vm: cannot print the schema: {error}");
            Exit::Runtime(1)
        }
    }
}
