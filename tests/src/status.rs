//! What `ft-vm status --json` says.

use serde_json::Value;

/// The status of a pair.
#[derive(Clone, Debug)]
pub struct Status {
    /// The generation.
    pub generation: u64,
    /// Each replica whose process is there.
    pub replicas: Vec<Replica>,
    /// All of it.
    pub json: Value,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    /// `a` or `b`.
    pub replica: String,
    /// `primary` or `backup`.
    pub role: String,
    /// Process id.
    pub pid: u32,
    /// `live`, `alone`, `following`, ...
    pub state: String,
    /// Where its guest stands, in guest instructions.
    pub position: u64,
    /// All of it.
    pub json: Value,
}

impl Status {
    /// Reads the command's output; the error says what is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}: {text}"))?;
        let generation = json["generation"].as_u64().ok_or("no generation")?;
        let mut replicas = Vec::new();
        for entry in json["replicas"].as_array().ok_or("no replicas")? {
            let word =
                |key: &str| entry[key].as_str().map(str::to_owned).ok_or(format!("no {key} in {entry}"));
            let number = |key: &str| entry[key].as_u64().ok_or(format!("no {key} in {entry}"));
            if entry["state"] == "gone" {
                continue;
            }
            replicas.push(Replica {
                replica: word("replica")?,
                role: word("role")?,
                pid: u32::try_from(number("pid")?).map_err(|error| error.to_string())?,
                state: word("state")?,
                // A replica that does not answer is listed without one.
                position: entry["position"].as_u64().unwrap_or(0),
                json: entry.clone(),
            });
        }
        Ok(Self { generation, replicas, json })
    }

    /// The replica in this role.
    pub fn role(&self, role: &str) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.role == role)
    }

    /// The replica of this name.
    pub fn replica(&self, name: &str) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.replica == name)
    }

    /// The primary; it must be there.
    pub fn primary(&self) -> &Replica {
        self.role("primary").unwrap_or_else(|| panic!("no primary in {}", self.json))
    }

    /// The backup; it must be there.
    pub fn backup(&self) -> &Replica {
        self.role("backup").unwrap_or_else(|| panic!("no backup in {}", self.json))
    }

    /// How many replicas are live, with a backup or alone: their guest's outputs are the world's.
    pub fn live(&self) -> usize {
        self.replicas.iter().filter(|replica| ["live", "alone"].contains(&replica.state.as_str())).count()
    }
}

impl Replica {
    /// A number of the status, or one inside a table of it (`output_delay_ms/p99`).
    pub fn number(&self, path: &str) -> f64 {
        let pointer = format!("/{path}");
        self.json
            .pointer(&pointer)
            .and_then(Value::as_f64)
            .unwrap_or_else(|| panic!("no {path} in {}", self.json))
    }
}
