//! Silent deaths: the primary is stopped (SIGSTOP), so that its connection stays open and only its silence tells.

use std::time::{Duration, Instant};

use ft_e2e::{Bed, Launcher, Random, Reply, Resp, Takeover};

use super::{Kind, LIMIT, Seen, text};

/// Requests before the death, with pauses between them: the backup has heard log and heartbeats in turn.
const REQUESTS: u32 = 25;
/// The longest of those pauses: as long as the interval between two heartbeats.
const PAUSE: Duration = Duration::from_millis(20);
/// The table so far is printed after this many rounds.
const ROUNDS: u32 = 50;

/// Stops the primary of `count` pairs of each kind, in turn, so that all meet the same host.
pub(super) fn measure(count: u32, all: &mut [Seen]) {
    if count == 0 {
        return;
    }
    let mut random = Random::new("detectors");
    for number in 1..=count {
        for seen in &mut *all {
            match death(seen.kind, &mut random) {
                Ok((detected, line)) => {
                    println!("death {number}, {}: {detected:.1} ms: {line}", seen.kind.name());
                    seen.detected.push(detected);
                }
                Err(line) => {
                    println!("death {number}, {}: NONE, AND SUSPECTED: {line}", seen.kind.name());
                    seen.wrong += 1;
                }
            }
        }
        if number % ROUNDS == 0 && number < count {
            print!("{}", text(all));
        }
    }
}

/// From the death to the line that tells of the takeover, in milliseconds, and the line; or the line of a loss before any death.
fn death(kind: Kind, random: &mut Random) -> Result<(f64, String), String> {
    let bed = Bed::new(&Kind::settings());
    kind.choose(&bed);
    let mut pair = bed.start();
    let mut client = pair.wait_service(bed.port());
    let [(_, primary), _] = pair.wait_roles(LIMIT);
    for number in 0..REQUESTS {
        set(&pair, &mut client, &number.to_string());
        std::thread::sleep(random.time(PAUSE));
    }
    let lines = pair.stderr.lines();
    if let Some(loss) = lines.iter().find(|line| Takeover::parse(&line.text, line.at).is_some()) {
        // How it came to that is of more interest than that it did.
        eprintln!("{}", pair.said());
        return Err(loss.text.clone());
    }
    bed.signal(primary, libc::SIGSTOP);
    let stopped = Instant::now();
    let takeover = pair.wait_takeover(0, LIMIT);
    let detected = takeover.at.saturating_duration_since(stopped).as_secs_f64() * 1e3;
    // The survivor knows all that was acknowledged, on the same connection.
    let last = (REQUESTS - 1).to_string();
    let reply = client.call(&["GET", "key"]);
    let known = matches!(&reply, Ok(Reply::Bulk(Some(value))) if *value == last.as_bytes());
    assert!(known, "{last} was acknowledged, found {reply:?}\n{}", pair.said());
    pair.stop();
    Ok((detected, takeover.line))
}

fn set(pair: &Launcher, client: &mut Resp, value: &str) {
    let reply = client.call(&["SET", "key", value]);
    assert_eq!(reply, Ok(Reply::Simple("OK".into())), "{}", pair.said());
}
