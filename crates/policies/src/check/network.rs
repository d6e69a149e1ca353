//! What `[replicas]` and `[[net]]` mean: whether the pair is on one machine or two, and that no two things listen at one place.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Check;
use crate::config::{Net, NetBackend, Replicas};
use crate::key::Key;
use crate::schema::At;
use crate::schema::tables::{self, DEFAULT_START_ALONE};
use crate::schema::values::{Address, NonEmpty};
use crate::tie_breaker::etcd;
use crate::tie_breaker::witness;
use crate::units::Time;

const MAX_START_ALONE: Time = Time(3600 * 1_000_000_000);
/// Locally administered, unicast: the first of the addresses that are given where the file gives none.
const FIRST_MAC: [u8; 6] = [0x02, 0x66, 0x74, 0x76, 0x6d, 0x00];
/// The address of an interface on a network that is the pair's own.
fn given_mac(index: usize) -> [u8; 6] {
    let mut mac = FIRST_MAC;
    mac[5] = u8::try_from(index).unwrap_or(u8::MAX);
    mac
}

/// The address of an interface on a network where other pairs may be: both replicas find the same one.
fn named_mac(vm: &str, index: usize) -> [u8; 6] {
    let name = xxhash_rust::xxh3::xxh3_64(format!("ft-vm mac {index} {vm}").as_bytes());
    let [a, b, c, ..] = name.to_le_bytes();
    [FIRST_MAC[0], FIRST_MAC[1], FIRST_MAC[2], a, b, c]
}

/// What stands for an address whose absence or refusal is already reported.
pub(crate) const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Where the two replicas run, by their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Both on this machine.
    One,
    /// Each on its own; the place of an address that says so.
    Two(Range<usize>),
    /// What there is does not say, and that is already reported.
    Unknown,
}

/// A tie-breaker on the network.
pub(super) struct Places {
    /// What is at each address.
    pub(super) what: &'static str,
    /// One of them, where each replica would have its own.
    pub(super) one: &'static str,
    /// What to do instead.
    pub(super) advice: &'static str,
    pub(super) addresses: Vec<At<Address>>,
}

impl Check {
    /// Where the two replicas run.
    pub(super) fn hosts(&mut self, table: &tables::Replicas) -> Hosts {
        let (Some(a), Some(b)) = (&table.a, &table.b) else { return Hosts::Unknown };
        let (Some(for_a), Some(for_b)) = (self.reachable(a), self.reachable(b)) else {
            return Hosts::Unknown;
        };
        match (for_a.ip().is_loopback(), for_b.ip().is_loopback()) {
            (true, true) => Hosts::One,
            (false, false) => Hosts::Two(a.span()),
            (a_is_here, _) => {
                let (here, there) = if a_is_here { (a, b) } else { (b, a) };
                self.error_with(
                    here.span(),
                    "a loopback address cannot be reached from another host",
                    "an address of one machine only",
                    "for a pair on one machine both addresses are loopback, for one on two hosts neither is",
                    (there.span(), "the other replica is on another host".into()),
                );
                Hosts::Unknown
            }
        }
    }

    /// An address that others can connect to. Names are not looked up: a look-up may hang, and may mean another place on the
    /// other host or at the next start.
    pub(super) fn reachable(&mut self, at: &At<Address>) -> Option<SocketAddr> {
        let Some(address) = at.socket() else {
            let help = format!(
                "names are not looked up, so that both replicas mean the same place at any time: for example \"192.0.2.1:{}\"",
                at.port
            );
            self.error(at.span(), format!("`{}` is a name", at.host), "an IP address is needed", help);
            return None;
        };
        let ip = address.ip();
        let what = match ip {
            _ if ip.is_unspecified() => "it stands for every address of a host, and is none",
            _ if ip.is_multicast() => "a multicast address",
            IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
            _ => return Some(address),
        };
        let help = "the address of one interface, such as \"192.0.2.1:7001\", or a loopback address for a pair on one machine";
        self.error(at.span(), format!("nobody can connect to {ip}"), what, help);
        None
    }

    /// Whether a tie-breaker on the network is one place for both replicas.
    pub(super) fn tie_breaker(&mut self, places: &Places, hosts: &Hosts) {
        for at in &places.addresses {
            if let Some(address) = self.reachable(at)
                && let Hosts::Two(elsewhere) = hosts
                && address.ip().is_loopback()
            {
                let Places { what, one, advice, .. } = places;
                self.error_with(
                    at.span(),
                    format!("{what} of a pair on two hosts cannot be at a loopback address"),
                    "on each host this is another place",
                    format!(
                        "each replica would ask {one} of its own, and both would be told to go on: {advice}"
                    ),
                    (elsewhere.clone(), "this replica is on another host".into()),
                );
            }
        }
    }

    /// What the endpoints of an etcd are, each once.
    pub(super) fn etcd(&mut self, table: &etcd::Table) -> Vec<At<Address>> {
        let Some(list) = &table.endpoints else { return Vec::new() };
        let mut found: Vec<At<Address>> = Vec::new();
        for at in list.iter() {
            match found.iter().find(|earlier| at.socket().is_some() && earlier.socket() == at.socket()) {
                Some(earlier) => self.error_with(
                    at.span(),
                    "this endpoint is given twice",
                    "",
                    "name each member of the cluster once",
                    (earlier.span(), "here it is too".into()),
                ),
                None => found.push(at.clone()),
            }
        }
        // What is no address is reported and gone.
        let none = list.is_empty() && !self.dropped("tie-breaker.etcd.endpoints");
        if none || list.len() > etcd::MAX_ENDPOINTS {
            self.error(
                list.span(),
                format!("an etcd has from 1 to {} endpoints", etcd::MAX_ENDPOINTS),
                format!("there are {}", list.len()),
                "give the addresses at which the members of one cluster serve clients, such as [\"192.0.2.3:2379\", \
                 \"192.0.2.4:2379\", \"192.0.2.5:2379\"]",
            );
        }
        found
    }

