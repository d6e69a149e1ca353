//! What `[replicas]` and `[[net]]` mean, and that no two things listen at one place.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Check;
use crate::config::{Net, NetBackend, Replicas};
use crate::schema::At;
use crate::schema::tables::{self, DEFAULT_START_ALONE};
use crate::schema::values::Address;
use crate::units::Time;

const MAX_START_ALONE: Time = Time(3600 * 1_000_000_000);
/// Locally administered, unicast: the addresses that are given where the file gives none.
const FIRST_MAC: [u8; 6] = [0x02, 0x66, 0x74, 0x76, 0x6d, 0x00];
/// What stands for an address whose absence or refusal is already reported.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

impl Check {
    pub(super) fn replicas(&mut self, table: tables::Replicas) -> Replicas {
        let tables::Replicas { a, b, start_alone, rejoin } = table;
        if let Some(at) = &rejoin {
            self.unavailable_at(at.span(), "replicas.rejoin", "leave it out");
        }
        self.range(start_alone.as_ref(), "start-alone", Time(0), MAX_START_ALONE);
        Replicas {
            a: a.map_or(NO_ADDRESS, |at| self.here(&at)),
            b: b.map_or(NO_ADDRESS, |at| self.here(&at)),
            start_alone: self.or_default(start_alone.as_ref(), DEFAULT_START_ALONE, Time::parse),
        }
    }

    /// An address on this machine.
    fn here(&mut self, at: &At<Address>) -> SocketAddr {
        match at.socket().filter(|address| address.ip().is_loopback()) {
            Some(address) => address,
            None => {
                let help = format!("use an address of this machine: \"127.0.0.1:{}\"", at.port);
                self.unavailable_at(
                    at.span(),
                    "a pair on two hosts (an address that is not loopback)",
                    &help,
                );
                NO_ADDRESS
            }
        }
    }

    pub(super) fn nets(&mut self, tables: Vec<At<tables::Net>>) -> Vec<Net> {
        let mut nets = Vec::new();
        for (index, table) in tables.into_iter().enumerate() {
            if index == 1 {
                self.unavailable_at(table.span(), "a second [[net]]", "leave one [[net]]");
            }
            let tables::Net { mac, user, tap } = table.into_inner();
            if let Some(at) = &tap {
                self.unavailable_at(at.span(), "[net.tap]", "use [net.user]");
            }
            let mut given = FIRST_MAC;
            given[5] = u8::try_from(index).unwrap_or(u8::MAX);
            let forward = user.unwrap_or_default().forward.unwrap_or_default();
            nets.push(Net {
                mac: mac.map_or(given, |at| at.0),
                backend: NetBackend::User { forward: forward.into_iter().map(At::into_inner).collect() },
            });
        }
        nets
    }

    /// Refuses two listeners at one place.
    pub(super) fn ports(&mut self, replicas: &tables::Replicas, nets: &[At<tables::Net>]) {
        let mut taken: Vec<(SocketAddr, Range<usize>, String)> = Vec::new();
        for (at, name) in [(&replicas.a, "replica a"), (&replicas.b, "replica b")] {
            if let Some(at) = at
                && let Some(address) = at.socket()
            {
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
