//! `ft-vm key`: a new secret for a pair, and for its witness.

use std::path::Path;

use ft_policies::Key;

use crate::exit::Exit;

/// Makes a file with a new key.
pub(crate) fn key(path: &Path) -> Exit {
    match Key::make(path) {
        Ok(()) => {
            eprintln!(
                "ft-vm: {} is a new key: give each replica a copy and name it in [replicas] key, by which the two know each other, in \
                 [tie-breaker.witness] key, or in both; for a witness its line, and after it the pair's vm.name if it is to be good for \
                 that pair only, belongs into the witness's --keys file",
                path.display()
            );
            Exit::Done
        }
        Err(error) => {
            eprintln!("ft-vm: key: {error}");
            Exit::Runtime(1)
        }
    }
}
