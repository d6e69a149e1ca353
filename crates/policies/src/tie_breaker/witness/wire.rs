//! What replicas and the witness say to each other: one line of JSON each way, at most [`MAX_LINE`] bytes with its newline.
//!
//! ```text
//! {"version":2,"pair":"0000000000000000000000000000abcd","ask":"read"}
//! {"version":2,"pair":"0000000000000000000000000000abcd","ask":{"advance":{"from":2,"replica":"a","incarnation":"00000000000000f1","config":"0000000000000000000000000000c0de"}}}
//! {"version":2,"pair":"0000000000000000000000000000abcd","state":{"generation":3,"replica":"a","incarnation":"00000000000000f1","config":"0000000000000000000000000000c0de"}}
//! {"version":2,"unavailable":"writing /var/lib/ft-vm/witness: No space left on device (os error 28)"}
//! {"version":2,"refused":"this is not a request: expected value at line 1 column 1"}
//! ```
//!
//! The answer to every request is the state *after* it; whether an ask was won follows from that state ([`answer`](crate::tie_breaker::answer)), so a
//! reply cannot contradict itself, and the same request has the same answer however often it is sent.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::ReplicaId;
use crate::tie_breaker::{RegisterState, Who};

/// The version of these lines.
pub const VERSION: u64 = 2;
/// The longest line, with its newline.
pub const MAX_LINE: usize = 4096;
/// How much of a reason is told: even if every character must be escaped it fits into a line.
const MAX_REASON: usize = 500;

/// What a replica wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The pair whose register it is about.
    pub pair: u128,
    /// What is wanted of it.
    pub ask: Ask,
}

/// What is wanted of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Its state.
    Read,
    /// Generation `from + 1`, for `who`.
    Advance {
        /// The generation that the asker knows; never the last one there is.
        from: u64,
        /// The asker.
        who: Who,
    },
}

/// What the witness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The register after the request, durably.
    State {
        /// The pair of the request.
        pair: u128,
        /// Its register.
        state: RegisterState,
    },
    /// The request was understood and could not be carried out; nothing has changed.
    Unavailable(String),
    /// This was no request.
    Refused(String),
}

/// Why a line could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Another version.
    #[error("it speaks version {theirs} of the witness protocol, this ft-vm speaks version {VERSION}")]
    Version {
        /// The version in the line.
        theirs: u64,
    },
    /// No such line.
    #[error("this is not {expected}: {reason}")]
    Malformed {
        /// What was expected.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Request {
    /// The line, with its newline.
    pub fn encode(&self) -> String {
        let ask = match self.ask {
            Ask::Read => AskLine::Read,
            Ask::Advance { from, who } => AskLine::Advance(AdvanceLine {
                from,
                replica: who.replica,
                incarnation: Hex(who.incarnation),
                config: Hex(who.config),
            }),
        };
        line(&RequestLine { version: VERSION, pair: Hex(self.pair), ask })
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// Whatever is not exactly a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let expected = "a request";
        let line: RequestLine = decode(bytes, expected)?;
        let ask = match line.ask {
            AskLine::Read => Ask::Read,
            AskLine::Advance(AdvanceLine { from: u64::MAX, .. }) => {
                let reason = "there is no generation after the last one".into();
                return Err(WireError::Malformed { expected, reason });
            }
            AskLine::Advance(AdvanceLine { from, replica, incarnation, config }) => {
                Ask::Advance { from, who: Who { replica, incarnation: incarnation.0, config: config.0 } }
            }
        };
        Ok(Self { pair: line.pair.0, ask })
    }
}

