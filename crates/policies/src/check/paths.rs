//! Paths: relative to the config file, and each used for one thing only.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use super::Check;
use crate::schema::At;
use crate::schema::values::NonEmpty;

impl Check {
    /// A path of the file, made absolute without asking the file system.
    pub(crate) fn path(&self, path: &At<NonEmpty>) -> PathBuf {
        lexical(&self.folder.join(&path.value().0))
    }

    /// A path that the file does not name, in its folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        lexical(&self.folder.join(name))
    }

    /// Refuses two uses of one file.
    pub(super) fn distinct(&mut self, uses: &[(PathBuf, Range<usize>, String)]) {
        let real: Vec<_> =
            uses.iter().map(|(path, ..)| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
        for (index, (path, span, what)) in uses.iter().enumerate() {
            if let Some(earlier) = real[..index].iter().position(|earlier| *earlier == real[index]) {
                let (_, other_span, other) = &uses[earlier];
                self.error_with(
                    span.clone(),
                    format!("{what} and {other} are the same file"),
                    path.display().to_string(),
                    "give each a path of its own",
                    (other_span.clone(), format!("{other} is here")),
                );
            }
        }
    }
}

/// Takes out `.` and, where that is safe to do without looking, nothing else: `x/..` may lead elsewhere when `x` is a link.
fn lexical(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, Component::CurDir)).collect()
}
