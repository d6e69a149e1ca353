//! What replicas and the witness say to each other: one line of JSON each way, at most [`MAX_LINE`] bytes with its newline.
//!
//! ```text
//! {"version":3,"pair":"0000000000000000000000000000abcd","nonce":"5eed...","ask":"read","tag":"9a1c..."}
//! {"version":3,"pair":"0000000000000000000000000000abcd","nonce":"5eee...","ask":{"advance":{"from":2,"replica":"a","incarnation":"00000000000000f1","config":"0000000000000000000000000000c0de"}},"tag":"77d0..."}
//! {"version":3,"pair":"0000000000000000000000000000abcd","state":{"generation":3,"replica":"a","incarnation":"00000000000000f1","config":"0000000000000000000000000000c0de"},"tag":"0b44..."}
//! {"version":3,"unavailable":"writing /var/lib/ft-vm/witness: No space left on device (os error 28)","tag":"52fe..."}
//! {"version":3,"denied":"it is not signed with a key that this witness has for this pair"}
//! {"version":3,"refused":"this is not a request: expected value at line 1 column 1"}
//! ```
//!
//! The answer to every request is the state *after* it; whether an ask was won follows from that state ([`answer`](crate::tie_breaker::answer)), so a
//! reply cannot contradict itself, and the same request has the same answer however often it is sent.
//!
//! # Who is believed
//!
//! With a [`Key`] the tag of a request is HMAC-SHA256 over everything in it: a text that says what it is, and each field
//! with a fixed width, not the JSON, so that there is one way to write what is signed. The tag of a reply is the same over *the
//! request's tag* and everything in the reply. What follows for somebody on the network who has no key:
//!
//! * *A request cannot be made or changed.* A recorded one can be sent again: a read changes nothing, and an advance is for one
//!   generation, which goes to the same asker or is past. One that was kept from the witness can be delivered late. That is
//!   what a slow network does, and why an ask binds its asker until it is answered; should the asker have died meanwhile, a
//!   generation is spent, and whoever asks for the next one goes on.
//! * *A reply cannot be made, changed, or told to anybody else.* It is bound to its request by that one's tag, and no two
//!   requests have the same one, for the random nonce is in it. An old reply, or another pair's, answers no other request.
//! * *A key of one pair is none of another.* The pair is in what is signed, and the witness tries only the keys that it has for
//!   that pair, or for every pair.
//! * *Nothing can be taken away.* A witness with keys carries out nothing that is not signed, and a replica with a key believes
//!   no state that is not. `denied`, `refused` and `unavailable` may come unsigned: the witness cannot sign for somebody
//!   whom it does not know. They are shown, and decide nothing: to whoever can forge them it is as good to let no line through.
//! * *Without keys on both sides* nothing is signed, and whoever reaches the witness can take a generation. That is for one
//!   machine, and so for a loopback address: `ft-vm check` and `ft-vm witness` refuse any other.
//!
//! Nothing is secret in a line, and none of it is hidden.

use serde::{Deserialize, Serialize};

use crate::config::ReplicaId;
use crate::hex::{Hex, Hex64, Hex128};
use crate::key::{Key, Tag, random};
use crate::tie_breaker::{RegisterState, Who};

/// The version of these lines.
pub const VERSION: u64 = 3;
/// The longest line, with its newline.
pub const MAX_LINE: usize = 4096;
/// How much of a reason is told: even if every character must be escaped it fits into a line.
const MAX_REASON: usize = 500;
/// What is signed begins with what it is, so that it is never taken for something else that a key signs.
const REQUEST: &[u8] = b"ft-vm witness 3 request\0";
const REPLY: &[u8] = b"ft-vm witness 3 reply\0";

/// What a replica wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The pair whose register it is about.
    pub pair: u128,
    /// Random, so that no other request is the same.
    pub nonce: u128,
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
    /// The request was understood, and whoever sent it may not ask.
    Denied(String),
    /// This was no request.
    Refused(String),
}

