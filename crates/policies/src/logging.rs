//! The log between the two replicas, as far as it is configured.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::Check;
use crate::schema::At;
use crate::units::Size;

/// The largest record that a log may hold, in bytes: 1 MiB of data (a disk completion; larger ones are split) and room
/// for its headers.
pub const MAX_RECORD: u64 = (1 << 20) + (64 << 10);
const MAX_BUFFER: Size = Size::mib(1024);
const DEFAULT_BUFFER: &str = "16 MiB";

/// `[logging]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logging {
    /// The bytes of log that the primary may have unacknowledged, and the backup unread; at least twice
    /// [`MAX_RECORD`]. A full buffer stalls the guest.
    pub buffer: Size,
}

/// The `[logging]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "Logging")]
pub(crate) struct Table {
    /// How much log may be on its way from primary to backup (from "2176 KiB", twice the largest record, to "1 GiB").
    /// When the buffer is full the guest stalls until the backup has caught up.
    #[schemars(extend("default" = DEFAULT_BUFFER))]
    pub(crate) buffer: Option<At<Size>>,
}

impl Table {
    pub(crate) fn resolve(self, check: &mut Check) -> Logging {
        let least = Size(2 * MAX_RECORD);
        let buffer = check.or_default(self.buffer.as_ref(), DEFAULT_BUFFER, Size::parse);
        if let Some(at) = &self.buffer {
            if buffer < least {
                check.error(
                    at.span(),
                    "the log buffer is too small",
                    "no room for two of the largest records",
                    format!("the largest record has {} bytes: at least \"{least}\"", MAX_RECORD),
                );
            } else if buffer > MAX_BUFFER {
                check.error(
                    at.span(),
                    "the log buffer is too large",
                    "both replicas hold this much in memory",
                    format!("at most \"{MAX_BUFFER}\""),
                );
            }
        }
        Logging { buffer }
    }
}
