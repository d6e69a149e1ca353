//! The tie-breaker of a stage: out of reach for one host, or standing still.

use ft_e2e::{Bed, Cut, Settings, TieBreaker, Views};

/// How it is got at.
pub(crate) enum Arbiter {
    /// A folder that each host sees over a file system of its own.
    Folder(Views),
    /// A server on a third host.
    Witness,
    /// An etcd there.
    Etcd,
    /// A person.
    Person,
}

impl Arbiter {
    pub(crate) fn new(bed: &Bed, settings: &Settings) -> Result<Self, String> {
        Ok(match settings.tie_breaker {
            TieBreaker::SharedDisk => Self::Folder(Views::new(&bed.path().join("generation"))?),
            TieBreaker::Witness => Self::Witness,
            TieBreaker::Etcd { .. } => Self::Etcd,
            TieBreaker::Manual => Self::Person,
        })
    }

    /// What a replica is told of it, besides the config.
    pub(crate) fn sets(&self, replica: &str) -> Vec<String> {
        match self {
            Self::Folder(views) => {
                vec![
                    "--set".into(),
                    format!("tie-breaker.shared-disk.path=\"{}\"", views.of(replica).display()),
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The way from a host to it is cut.
    pub(crate) fn cut_off(&self, bed: &Bed, host: &'static str) {
        match self {
            Self::Folder(views) => views.freeze(host),
            Self::Witness | Self::Etcd => bed.hosts().cut(Cut::Arbiter(host)),
            Self::Person => unreachable!("a person is not on a network"),
        }
    }

    /// That way is there again.
    pub(crate) fn bring_back(&self, bed: &Bed, host: &'static str) {
        match self {
            Self::Folder(views) => views.thaw(host),
            Self::Witness | Self::Etcd => bed.hosts().mend(Cut::Arbiter(host)),
            Self::Person => unreachable!("a person is not on a network"),
        }
    }

    /// It stands still, with what is asked of it.
    pub(crate) fn freeze(&self, bed: &mut Bed) {
        match self {
            Self::Folder(views) => ["a", "b"].into_iter().for_each(|host| views.freeze(host)),
            Self::Witness => bed.witness().freeze(),
            Self::Etcd => bed.etcd().freeze(0),
            Self::Person => unreachable!("a person does not hang"),
        }
    }

    /// Nothing of it stands still any more.
    pub(crate) fn restore(&self, bed: &mut Bed) {
        if !matches!(self, Self::Person) {
            self.thaw(bed);
        }
    }

    /// It goes on with it.
    pub(crate) fn thaw(&self, bed: &mut Bed) {
        match self {
            Self::Folder(views) => ["a", "b"].into_iter().for_each(|host| views.thaw(host)),
            Self::Witness => bed.witness().thaw(),
            Self::Etcd => bed.etcd().thaw(0),
            Self::Person => unreachable!("a person does not hang"),
        }
    }
}
