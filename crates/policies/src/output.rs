//! When the world may see what the guest did.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::schema::At;

/// `[output]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    /// The rule that holds outputs back.
    pub rule: OutputRule,
}

/// When an output may be released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OutputRule {
    /// The Output Rule (paper, section 2.2): an output is held until the backup has acknowledged everything that led to
    /// it, so that a backup that takes over agrees with everything the world has seen.
    #[default]
    Commit,
    /// Outputs are released at once: what the world saw may be lost with the primary. For experiments only: it shows what
    /// the Output Rule costs.
    None,
}

impl OutputRule {
    /// Whether outputs wait for the backup's acknowledgement.
    pub fn holds(self) -> bool {
        self == Self::Commit
    }
    /// What the user must be told at start, if anything.
    pub fn warning(self) -> Option<&'static str> {
        match self {
            Self::Commit => None,
            Self::None => Some(
                "output.rule = \"none\": outputs are released before the backup has what led to them; a failover may take back \
                 what clients were told",
            ),
        }
    }
}

/// The `[output]` table.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(rename = "Output")]
pub(crate) struct Table {
    /// When an output of the guest may be released.
    #[schemars(extend("default" = "commit"))]
    pub(crate) rule: Option<At<OutputRule>>,
}
