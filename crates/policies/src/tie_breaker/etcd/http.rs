//! One HTTP request to one member of an etcd cluster: bounded in time and in size, and to nobody else, whatever the
//! environment says about proxies or the answer about other places.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

use super::gateway::MAX_ANSWER;

/// How long a connection may take to be made. A first packet that is lost is sent again after a second, which is later than
/// the end of any call: whoever has not answered by now will not.
const CONNECT: Duration = Duration::from_millis(250);
/// The same with TLS, which is a part of making a connection, and takes some arithmetic.
const CONNECT_TLS: Duration = Duration::from_millis(500);
/// More than the lines before an answer have.
const MAX_HEADER: usize = 8 * 1024;

/// A member. Connections are kept for the next request to it, as long as this value is there.
pub(super) struct Http {
    address: SocketAddr,
    scheme: &'static str,
    connect: Duration,
    agent: Agent,
}

/// What was answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// The address is known: nothing is looked up, and no thread is started for that.
#[derive(Debug)]
struct Known(SocketAddr);

impl Resolver for Known {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(self.0);
        Ok(addresses)
    }
}

impl Http {
    /// Does no I/O. With TLS where there is something to say about it.
    pub(super) fn new(address: SocketAddr, tls: Option<&TlsConfig>) -> Self {
        let config = Config::builder()
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .max_response_header_size(MAX_HEADER);
        let (scheme, connect, config) = match tls {
            None => ("http", CONNECT, config.build()),
            Some(tls) => ("https", CONNECT_TLS, config.https_only(true).tls_config(tls.clone()).build()),
        };
        let agent = Agent::with_parts(config, DefaultConnector::default(), Known(address));
        Self { address, scheme, connect, agent }
    }

    /// Posts a JSON text. Done within `limit`.
    pub(super) fn post(&self, path: &str, text: &str, limit: Duration) -> Result<Reply, String> {
        if limit.is_zero() {
            return Err("no time was left to ask it".to_owned());
        }
        let said = |error: Error| match error {
            Error::Timeout(ureq::Timeout::Connect) => "no connection could be made in time".to_owned(),
            Error::Timeout(_) => format!("no answer within {} ms", limit.as_millis()),
            Error::BodyExceedsLimit(_) => format!("its answer has more than {MAX_ANSWER} bytes"),
            Error::LargeResponseHeader(..) => {
                format!("the lines before its answer have more than {MAX_HEADER} bytes")
            }
            // Whoever does not like a client's certificate may say so, but goes before that can be read.
            Error::Io(error) if is_end(error.kind()) && self.scheme == "https" => {
                format!(
                    "it closed the connection (does it want another client certificate, `cert`?): {error}"
                )
            }
            Error::Io(error) if is_end(error.kind()) => {
                format!("it closed the connection (does it want TLS, with a `ca`?): {error}")
            }
            Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        let request = self
            .agent
            .post(format!("{}://{}{path}", self.scheme, self.address))
            .config()
            .timeout_global(Some(limit))
            .timeout_connect(Some(limit.min(self.connect)))
            .build()
            .content_type("application/json");
        let mut answer = request.send(text).map_err(said)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER as u64).read_to_vec().map_err(said)?;
        Ok(Reply { status, body })
    }
}

/// Whether a connection was there and is no more.
fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, UnexpectedEof | BrokenPipe | ConnectionReset | ConnectionAborted)
}