/// A line: what it says, and its tag if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T> {
    /// What it says.
    pub what: T,
    /// What it is signed with; not checked yet.
    pub tag: Option<Tag>,
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
    /// One with a nonce of its own.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new(pair: u128, ask: Ask) -> std::io::Result<Self> {
        let mut nonce = [0; 16];
        random(&mut nonce)?;
        Ok(Self { pair, nonce: u128::from_be_bytes(nonce), ask })
    }

    /// Its tag under a key.
    pub fn sign(&self, key: &Key) -> Tag {
        key.sign(&[REQUEST, &self.canonical()])
    }

    /// Whether this is its tag under that key.
    pub fn verify(&self, key: &Key, tag: &Tag) -> bool {
        key.verify(&[REQUEST, &self.canonical()], tag)
    }

    fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.pair.to_be_bytes());
        bytes.extend(self.nonce.to_be_bytes());
        match &self.ask {
            Ask::Read => bytes.push(0),
            Ask::Advance { from, who } => {
                bytes.push(1);
                bytes.extend(from.to_be_bytes());
                canonical_who(&mut bytes, who);
            }
        }
        bytes
    }

    /// The line, with its newline.
    pub fn encode(&self, tag: Option<Tag>) -> String {
        let ask = match self.ask {
            Ask::Read => AskLine::Read,
            Ask::Advance { from, who } => AskLine::Advance(AdvanceLine {
                from,
                replica: who.replica,
                incarnation: who.incarnation.into(),
                config: who.config.into(),
            }),
        };
        let (pair, nonce, tag) = (self.pair.into(), self.nonce.into(), tag.map(|tag| Hex(tag.0)));
        line(&RequestLine { version: VERSION, pair, nonce, ask, tag })
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// Whatever is not exactly a request.
    pub fn decode(bytes: &[u8]) -> Result<Said<Self>, WireError> {
        let expected = "a request";
        let line: RequestLine = decode(bytes, expected)?;
        let ask = match line.ask {
            AskLine::Read => Ask::Read,
            AskLine::Advance(AdvanceLine { from: u64::MAX, .. }) => {
                let reason = "there is no generation after the last one".into();
                return Err(WireError::Malformed { expected, reason });
            }
            AskLine::Advance(AdvanceLine { from, replica, incarnation, config }) => {
                let who = Who { replica, incarnation: incarnation.into(), config: config.into() };
                Ask::Advance { from, who }
            }
        };
        let what = Self { pair: line.pair.into(), nonce: line.nonce.into(), ask };
        Ok(Said { what, tag: line.tag.map(|tag| Tag(tag.0)) })
    }
}

impl Reply {
    /// As much of it as a line tells: of a long reason the beginning.
    #[must_use]
    pub fn shortened(self) -> Self {
        let short = |reason: String| match reason.char_indices().nth(MAX_REASON) {
            Some((end, _)) => reason[..end].to_owned(),
            None => reason,
        };
        match self {
            Self::State { .. } => self,
            Self::Unavailable(reason) => Self::Unavailable(short(reason)),
            Self::Denied(reason) => Self::Denied(short(reason)),
            Self::Refused(reason) => Self::Refused(short(reason)),
        }
    }

    /// Its tag under a key, as the reply to the request with that tag.
    pub fn sign(&self, key: &Key, request: &Tag) -> Tag {
        key.sign(&[REPLY, &request.0, &self.canonical()])
    }

    /// Whether this is its tag under that key, as the reply to that request.
    pub fn verify(&self, key: &Key, request: &Tag, tag: &Tag) -> bool {
        key.verify(&[REPLY, &request.0, &self.canonical()], tag)
    }

    fn canonical(&self) -> Vec<u8> {
        let reason = |kind: u8, reason: &str| [&[kind], reason.as_bytes()].concat();
        match self {
            Self::State { pair, state } => {
                let mut bytes = vec![0];
                bytes.extend(pair.to_be_bytes());
                bytes.extend(state.generation.to_be_bytes());
                // A holder has a width of its own: no two states have the same bytes.
                state.holder.iter().for_each(|who| canonical_who(&mut bytes, who));
                bytes
            }
            Self::Unavailable(text) => reason(1, text),
            Self::Denied(text) => reason(2, text),
            Self::Refused(text) => reason(3, text),
        }
    }

    /// The line of a [`Reply::shortened`] reply, with its newline.
    pub fn encode(&self, tag: Option<Tag>) -> String {
        let nothing = ReplyLine { version: VERSION, tag: tag.map(|tag| Hex(tag.0)), ..ReplyLine::default() };
        line(&match self.clone() {
            Self::State { pair, state } => {
                let holder = state.holder;
                let state = StateLine {
                    generation: state.generation,
                    replica: holder.map(|who| who.replica),
                    incarnation: holder.map(|who| who.incarnation.into()),
                    config: holder.map(|who| who.config.into()),
                };
                ReplyLine { pair: Some(pair.into()), state: Some(state), ..nothing }
            }
            Self::Unavailable(reason) => ReplyLine { unavailable: Some(reason), ..nothing },
            Self::Denied(reason) => ReplyLine { denied: Some(reason), ..nothing },
            Self::Refused(reason) => ReplyLine { refused: Some(reason), ..nothing },
        })
    }

