//! `kill -9` of the primary: for how long the guest is silent, as the launcher says and as a client sees.

use std::time::Duration;

use ft_e2e::{Bed, DiskPolicy, Guest, Load, Random, Settings, Shape};

use super::table::Table;
use super::{Effort, both, median};

const LIMIT: Duration = Duration::from_secs(20);

/// What one kill did, in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Silence {
    /// From the death of the primary to the moment the guest's port led to the backup.
    pub(crate) launcher_ms: f64,
    /// The longest that a client waited for a reply.
    pub(crate) client_ms: f64,
}

pub(crate) fn measure(effort: &Effort, table: &mut Table) {
    let mut random = Random::new("failover");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let (mut launcher, mut client) = (Vec::new(), Vec::new());
    for number in 0..effort.kills {
        let silence = kill(&bed, &format!("round{number}"), &mut random);
        launcher.push(silence.launcher_ms);
        client.push(silence.client_ms);
    }
    let anchor = "[FT 2010] seconds; [Remus] 1 s; restart-based HA: 2 minutes";
    let most = |numbers: &[f64]| numbers.iter().copied().fold(f64::NAN, f64::max);
    let kills = effort.kills;
    let what = format!("silence after kill -9, {kills} kills, median");
    table.add("failover_median_ms", what, median(&mut launcher), "ms", "< 20", anchor);
    table.add("failover_max_ms", "the same, longest", most(&launcher), "ms", "", "");
    table.add("client_gap_median_ms", "longest wait of a client, median", median(&mut client), "ms", "", "");
    table.add("client_gap_max_ms", "the same, longest", most(&client), "ms", "", "");
}

/// One kill of a new pair with disks of this kind.
pub(crate) fn kill_once(policy: DiskPolicy, random: &mut Random) -> Silence {
    kill(&Bed::new(&Settings::with_disk(Guest::Kv, policy)), "round", random)
}

/// Starts a pair and kills its primary under load.
fn kill(bed: &Bed, prefix: &str, random: &mut Random) -> Silence {
    let mut pair = bed.start();
    pair.wait_service(bed.port());
    let shape = Shape { writers: 2, counters: 1, readers: 1, depth: 4 };
    let load = Load::start(bed.port(), prefix, shape, random).expect("the clients connect");
    let before = both(bed);
    load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    std::thread::sleep(random.time(Duration::from_millis(300)));
    bed.signal(before.primary().pid, libc::SIGKILL);
    let takeover = pair.wait_takeover(0, LIMIT);
    load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
    pair.stop();
    let launcher_ms = takeover.silent_ms.unwrap_or_else(|| panic!("no time in {}", takeover.line));
    Silence { launcher_ms, client_ms: record.silence.as_secs_f64() * 1e3 }
}
