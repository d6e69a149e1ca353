//! Values that are written as text with a form of their own: sizes, times, addresses, names.
//!
//! Each says its form three times over, for three readers: as a regular expression in the JSON schema (editors), in words
//! (help lines), and as a parser whose error names what is wrong with the text at hand.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::Forward;
use crate::units::{SIZE_FORM, SIZE_PATTERN, Size, TIME_FORM, TIME_PATTERN, Time};

/// A value with a form of its own.
pub(crate) trait Text: Sized {
    /// Its name in the JSON schema's definitions.
    const NAME: &'static str;
    /// What it is, with its article: "a size".
    const WHAT: &'static str;
    /// Its form in words.
    const FORM: &'static str;
    /// Its form for editors; whatever parses must match.
    const PATTERN: &'static str;
    fn parse_text(text: &str) -> Result<Self, String>;
}

/// What the walk over a document needs to know of a [`Text`].
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) form: &'static str,
    pub(crate) check: fn(&str) -> Result<(), String>,
}

const fn form<T: Text>() -> Form {
    Form { name: T::NAME, what: T::WHAT, form: T::FORM, check: |text| T::parse_text(text).map(drop) }
}

/// A part of a whole, written as a number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 1, "description": "A number from 0 to 1." })
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // TOML tells 1 from 1.0, a person does not: an integer is a number too.
        struct Number;
        impl Visitor<'_> for Number {
            type Value = f64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1")
            }
            fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
                Ok(number)
            }
            fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
                // What rounding there is happens far out of range.
                Ok(number as f64)
            }
        }
        let number = deserializer.deserialize_any(Number)?;
        // No number at all is in no range.
        match (0.0..=1.0).contains(&number) {
            true => Ok(Self(number)),
            false => Err(D::Error::custom("not from 0 to 1")),
        }
    }
}

/// Every form, by its name in the schema's definitions.
pub(crate) const FORMS: &[Form] = &[
    form::<Size>(),
    form::<Time>(),
    form::<Address>(),
    form::<Forward>(),
    form::<Mac>(),
    form::<Name>(),
    form::<NonEmpty>(),
    form::<CommandLine>(),
    form::<Interface>(),
    form::<KeyPrefix>(),
];

/// `host:port`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// The socket address, where the host is an address rather than a name that has to be looked up.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(literal(&self.host)?, self.port))
    }
}