    /// Reads a line, with or without its newline.
    ///
    /// # Errors
    /// Whatever is not exactly a reply.
    pub fn decode(bytes: &[u8]) -> Result<Said<Self>, WireError> {
        let expected = "a reply";
        let malformed = |reason: &str| WireError::Malformed { expected, reason: reason.into() };
        let ReplyLine { version: _, pair, state, unavailable, denied, refused, tag } =
            decode(bytes, expected)?;
        let what = match (pair, state, unavailable, denied, refused) {
            (Some(pair), Some(state), None, None, None) => {
                let holder = match (state.generation, state.replica, state.incarnation, state.config) {
                    (0, None, None, None) => None,
                    (1.., Some(replica), Some(incarnation), Some(config)) => {
                        Some(Who { replica, incarnation: incarnation.into(), config: config.into() })
                    }
                    (0, ..) => return Err(malformed("nobody can hold generation 0")),
                    _ => return Err(malformed("somebody must hold the generation")),
                };
                let state = RegisterState { generation: state.generation, holder };
                Self::State { pair: pair.into(), state }
            }
            (None, None, Some(reason), None, None) => Self::Unavailable(reason),
            (None, None, None, Some(reason), None) => Self::Denied(reason),
            (None, None, None, None, Some(reason)) => Self::Refused(reason),
            _ => return Err(malformed("it is neither a state nor a reason, or both")),
        };
        Ok(Said { what, tag: tag.map(|tag| Tag(tag.0)) })
    }
}

