//! The addresses that host and guest share.
//!
//! Each test has a window of its own, so that tests can run side by side in one process. In a window everything that
//! is not code or data is unmapped on both sides.

/// Bytes of a window.
pub(crate) const WINDOW: u64 = 0x1_0000;
/// Code: two pages from the start of the window, readable, writable, executable.
pub(crate) const CODE_LEN: u64 = 0x2000;
/// Offset of the data.
pub(crate) const DATA: u64 = 0x8000;
/// Writable data, three pages.
pub(crate) const DATA_LEN: u64 = 0x3000;
/// One more page behind it that can only be read.
pub(crate) const READ_ONLY_LEN: u64 = 0x1000;

const FIRST: u64 = 0x2000_0000;
const STRIDE: u64 = 0x20_0000;

/// The start of window `number`. Each test of a file takes another number, always the same, so that its cases do not
/// depend on which test came first.
pub(crate) fn window(number: u64) -> u64 {
    assert!(number < 200, "too many windows");
    FIRST + number * STRIDE
}

/// The number of a window.
pub(crate) fn number(window: u64) -> u64 {
    (window - FIRST) / STRIDE
}

/// What stands in the read-only page.
pub(crate) fn read_only_page() -> Vec<u8> {
    let mut rng = super::rng::Rng::new(99);
    (0..READ_ONLY_LEN / 8).flat_map(|_| rng.lane().to_le_bytes()).collect()
}
