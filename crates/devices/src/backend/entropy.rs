//! Random bytes of the host.

/// `len` random bytes of the kernel.
///
/// # Errors
/// The kernel gives none.
pub fn entropy(len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; len];
    let mut done = 0;
    while done < len {
        let rest = &mut bytes[done..];
        // SAFETY: the pointer and length are those of `rest`, which is writable and alive during the call.
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => done += got,
            Err(_) => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_as_asked_for_and_not_all_the_same() {
        let bytes = entropy(4096).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert!(bytes.iter().any(|byte| *byte != bytes[0]));
        assert!(entropy(0).unwrap().is_empty());
    }
}