fn canonical_who(bytes: &mut Vec<u8>, who: &Who) {
    let Who { replica, incarnation, config } = who;
    bytes.push(match replica {
        ReplicaId::A => b'a',
        ReplicaId::B => b'b',
    });
    bytes.extend(incarnation.to_be_bytes());
    bytes.extend(config.to_be_bytes());
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestLine {
    version: u64,
    pair: Hex128,
    nonce: Hex128,
    ask: AskLine,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Hex<32>>,
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
    incarnation: Hex64,
    config: Hex128,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyLine {
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<Hex128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<StateLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    denied: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<Hex<32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateLine {
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<ReplicaId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incarnation: Option<Hex64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Hex128>,
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
        (any::<u128>(), any::<u128>(), prop::option::of((0..u64::MAX, who()))).prop_map(
            |(pair, nonce, advance)| Request {
                pair,
                nonce,
                ask: advance.map_or(Ask::Read, |(from, who)| Ask::Advance { from, who }),
            },
        )
    }

    fn key() -> impl Strategy<Value = Key> {
        any::<[u8; 32]>().prop_map(Key::of)
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
            ".{0,500}".prop_map(Reply::Denied),
            ".{0,500}".prop_map(Reply::Refused),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(request in request(), key in prop::option::of(key())) {
            let tag = key.map(|key| request.sign(&key));
            let line = request.encode(tag);
            prop_assert!(line.len() <= MAX_LINE && line.ends_with('\n') && line.matches('\n').count() == 1);
            prop_assert_eq!(Request::decode(line.as_bytes()), Ok(Said { what: request, tag }));
        }

        #[test]
        fn replies_come_back(reply in reply(), signed in prop::option::of((key(), request()))) {
            let tag = signed.map(|(key, request)| reply.sign(&key, &request.sign(&key)));
            let line = reply.encode(tag);
            prop_assert!(line.len() <= MAX_LINE && line.ends_with('\n') && line.matches('\n').count() == 1);
            prop_assert_eq!(Reply::decode(line.as_bytes()), Ok(Said { what: reply, tag }));
        }

        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(Request::decode(&bytes).is_err());
            prop_assert!(Reply::decode(&bytes).is_err());
        }

        /// A signed line that is changed anywhere is refused; the newline, and how a character of a reason is written, are
        /// not what it says.
        #[test]
        fn any_changed_byte_is_found(
            request in request(),
            reply in reply(),
            key in key(),
            at: prop::sample::Index,
            to: u8,
        ) {
            let tag = request.sign(&key);
            for (line, is_request) in
                [(request.encode(Some(tag)), true), (reply.encode(Some(reply.sign(&key, &tag))), false)]
            {
                let mut bytes = line.into_bytes();
                let at = at.index(bytes.len() - 1);
                prop_assume!(bytes[at] != to);
                bytes[at] = to;
                if is_request {
                    let verified = Request::decode(&bytes)
                        .is_ok_and(|said| said.tag.is_some_and(|tag| said.what.verify(&key, &tag)));
                    prop_assert!(!verified);
                } else if let Ok(Said { what, tag: Some(theirs) }) = Reply::decode(&bytes)
                    && what.verify(&key, &tag, &theirs)
                {
                    let is_state = matches!(reply, Reply::State { .. });
                    prop_assert!(!is_state);
                    prop_assert_eq!(&what, &reply);
                }
            }
        }

        /// Another key, another request, another kind of line: none of them has the same tag.
        #[test]
        fn a_tag_is_for_one_line_only(
            one in request(),
            other in request(),
            reply in reply(),
            key in key(),
            stranger in key(),
        ) {
            prop_assume!(one != other && key != stranger);
            let tag = one.sign(&key);
            prop_assert!(one.verify(&key, &tag));
            prop_assert!(!one.verify(&stranger, &tag) && !other.verify(&key, &tag));
            let answer = reply.sign(&key, &tag);
            prop_assert!(reply.verify(&key, &tag, &answer));
            prop_assert!(!reply.verify(&stranger, &tag, &answer));
            prop_assert!(!reply.verify(&key, &other.sign(&key), &answer), "an answer to something else");
            prop_assert!(!reply.verify(&key, &tag, &tag) && !one.verify(&key, &answer));
        }

        #[test]
        fn a_request_is_no_reply(request in request(), reply in reply()) {
            prop_assert!(Reply::decode(request.encode(None).as_bytes()).is_err());
            prop_assert!(Request::decode(reply.encode(None).as_bytes()).is_err());
        }
    }

    #[test]
    fn the_longest_reasons_are_cut_to_fit() {
        let tag = Key::of([1; 32]).sign(&[]);
        for reason in ["\u{1}".repeat(5000), "\u{1F600}".repeat(5000), "\\".repeat(5000)] {
            let reply = Reply::Unavailable(reason.clone()).shortened();
            let line = reply.encode(Some(tag));
            assert!(line.len() <= MAX_LINE);
            assert_eq!(Reply::decode(line.as_bytes()).unwrap().what, reply);
            let Reply::Unavailable(told) = reply else { panic!("{line}") };
            assert!(reason.starts_with(&told) && !told.is_empty());
        }
    }

    #[test]
    fn refused_by_name() {
        let pair =
            "\"pair\":\"0000000000000000000000000000abcd\",\"nonce\":\"00000000000000000000000000005eed\"";
        let says = |line: &str| Request::decode(line.as_bytes()).unwrap_err().to_string();
        for (line, word) in [
            (String::new(), "EOF"),
            ("[]".into(), "not a request"),
            (format!("{{{pair},\"ask\":\"read\"}}"), "version"),
            (format!("{{\"version\":4,{pair},\"wish\":\"read\"}}"), "it speaks version 4"),
            (format!("{{\"version\":3,{pair},\"ask\":\"write\"}}"), "write"),
            (format!("{{\"version\":3,{pair},\"ask\":\"read\",\"extra\":1}}"), "extra"),
            (format!("{{\"version\":3,{pair},\"ask\":\"read\",\"tag\":\"00\"}}"), "64 hexadecimal digits"),
            (format!("{{\"version\":3,{pair},{pair},\"ask\":\"read\"}}"), "duplicate"),
            ("{\"version\":3,\"pair\":\"ABCD\",\"ask\":\"read\"}".into(), "32 hexadecimal digits"),
            (
                format!(
                    "{{\"version\":3,{pair},\"ask\":{{\"advance\":{{\"from\":18446744073709551615,\"replica\":\"a\",\
                     \"incarnation\":\"0000000000000001\",\"config\":\"{:032x}\"}}}}}}",
                    1
                ),
                "after the last one",
            ),
            (format!("{{\"version\":3,{pair},\"ask\":\"read\"}} {{}}"), "trailing"),
            ("[".repeat(4000), "not a request"),
            (" ".repeat(5000), "more than 4096 bytes"),
        ] {
            assert!(says(&line).contains(word), "{line}: {}", says(&line));
        }
    }
}
