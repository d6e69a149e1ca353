//! What does not get through between hosts: filters of the kernel (`nft`), on the hosts' own side of a wire.
//!
//! A packet is dropped where it arrives, without a word to anybody, as on a network that is broken somewhere in the middle. That
//! is not [`crate::Hosts::set_wire`], after which both hosts see that the wire is out.

use std::process::{Command, Stdio};

use crate::hosts::{ADDRESSES_FOR_ARBITER, Hosts, TO_ARBITER, UPLINK, WIRE, run};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Neither side hears the other.
    Both,
    /// Replica b does not hear replica a.
    FromAToB,
    /// Replica a does not hear replica b.
    FromBToA,
}

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The log connection (TCP) of the replicas, with its acknowledgements.
    Log(Way),
    /// The replicas' datagrams (UDP): heartbeats, last words.
    Heartbeat(Way),
    /// All that the replicas say to each other.
    Replication(Way),
    /// The way from the host of `a` or `b` to the arbiter, and back.
    Arbiter(&'static str),
    /// The way from the host of `a` or `b` into the guest's LAN: the wire is out.
    Lan(&'static str),
}

const TABLE: &str = "ft-e2e";

/// Whether `nft` is there.
pub fn have_nftables() -> bool {
    let mut nft = Command::new("nft");
    nft.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    nft.status().is_ok_and(|status| status.success())
}

/// Makes room for rules in a namespace.
pub(crate) fn prepare(namespace: &str) -> Result<(), String> {
    nft(namespace, &format!("add table inet {TABLE}"))?;
    nft(namespace, &format!("add chain inet {TABLE} arriving {{ type filter hook input priority 0; }}"))
}

impl Hosts {
    /// Cuts something, in addition to what is cut already.
    pub fn cut(&self, cut: Cut) {
        if let Cut::Lan(host) = cut {
            return self.set_link(host, UPLINK, false);
        }
        for (host, what) in rules(cut) {
            let rule = format!("add rule inet {TABLE} arriving {what} drop");
            nft(self.name(host), &rule).expect("the table was made with the hosts");
        }
    }

    /// What was cut is whole again; other cuts stay.
    pub fn mend(&self, cut: Cut) {
        if let Cut::Lan(host) = cut {
            return self.set_link(host, UPLINK, true);
        }
        for (host, what) in rules(cut) {
            remove(self.name(host), &what);
        }
    }

    /// Nothing is cut any more.
    pub fn heal(&self) {
        for host in ["a", "b", "arbiter"] {
            let flush = format!("flush chain inet {TABLE} arriving");
            nft(self.name(host), &flush).expect("the table was made with the hosts");
        }
        for host in ["a", "b"] {
            self.set_link(host, UPLINK, true);
        }
    }
}

/// What is dropped for a cut, and on which host.
fn rules(cut: Cut) -> Vec<(&'static str, String)> {
    let arriving = |way: Way| match way {
        Way::Both => vec!["a", "b"],
        Way::FromAToB => vec!["b"],
        Way::FromBToA => vec!["a"],
    };
    let on_the_wire = |way: Way, protocol: &str| {
        arriving(way).into_iter().map(|host| (host, format!("iifname \"{WIRE}\"{protocol}"))).collect()
    };
    match cut {
        Cut::Log(way) => on_the_wire(way, " meta l4proto tcp"),
        Cut::Heartbeat(way) => on_the_wire(way, " meta l4proto udp"),
        Cut::Replication(way) => on_the_wire(way, ""),
        Cut::Arbiter(host) => {
            let address = ADDRESSES_FOR_ARBITER[usize::from(host == "b")];
            vec![(host, format!("iifname \"{TO_ARBITER}\"")), ("arbiter", format!("ip saddr {address}"))]
        }
        Cut::Lan(_) => Vec::new(),
    }
}

/// Removes the rules with these words.
fn remove(namespace: &str, what: &str) {
    let listed = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-a", "list", "chain", "inet", TABLE, "arriving"])
        .stdin(Stdio::null())
        .output()
        .expect("ip is there: the hosts were made with it");
    let wanted = format!("{what} drop");
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        if let Some((rule, handle)) = line.split_once(" # handle ")
            && rule.trim() == wanted
        {
            let delete = format!("delete rule inet {TABLE} arriving handle {handle}");
            nft(namespace, &delete).expect("the rule is there");
        }
    }
}

fn nft(namespace: &str, command: &str) -> Result<(), String> {
    run("ip", &["netns", "exec", namespace, "nft", command])
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(150);

    /// Whether a datagram comes through from one host to another, and whether a connection does.
    fn hears(hosts: &Hosts, [from, to]: [&str; 2], address: &str) -> (bool, bool) {
        let at: SocketAddr = format!("{address}:9000").parse().expect("an address");
        let (listener, listens) =
            hosts.within(to, || (TcpListener::bind(at).expect("free"), UdpSocket::bind(at).expect("free")));
        listens.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        let connected = hosts.within(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("any port");
            // What arrives or not is asked at the other end.
            let _ = socket.send_to(b"x", at);
            TcpStream::connect_timeout(&at, PATIENCE).is_ok()
        });
        drop(listener);
        (listens.recv(&mut [0; 8]).is_ok(), connected)
    }

    #[test]
    fn each_cut_stops_what_it_names_and_nothing_else() {
        let hosts = match Hosts::with_lan() {
            Ok(hosts) => hosts,
            Err(reason) => return println!("not run: {reason}"),
        };
        let [a, b] = crate::hosts::ADDRESSES;
        let arbiter = crate::hosts::ARBITER;
        let all = |hosts: &Hosts| {
            [
                hears(hosts, ["a", "b"], b),
                hears(hosts, ["b", "a"], a),
                hears(hosts, ["a", "arbiter"], arbiter),
                hears(hosts, ["b", "arbiter"], arbiter),
            ]
        };
        let (yes, no) = ((true, true), (false, false));
        assert_eq!(all(&hosts), [yes; 4]);
        for (cut, expected) in [
            (Cut::Log(Way::Both), [(true, false), (true, false), yes, yes]),
            (Cut::Heartbeat(Way::Both), [(false, true), (false, true), yes, yes]),
            (Cut::Heartbeat(Way::FromAToB), [(false, true), yes, yes, yes]),
            (Cut::Replication(Way::Both), [no, no, yes, yes]),
            // A connection takes both ways.
            (Cut::Replication(Way::FromAToB), [no, (true, false), yes, yes]),
            (Cut::Replication(Way::FromBToA), [(true, false), no, yes, yes]),
            (Cut::Arbiter("a"), [yes, yes, no, yes]),
            (Cut::Arbiter("b"), [yes, yes, yes, no]),
        ] {
            hosts.cut(cut);
            assert_eq!(all(&hosts), expected, "{cut:?}");
            hosts.heal();
        }
        hosts.cut(Cut::Log(Way::Both));
        hosts.cut(Cut::Replication(Way::FromAToB));
        hosts.cut(Cut::Arbiter("b"));
        hosts.mend(Cut::Replication(Way::FromAToB));
        hosts.mend(Cut::Arbiter("b"));
        assert_eq!(all(&hosts), [(true, false), (true, false), yes, yes], "one of three is left");
        hosts.heal();
        hosts.cut(Cut::Lan("a"));
        hosts.heal();
        assert_eq!(all(&hosts), [yes; 4]);
    }
}