impl Reply {
    /// The line, with its newline; of a long reason the beginning.
    pub fn encode(&self) -> String {
        let version = VERSION;
        let short = |reason: &str| Some(reason.chars().take(MAX_REASON).collect::<String>());
        let nothing = ReplyLine { version, pair: None, state: None, unavailable: None, refused: None };
        line(&match self {
            Self::State { pair, state } => {
                let holder = state.holder;
                let state = StateLine {
                    generation: state.generation,
                    replica: holder.map(|who| who.replica),
                    incarnation: holder.map(|who| Hex(who.incarnation)),
                    config: holder.map(|who| Hex(who.config)),
                };
                ReplyLine { pair: Some(Hex(*pair)), state: Some(state), ..nothing }
            }
            Self::Unavailable(reason) => ReplyLine { unavailable: short(reason), ..nothing },
            Self::Refused(reason) => ReplyLine { refused: short(reason), ..nothing },
        })
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// Whatever is not exactly a reply.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let expected = "a reply";
        let malformed = |reason: &str| WireError::Malformed { expected, reason: reason.into() };
        let line: ReplyLine = decode(bytes, expected)?;
        match line {
            ReplyLine { pair: Some(pair), state: Some(state), unavailable: None, refused: None, .. } => {
                let holder = match (state.generation, state.replica, state.incarnation, state.config) {
                    (0, None, None, None) => None,
                    (1.., Some(replica), Some(incarnation), Some(config)) => {
                        Some(Who { replica, incarnation: incarnation.0, config: config.0 })
                    }
                    (0, ..) => return Err(malformed("nobody can hold generation 0")),
                    _ => return Err(malformed("somebody must hold the generation")),
                };
                let state = RegisterState { generation: state.generation, holder };
                Ok(Self::State { pair: pair.0, state })
            }
            ReplyLine { pair: None, state: None, unavailable: Some(reason), refused: None, .. } => {
                Ok(Self::Unavailable(reason))
            }
            ReplyLine { pair: None, state: None, unavailable: None, refused: Some(reason), .. } => {
                Ok(Self::Refused(reason))
            }
            _ => Err(malformed("it is neither a state nor a reason, or both")),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    version: u64,
    pair: Hex<u128>,
    ask: AskLine,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AskLine {
    Read,
    Advance(AdvanceLine),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdvanceLine {
    from: u64,
    replica: ReplicaId,
    incarnation: Hex<u64>,
    config: Hex<u128>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyLine {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<Hex<u128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateLine {
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<ReplicaId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<Hex<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Hex<u128>>,
}

/// What every version's line has, so that another version is called that and not rubbish.
#[derive(Deserialize)]
struct AnyVersion {
    version: u64,
}

fn line(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("these types can always be written");
    text.push('\n');
    debug_assert!(text.len() <= MAX_LINE, "{} bytes", text.len());
    text
}

fn decode<'b, T: Deserialize<'b>>(bytes: &'b [u8], expected: &'static str) -> Result<T, WireError> {
    let malformed = |reason: String| WireError::Malformed { expected, reason };
    if bytes.len() > MAX_LINE {
        return Err(malformed(format!("it has more than {MAX_LINE} bytes")));
    }
    let AnyVersion { version } =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if version != VERSION {
        return Err(WireError::Version { theirs: version });
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))
}

/// A number of all its hexadecimal digits: JSON readers elsewhere may take a large number for a float.
#[derive(Clone, Copy)]
struct Hex<T>(T);

macro_rules! hex {
    ($($number:ty)*) => { $(
        impl Serialize for Hex<$number> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("{:0width$x}", self.0, width = size_of::<$number>() * 2))
            }
        }
        impl<'de> Deserialize<'de> for Hex<$number> {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Digits;
                impl serde::de::Visitor<'_> for Digits {
                    type Value = $number;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} hexadecimal digits", size_of::<$number>() * 2)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$number, E> {
                        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
                        let whole = text.len() == size_of::<$number>() * 2 && text.bytes().all(digit);
                        whole
                            .then(|| <$number>::from_str_radix(text, 16).ok())
                            .flatten()
                            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                    }
                }
                deserializer.deserialize_str(Digits).map(Self)
            }
        }
    )* };
}
hex!(u64 u128);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who() -> impl Strategy<Value = Who> {
        (any::<bool>(), any::<u64>(), any::<u128>()).prop_map(|(a, incarnation, config)| Who {
            replica: if a { ReplicaId::A } else { ReplicaId::B },
            incarnation,
            config,
        })
    }

    fn request() -> impl Strategy<Value = Request> {
        (any::<u128>(), prop::option::of((0..u64::MAX, who()))).prop_map(|(pair, advance)| Request {
            pair,
            ask: advance.map_or(Ask::Read, |(from, who)| Ask::Advance { from, who }),
        })
    }

    fn reply() -> impl Strategy<Value = Reply> {
        prop_oneof![
            (any::<u128>(), prop::option::of((1u64.., who()))).prop_map(|(pair, held)| Reply::State {
                pair,
                state: RegisterState {
                    generation: held.map_or(0, |(generation, _)| generation),
                    holder: held.map(|(_, who)| who),
                },
            }),
            ".{0,500}".prop_map(Reply::Unavailable),
            ".{0,500}".prop_map(Reply::Refused),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(request in request()) {
            let line = request.encode();
            prop_assert!(line.len() <= MAX_LINE && line.ends_with('\n') && line.matches('\n').count() == 1);
            prop_assert_eq!(Request::decode(line.as_bytes()), Ok(request));
        }

        #[test]
        fn replies_come_back(reply in reply()) {
            let line = reply.encode();
            prop_assert!(line.len() <= MAX_LINE && line.ends_with('\n') && line.matches('\n').count() == 1);
            prop_assert_eq!(Reply::decode(line.as_bytes()), Ok(reply));
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(Request::decode(&bytes).is_err());
            prop_assert!(Reply::decode(&bytes).is_err());
        }

        /// A changed line is an error or another line, and never a panic.
        #[test]
        fn any_change_is_no_panic(request in request(), reply in reply(), at: prop::sample::Index, to: u8) {
            for line in [request.encode(), reply.encode()] {
                let mut bytes = line.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = to;
                if let Ok(request) = Request::decode(&bytes) {
                    prop_assert_eq!(Request::decode(request.encode().as_bytes()), Ok(request));
                }
                let _ = Reply::decode(&bytes);
            }
        }

        #[test]
        fn a_request_is_no_reply(request in request(), reply in reply()) {
            prop_assert!(Reply::decode(request.encode().as_bytes()).is_err());
            prop_assert!(Request::decode(reply.encode().as_bytes()).is_err());
        }
    }

    #[test]
    fn the_longest_reasons_are_cut_to_fit() {
        for reason in ["\u{1}".repeat(5000), "\u{1F600}".repeat(5000), "\\".repeat(5000)] {
            let line = Reply::Unavailable(reason.clone()).encode();
            assert!(line.len() <= MAX_LINE);
            let Ok(Reply::Unavailable(told)) = Reply::decode(line.as_bytes()) else { panic!("{line}") };
            assert!(reason.starts_with(&told) && !told.is_empty());
        }
    }

    #[test]
    fn refused_by_name() {
        let pair = "\"pair\":\"0000000000000000000000000000abcd\"";
        let says = |line: &str| Request::decode(line.as_bytes()).unwrap_err().to_string();
        for (line, word) in [
            (String::new(), "EOF"),
            ("[]".into(), "not a request"),
            (format!("{{{pair},\"ask\":\"read\"}}"), "version"),
            (format!("{{\"version\":3,{pair},\"wish\":\"read\"}}"), "it speaks version 3"),
            (format!("{{\"version\":2,{pair},\"ask\":\"write\"}}"), "write"),
            (format!("{{\"version\":2,{pair},\"ask\":\"read\",\"extra\":1}}"), "extra"),
            (format!("{{\"version\":2,{pair},{pair},\"ask\":\"read\"}}"), "duplicate"),
            ("{\"version\":2,\"pair\":\"ABCD\",\"ask\":\"read\"}".into(), "32 hexadecimal digits"),
            (
                format!(
                    "{{\"version\":2,{pair},\"ask\":{{\"advance\":{{\"from\":18446744073709551615,\"replica\":\"a\",\
                     \"incarnation\":\"0000000000000001\",\"config\":\"{:032x}\"}}}}}}",
                    1
                ),
                "after the last one",
            ),
            (format!("{{\"version\":2,{pair},\"ask\":\"read\"}} {{}}"), "trailing"),
            ("[".repeat(4000), "not a request"),
            (" ".repeat(5000), "more than 4096 bytes"),
        ] {
            assert!(says(&line).contains(word), "{line}: {}", says(&line));
        }
    }
}
