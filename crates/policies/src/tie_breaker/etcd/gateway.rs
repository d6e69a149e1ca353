//! What etcd's JSON gateway (`POST /v3/kv/...`, etcd 3.4 and later) is asked, and what its answers say.
//!
//! Keys and values are base64, and 64-bit numbers are text. Whatever has its default value is left out of an answer: an
//! answer without a key is a key that does not exist. So an answer counts only with the header that every answer of etcd
//! has: `{}` from whoever else listens there must not mean that nobody has won anything yet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

/// More than an answer about one small key can have.
pub const MAX_ANSWER: usize = 16 * 1024;
/// As much of what a stranger says is repeated in a message.
const MAX_QUOTED: usize = 200;

/// Where a range is asked for.
pub(super) const RANGE: &str = "/v3/kv/range";
/// Where a transaction is asked for.
pub(super) const TXN: &str = "/v3/kv/txn";

/// What a key holds, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The revision of the store in which it was written last.
    pub revision: i64,
    /// Its value.
    pub value: Vec<u8>,
}

/// Asks for one key. Not `serializable`: the member asks the others whether it is up to date.
pub(super) fn range(key: &str) -> String {
    json!({ "key": BASE64.encode(key), "serializable": false }).to_string()
}

/// Writes `value` if the key still holds what was read, and reads the key in any case.
///
/// The revision alone says whether somebody wrote since then, the bytes also whether this is the same store: one that was
/// restored from an old copy counts its revisions from there.
pub(super) fn replace(key: &str, held: Option<&Held>, value: &str) -> String {
    let key = BASE64.encode(key);
    let equal = |target: &str, field: &str, operand: String| json!({ "key": key, "result": "EQUAL", "target": target, field: operand });
    let compare = match held {
        None => vec![equal("CREATE", "create_revision", "0".to_owned())],
        Some(held) => vec![
            equal("MOD", "mod_revision", held.revision.to_string()),
            equal("VALUE", "value", BASE64.encode(&held.value)),
        ],
    };
    let read = json!({ "request_range": { "key": key } });
    let write = json!({ "request_put": { "key": key, "value": BASE64.encode(value) } });
    json!({ "compare": compare, "success": [write, read], "failure": [read] }).to_string()
}

#[derive(Deserialize)]
struct RangeAnswer {
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct TxnAnswer {
    header: Header,
    #[serde(default)]
    responses: Vec<TxnPart>,
}

#[derive(Deserialize)]
struct Header {
    cluster_id: String,
}

#[derive(Deserialize)]
struct TxnPart {
    response_range: Option<TxnRange>,
}

/// Its header has nothing but a revision.
#[derive(Deserialize)]
struct TxnRange {
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    mod_revision: String,
    /// Left out where it is empty.
    #[serde(default)]
    value: String,
}

/// What an answer to a range says about `key`; `None` where it does not exist.
///
/// # Errors
/// When it is no such answer.
pub fn read_range(bytes: &[u8], key: &str) -> Result<Option<Held>, String> {
    let answer: RangeAnswer = parse(bytes)?;
    answer.header.check()?;
    only(answer.kvs, key)
}

/// What an answer to a transaction says about `key` after it.
///
/// # Errors
/// When it is no such answer.
pub fn read_txn(bytes: &[u8], key: &str) -> Result<Option<Held>, String> {
    let mut answer: TxnAnswer = parse(bytes)?;
    answer.header.check()?;
    match answer.responses.pop().and_then(|part| part.response_range) {
        Some(range) => only(range.kvs, key),
        None => Err("its answer to a transaction does not end with the key".into()),
    }
}

/// What was said instead of an answer, with which HTTP status.
pub fn refusal(status: u16, bytes: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(bytes).ok();
    let message = parsed.as_ref().and_then(|value| {
        let said = value.get("message").or_else(|| value.get("error"))?.as_str()?;
        (!said.is_empty()).then(|| quoted(said.as_bytes()))
    });
    match message {
        Some(message) => format!("{message} (HTTP status {status})"),
        None => format!("HTTP status {status}, {}: is this an etcd 3.4 or later?", quoted(bytes)),
    }
}

impl Header {
    fn check(&self) -> Result<(), String> {
        match self.cluster_id.parse::<u64>() {
            Ok(1..) => Ok(()),
            _ => Err(format!("the cluster id {} in its answer is none", quoted(self.cluster_id.as_bytes()))),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!("its answer {} is not etcd's ({}): is this an etcd 3.4 or later?", quoted(bytes), {
            quoted_text(&error.to_string())
        })
    })
}

fn only(mut found: Vec<KeyValue>, key: &str) -> Result<Option<Held>, String> {
    let Some(last) = found.pop() else { return Ok(None) };
    if !found.is_empty() {
        return Err(format!("it was asked for one key, and answered with {}", found.len() + 1));
    }
    let decode = |text: &str, what: &str| {
        BASE64
            .decode(text)
            .map_err(|_| format!("the {what} {} in its answer is not base64", quoted(text.as_bytes())))
    };
    let name = decode(&last.key, "key")?;
    if name != key.as_bytes() {
        return Err(format!("it was asked for the key {key}, and answered with {}", quoted(&name)));
    }
    let Ok(revision @ 1..) = last.mod_revision.parse::<i64>() else {
        return Err(format!("the revision {} in its answer is none", quoted(last.mod_revision.as_bytes())));
    };
    Ok(Some(Held { revision, value: decode(&last.value, "value")? }))
}

/// Bytes of somebody else's, fit for a line of a message.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", quoted_text(&String::from_utf8_lossy(bytes)))
}