/// `localhost` counts as an address: it must not depend on a resolver.
fn literal(host: &str) -> Option<IpAddr> {
    if host == "localhost" {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

fn port(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{}` is not a port", text.escape_debug()));
    }
    match text.parse() {
        Ok(0) => Err("port 0 is no port that a peer could be told".into()),
        Ok(port) => Ok(port),
        Err(_) => Err("ports end at 65535".into()),
    }
}

/// A link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

/// A name that may stand in file names, messages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(pub(crate) String);

/// A path, or anything else that may not be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NonEmpty(pub(crate) String);

/// A kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandLine(pub(crate) String);

/// The name of a network interface of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface(pub(crate) String);
/// What the names of keys in a store of others begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPrefix(pub(crate) String);

impl Text for Size {
    const NAME: &'static str = "Size";
    const WHAT: &'static str = "a size";
    const FORM: &'static str = SIZE_FORM;
    const PATTERN: &'static str = SIZE_PATTERN;
    fn parse_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Text for Time {
    const NAME: &'static str = "Time";
    const WHAT: &'static str = "a time";
    const FORM: &'static str = TIME_FORM;
    const PATTERN: &'static str = TIME_PATTERN;
    fn parse_text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Text for Address {
    const NAME: &'static str = "Address";
    const WHAT: &'static str = "an address";
    const FORM: &'static str = "HOST:PORT, such as \"127.0.0.1:7001\" or \"[::1]:7001\"";
    const PATTERN: &'static str = r"^[^\s]+:[0-9]+$";
    fn parse_text(text: &str) -> Result<Self, String> {
        let (host, tail) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = port(tail)?;
        let named = !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        if literal(host).is_none() && !named {
            return Err(match host {
                "" => "the host is missing".into(),
                _ if host.contains(':') => "an IPv6 address stands in brackets: \"[::1]:7001\"".into(),
                _ => format!("`{}` is neither an address nor a host name", host.escape_debug()),
            });
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Text for Forward {
    const NAME: &'static str = "Forward";
    const WHAT: &'static str = "a forwarded port";
    const FORM: &'static str = "\"HOST-ADDRESS:PORT -> GUEST-PORT\", such as \"127.0.0.1:6379 -> 6379\"";
    const PATTERN: &'static str = r"^[^\s]+:[0-9]+ *-> *[0-9]+$";
    fn parse_text(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("->").ok_or("there is no `->`")?;
        let from = Address::parse_text(from.trim_end_matches(' '))?;
        let guest_port = port(to.trim_start_matches(' '))?;
        let listen =
            from.socket().ok_or_else(|| format!("`{}` is not an address of this host", from.host))?;
        Ok(Self { listen, guest_port })
    }
}

impl Text for Mac {
    const NAME: &'static str = "Mac";
    const WHAT: &'static str = "a link-layer address";
    const FORM: &'static str = "six pairs of hexadecimal digits, unicast, such as \"02:00:00:00:00:01\"";
    const PATTERN: &'static str = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$";
    fn parse_text(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        if parts.len() != 6 {
            return Err(format!("it has {} parts, not 6", parts.len()));
        }
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(parts) {
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("`{}` is not a pair of hexadecimal digits", part.escape_debug()));
            }
            *byte = u8::from_str_radix(part, 16).map_err(|error| error.to_string())?;
        }
        if mac[0] & 1 == 1 {
            return Err("this is a multicast address".into());
        }
        if mac == [0; 6] {
            return Err("this is nobody's address".into());
        }
        Ok(Self(mac))
    }
}

impl Text for Name {
    const NAME: &'static str = "Name";
    const WHAT: &'static str = "a name";
    const FORM: &'static str = "1 to 63 of a-z, 0-9 and -, beginning with a letter or digit, such as \"kv\"";
    const PATTERN: &'static str = "^[a-z0-9][a-z0-9-]{0,62}$";
    fn parse_text(text: &str) -> Result<Self, String> {
        match text
            .bytes()
            .position(|byte| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'))
        {
            _ if text.is_empty() => Err("it is empty".into()),
            Some(at) => Err(match text.get(at..).and_then(|rest| rest.chars().next()) {
                Some(other) => format!("`{}` may not stand in a name", other.escape_debug()),
                None => "it holds what may not stand in a name".into(),
            }),
            None if text.starts_with('-') => Err("it begins with `-`".into()),
            None if text.len() > 63 => Err(format!("it has {} characters", text.len())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl Text for NonEmpty {
    const NAME: &'static str = "NonEmpty";
    const WHAT: &'static str = "usable";
    const FORM: &'static str = "a text that is not empty";
    const PATTERN: &'static str = r"^[^\u0000]+$";
    fn parse_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".into()),
            _ if text.contains('\0') => Err("it holds a NUL character".into()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl Text for Interface {
    const NAME: &'static str = "Interface";
    const WHAT: &'static str = "the name of an interface";
    const FORM: &'static str =
        "1 to 15 printable ASCII characters without space, `/`, `:` and `%`, such as \"ft0\"";
    // That `.` and `..` are none is left to the parser.
    const PATTERN: &'static str = "^[!-$&-.0-9;-~]{1,15}$";
    fn parse_text(text: &str) -> Result<Self, String> {
        if let Some(other) = text.chars().find(|c| !('!'..='~').contains(c) || "/:%".contains(*c)) {
            return Err(format!("`{}` may not stand in an interface's name", other.escape_debug()));
        }
        match text {
            "" => Err("it is empty".into()),
            "." | ".." => Err("no interface may have that name".into()),
            _ if text.len() > 15 => Err(format!("it has {} characters", text.len())),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl Text for CommandLine {
    const NAME: &'static str = "CommandLine";
    const WHAT: &'static str = "a command line";
    const FORM: &'static str = "printable ASCII, at most 2047 characters";
    const PATTERN: &'static str = "^[ -~]{0,2047}$";
    fn parse_text(text: &str) -> Result<Self, String> {
        if let Some(other) = text.chars().find(|c| !(' '..='~').contains(c)) {
            return Err(format!("`{}` is not printable ASCII", other.escape_debug()));
        }
        if text.len() > 2047 {
            return Err(format!("it has {} characters", text.len()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Text for KeyPrefix {
    const NAME: &'static str = "KeyPrefix";
    const WHAT: &'static str = "a prefix";
    const FORM: &'static str = "1 to 128 of printable ASCII without spaces, such as \"/ft-vm/\"";
    const PATTERN: &'static str = "^[!-~]{1,128}$";
    fn parse_text(text: &str) -> Result<Self, String> {
        match text.chars().find(|c| !('!'..='~').contains(c)) {
            _ if text.is_empty() => Err("it is empty".into()),
            Some(other) => Err(format!("`{}` may not stand in a prefix", other.escape_debug())),
            None if text.len() > 128 => Err(format!("it has {} characters", text.len())),
            None => Ok(Self(text.to_owned())),
        }
    }
}

macro_rules! text_values {
    ($($value:ty $(, $deserialize:tt)?;)*) => { $(
        impl JsonSchema for $value {
            fn schema_name() -> Cow<'static, str> {
                <$value as Text>::NAME.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "pattern": <$value as Text>::PATTERN,
                    "description": format!("Written as {}.", <$value as Text>::FORM),
                })
            }
        }
        $(text_values!(@$deserialize $value);)?
    )* };
    (@read $value:ty) => {
        impl<'de> Deserialize<'de> for $value {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse_text(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}

text_values! {
    Size;
    Time;
    Address, read;
    Forward, read;
    Mac, read;
    Name, read;
    NonEmpty, read;
    CommandLine, read;
    Interface, read;
    KeyPrefix, read;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["127.0.0.1:7001", "[::1]:1", "localhost:65535", "b.example.org:7002"] {
            Address::parse_text(good).unwrap();
        }
        for bad in [
            "",
            ":1",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "::1:7",
            "a b:1",
            "h:+1",
            "[::1:7",
        ] {
            assert!(Address::parse_text(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Forward::parse_text("localhost:80->8080"),
            Ok(Forward { listen: "127.0.0.1:80".parse().unwrap(), guest_port: 8080 })
        );
        for bad in
            ["127.0.0.1:80", "127.0.0.1:80 -> ", "example.org:80 -> 80", "80 -> 80", "127.0.0.1:80 => 80"]
        {
            assert!(Forward::parse_text(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn macs_and_names() {
        assert_eq!(Mac::parse_text("02:00:00:0a:0B:ff"), Ok(Mac([2, 0, 0, 10, 11, 255])));
        for bad in [
            "",
            "02:00:00:00:00",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02:00:00:00:00:+1",
        ] {
            assert!(Mac::parse_text(bad).is_err(), "{bad}");
        }
        for bad in ["", "-a", "A", "a b", "é", &"a".repeat(64)] {
            assert!(Name::parse_text(bad).is_err(), "{bad}");
        }
        Name::parse_text(&"a".repeat(63)).unwrap();
        for bad in ["", ".", "..", "a/b", "a b", "a\t", "tap%d", "eth0:1", "é", &"a".repeat(16)] {
            assert!(Interface::parse_text(bad).is_err(), "{bad}");
        }
        for good in ["ft0", "...", "a.b-c_d", &"a".repeat(15)] {
            Interface::parse_text(good).unwrap();
        }
    }
}
