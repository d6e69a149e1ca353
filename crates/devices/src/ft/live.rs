//! A machine that nobody backs up.

use ft_core::output::OutputBody;

use super::{Disposition, Layer};

/// Everything is done at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live;

impl Layer for Live {
    fn decide(&self, _output: &OutputBody) -> Disposition {
        Disposition::Now
    }
}
