//! `kill -9` of the primary: for how long the guest is silent, as the launcher says and as a client sees.

use std::time::Duration;

use ft_e2e::{Bed, Guest, Load, Random, Settings, Shape};

use super::table::Table;
use super::{Effort, both, median};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn measure(effort: &Effort, table: &mut Table) {
    let mut random = Random::new("failover");
    let bed = Bed::new(&Settings::new(Guest::Kv));
    let (mut launcher, mut client) = (Vec::new(), Vec::new());
    for number in 0..effort.kills {
        let mut pair = bed.start();
        pair.wait_service(bed.port());
        let shape = Shape { writers: 2, counters: 1, readers: 1, depth: 4 };
        let load = Load::start(bed.port(), &format!("round{number}"), shape, &mut random)
            .expect("the clients connect");
        let before = both(&bed);
        load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        std::thread::sleep(random.time(Duration::from_millis(300)));
        bed.signal(before.primary().pid, libc::SIGKILL);
        let takeover = pair.wait_takeover(0, LIMIT);
        load.wait_replies(200, LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        let record = load.stop().unwrap_or_else(|error| panic!("{error}\n{}", pair.said()));
        launcher.extend(takeover.silent_ms);
        client.push(record.silence.as_secs_f64() * 1e3);
        pair.stop();
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