    /// The key of the pair at its witness. It may be missing only where nobody else can reach the witness.
    pub(crate) fn witness_key(&mut self, table: &witness::Table) -> Option<Key> {
        if let Some(at) = &table.key {
            let what = "it is the secret that this pair shares with its witness, in a file of its own for each replica";
            return self.key(at, what);
        }
        if let Some(at) = &table.address
            && at.socket().is_some_and(|address| !address.ip().is_loopback())
            && !self.dropped("tie-breaker.witness")
        {
            self.error(
                at.span(),
                "a witness that others can reach needs a key",
                "without one, whoever reaches it could take a generation",
                "make one with `ft-vm key pair.key`, give each replica a copy, put its line into the witness's --keys file, and \
                 add key = \"pair.key\" here",
            );
        }
        None
    }

    /// The key in a file that was named.
    fn key(&mut self, at: &At<NonEmpty>, what: &str) -> Option<Key> {
        match Key::load(&self.path(at)) {
            Ok(key) => Some(key),
            Err(error) => {
                self.error(at.span(), "this key cannot be used", error.to_string(), what);
                None
            }
        }
    }

    pub(super) fn replicas(&mut self, table: tables::Replicas) -> Replicas {
        let tables::Replicas { a, b, start_alone, key, rejoin } = table;
        let key = key.and_then(|at| {
            self.key(
                &at,
                "it is the secret by which the two replicas know each other: each has a file with it",
            )
        });
        if let Some(at) = &rejoin {
            self.unavailable_at(at.span(), "replicas.rejoin", "leave it out");
        }
        self.range(start_alone.as_ref(), "start-alone", Time(0), MAX_START_ALONE);
        Replicas {
            a: a.and_then(|at| at.socket()).unwrap_or(NO_ADDRESS),
            b: b.and_then(|at| at.socket()).unwrap_or(NO_ADDRESS),
            start_alone: self.or_default(start_alone.as_ref(), DEFAULT_START_ALONE, Time::parse),
            key,
        }
    }

    pub(super) fn nets(&mut self, tables: Vec<At<tables::Net>>, hosts: &Hosts, vm: &str) -> Vec<Net> {
        let mut nets = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            if index == 1 {
                self.unavailable_at(table.span(), "a second [[net]]", "leave one [[net]]");
            }
            let tables::Net { mac, user, tap } = table.into_inner();
            if let (Some(at), Hosts::Two(elsewhere)) = (&user, hosts) {
                self.error_with(
                    at.span(),
                    "[net.user] cannot go with a pair on two hosts",
                    "this network is inside the launcher of one machine",
                    "after a failover the guest's connections have to move to the other host: use [net.tap], leave [[net]] out, or \
                     run the pair on one machine",
                    (elsewhere.clone(), "this replica is on another host".into()),
                );
            }
            let given = if tap.is_some() { named_mac(vm, index) } else { given_mac(index) };
            let backend = match tap {
                Some(table) => NetBackend::Tap {
                    interface: table.into_inner().interface.map(|at| at.into_inner().0).unwrap_or_default(),
                },
                None => {
                    let forward = user.and_then(|at| at.into_inner().forward).unwrap_or_default();
                    NetBackend::User { forward: forward.into_iter().map(At::into_inner).collect() }
                }
            };
            nets.push(Net { mac: mac.map_or(given, |at| at.0), backend });
        }
        nets
    }

    /// Refuses two listeners at one place.
    pub(super) fn ports(
        &mut self,
        replicas: &tables::Replicas,
        tie_breaker: Option<&Places>,
        nets: &[At<tables::Net>],
    ) {
        let mut taken: Vec<(SocketAddr, Range<usize>, String)> = Vec::new();
        let replicas = [(replicas.a.as_ref(), "replica a"), (replicas.b.as_ref(), "replica b")];
        let replicas = replicas.into_iter().filter_map(|(at, name)| Some((at?, name)));
        let places = tie_breaker.into_iter().flat_map(|places| {
            let named = |at| (at, places.what);
            // One at every address is refused as none.
            let one = |at: &&At<Address>| at.socket().is_some_and(|address| !address.ip().is_unspecified());
            places.addresses.iter().filter(one).map(named)
        });
        for (at, name) in replicas.chain(places) {
            if let Some(address) = at.socket() {
                taken.push((address, at.span(), name.to_owned()));
            }
        }
        for at in nets.iter().filter_map(|net| net.user.as_ref()?.forward.as_ref()).flatten() {
            taken.push((at.listen, at.span(), "a forwarded port".to_owned()));
        }
        for (index, (address, span, what)) in taken.iter().enumerate() {
            let clash = |(other, ..): &&(SocketAddr, Range<usize>, String)| {
                let everywhere = other.ip().is_unspecified() || address.ip().is_unspecified();
                other.port() == address.port() && (everywhere || other.ip() == address.ip())
            };
            if let Some((_, earlier, other)) = taken[..index].iter().find(clash) {
                self.error_with(
                    span.clone(),
                    format!("{what} and {other} listen at the same place"),
                    "taken",
                    "give each a port of its own",
                    (earlier.clone(), format!("{other} listens here")),
                );
            }
        }
    }
}