fn quoted_text(text: &str) -> String {
    let mut piece: String = text.trim().chars().take(MAX_QUOTED).collect();
    if piece.len() < text.trim().len() {
        piece.push_str("...");
    }
    piece.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "/ft-vm/x/generation";

    fn range_answer(header: &str, key: &str, revision: &str, value: &[u8]) -> String {
        let (key, value) = (BASE64.encode(key), BASE64.encode(value));
        format!(
            r#"{{"header":{header},"kvs":[{{"key":"{key}","create_revision":"2","mod_revision":"{revision}","version":"1","value":"{value}"}}],"count":"1"}}"#
        )
    }

    const HEADER: &str =
        r#"{"cluster_id":"14841639068965178418","member_id":"1","revision":"2","raft_term":"2"}"#;

    /// As etcd 3.4.23 wrote them.
    #[test]
    fn answers_of_an_etcd() {
        let nothing = r#"{"header":{"cluster_id":"10101560796677756362","member_id":"10221683743416816908","revision":"1","raft_term":"2"}}"#;
        assert_eq!(read_range(nothing.as_bytes(), KEY), Ok(None));
        let kv = r#"{"key":"L2Z0LXZtL3gvZ2VuZXJhdGlvbg==","create_revision":"2","mod_revision":"2","version":"1","value":"aGVsbG8="}"#;
        let header = r#"{"cluster_id":"10101560796677756362","member_id":"10221683743416816908","revision":"2","raft_term":"2"}"#;
        let held = Ok(Some(Held { revision: 2, value: b"hello".to_vec() }));
        let found = format!(r#"{{"header":{header},"kvs":[{kv}],"count":"1"}}"#);
        assert_eq!(read_range(found.as_bytes(), KEY), held);
        let range =
            format!(r#"{{"response_range":{{"header":{{"revision":"2"}},"kvs":[{kv}],"count":"1"}}}}"#);
        let written = format!(
            r#"{{"header":{header},"succeeded":true,"responses":[{{"response_put":{{"header":{{"revision":"2"}}}}}},{range}]}}"#
        );
        assert_eq!(read_txn(written.as_bytes(), KEY), held);
        let not_written = format!(r#"{{"header":{header},"responses":[{range}]}}"#);
        assert_eq!(read_txn(not_written.as_bytes(), KEY), held);
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let range = |text: &str| read_range(text.as_bytes(), KEY).unwrap_err();
        for (text, words) in [
            ("{}", "missing field `header`"),
            ("", "EOF"),
            ("[]", "is not etcd's"),
            ("<html>\n", r#""<html>" is not etcd's"#),
            (r#"{"header":{}}"#, "cluster_id"),
            (r#"{"header":{"cluster_id":"0"}}"#, "cluster id \"0\""),
            (r#"{"header":{"cluster_id":7}}"#, "is not etcd's"),
        ] {
            assert!(range(text).contains(words), "{text}: {}", range(text));
        }
        for (text, words) in [
            (range_answer(HEADER, "other", "2", b"x"), "answered with \"other\""),
            (range_answer(HEADER, KEY, "0", b"x"), "revision \"0\""),
            (range_answer(HEADER, KEY, "-1", b"x"), "revision \"-1\""),
            (range_answer(HEADER, KEY, "two", b"x"), "revision \"two\""),
            (range_answer(HEADER, KEY, "2", b"x").replace(&BASE64.encode("x"), "?"), "not base64"),
            (
                range_answer(HEADER, KEY, "2", b"x")
                    .replace("\"kvs\":[", "\"kvs\":[{\"key\":\"\",\"mod_revision\":\"1\"},"),
                "with 2",
            ),
        ] {
            assert!(range(&text).contains(words), "{text}: {}", range(&text));
        }
        let txn = |text: &str| read_txn(text.as_bytes(), KEY).unwrap_err();
        assert!(
            txn(&format!(r#"{{"header":{HEADER},"succeeded":true}}"#)).contains("does not end with the key")
        );
        assert!(
            txn(&format!(r#"{{"header":{HEADER},"responses":[{{"response_put":{{}}}}]}}"#))
                .contains("does not end with the key")
        );
    }

    #[test]
    fn refusals_are_short_and_in_one_line() {
        let no_leader = br#"{"error":"etcdserver: no leader","message":"etcdserver: no leader","code":14}"#;
        assert_eq!(refusal(503, no_leader), "\"etcdserver: no leader\" (HTTP status 503)");
        let page = refusal(404, b"404 page\nnot found\n");
        assert_eq!(page, r#"HTTP status 404, "404 page\nnot found": is this an etcd 3.4 or later?"#);
        assert!(refusal(500, &[b'x'; 10_000]).len() < 300);
        assert!(refusal(500, br#"{"message":7}"#).contains("HTTP status 500"));
    }

    #[test]
    fn requests_say_what_is_compared() {
        let value = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let first = value(replace(KEY, None, "new"));
        assert_eq!(first["compare"].as_array().unwrap().len(), 1);
        assert_eq!(first["compare"][0]["create_revision"], "0");
        let held = Held { revision: 7, value: b"old".to_vec() };
        let next = value(replace(KEY, Some(&held), "new"));
        assert_eq!(next["compare"][0]["mod_revision"], "7");
        assert_eq!(next["compare"][1]["value"], "b2xk");
        assert_eq!(next["success"][0]["request_put"]["value"], "bmV3");
        assert_eq!(next["success"][1], next["failure"][0]);
        assert_eq!(value(range(KEY))["serializable"], false);
    }

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), status: u16) {
            prop_assert!(read_range(&bytes, KEY).is_err());
            prop_assert!(read_txn(&bytes, KEY).is_err());
            prop_assert!(refusal(status, &bytes).len() < 2000);
        }

        #[test]
        fn any_value_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..300), revision in 1i64..) {
            let text = range_answer(HEADER, KEY, &revision.to_string(), &bytes);
            prop_assert_eq!(read_range(text.as_bytes(), KEY), Ok(Some(Held { revision, value: bytes })));
        }

        /// A damaged answer is an error, or says what the whole one said, or something else about the same key: never
        /// that there is no such key.
        #[test]
        fn a_changed_byte_makes_no_empty_register(at in any::<prop::sample::Index>(), to: u8) {
            let mut bytes = range_answer(HEADER, KEY, "2", b"hello").into_bytes();
            // In the name of the list, a change makes it an unknown field: there is no telling.
            let list = bytes.windows(5).position(|piece| piece == b"\"kvs\"").unwrap();
            let at = at.index(bytes.len());
            prop_assume!(!(list..list + 5).contains(&at));
            bytes[at] = to;
            prop_assert!(read_range(&bytes, KEY) != Ok(None));
        }
    }
}
