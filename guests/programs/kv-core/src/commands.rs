//! The commands, with Redis' replies and error texts.

use alloc::format;
use alloc::vec::Vec;

use crate::log::record_bytes;
use crate::number::{self, MAX_DIGITS};
use crate::parser::{MAX_BULK, Parser};
use crate::reply;
use crate::server::Server;
use crate::store::Store;

/// A command's name, and its number of arguments with the name: exactly that many, or at least if negative.
pub const COMMANDS: &[(&str, i64)] = &[
    ("append", 3),
    ("command", -1),
    ("config", -2),
    ("dbsize", 1),
    ("decr", 2),
    ("decrby", 3),
    ("del", -2),
    ("echo", 2),
    ("exists", -2),
    ("flushall", -1),
    ("get", 2),
    ("incr", 2),
    ("incrby", 3),
    ("info", -1),
    ("mget", -2),
    ("mset", -3),
    ("ping", -1),
    ("quit", -1),
    ("select", 2),
    ("set", -3),
    ("strlen", 2),
];

const NOT_AN_INTEGER: &[u8] = b"ERR value is not an integer or out of range";
const SYNTAX: &[u8] = b"ERR syntax error";
const OUT_OF_MEMORY: &[u8] = b"OOM command not allowed when used memory > 'maxmemory'.";
const TOO_LONG: &[u8] = b"ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// A command as it stands in the input.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) parser: &'a Parser,
    pub(crate) buffer: &'a [u8],
}

impl<'a> Arguments<'a> {
    fn len(self) -> usize {
        self.parser.argument_count()
    }

    fn get(self, index: usize) -> &'a [u8] {
        self.parser.argument(self.buffer, index)
    }

    fn from(self, first: usize) -> impl Iterator<Item = &'a [u8]> {
        (first..self.len()).map(move |index| self.get(index))
    }
}

/// What becomes of a reply.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The batch that must be durable before the reply may be sent.
    pub(crate) needs: u64,
    /// Close the connection after it.
    pub(crate) close: bool,
}

/// Executes a command and appends its reply to `out`.
pub(crate) fn execute(server: &mut Server, arguments: Arguments<'_>, out: &mut Vec<u8>) -> Outcome {
    server.commands += 1;
    let given = arguments.get(0);
    let mut lower = [0; 16];
    let name = match lower.get_mut(..given.len()) {
        Some(name) => {
            name.copy_from_slice(given);
            name.make_ascii_lowercase();
            &*name
        }
        None => &[],
    };
    let mut command = Command { server, arguments, out, needs: 0 };
    let mut close = false;
    match name {
        b"get" => command.arity(2, Command::get),
        b"set" => command.arity(-3, Command::set),
        b"incr" => command.arity(2, |command| command.add(Some(1))),
        b"decr" => command.arity(2, |command| command.add(Some(-1))),
        b"incrby" => command.arity(3, |command| match number::parse(command.arguments.get(2)) {
            Some(delta) => command.add(Some(delta)),
            None => command.fail(NOT_AN_INTEGER),
        }),
        b"decrby" => command.arity(3, |command| match number::parse(command.arguments.get(2)) {
            Some(i64::MIN) => command.fail(b"ERR decrement would overflow"),
            Some(delta) => command.add(Some(-delta)),
            None => command.fail(NOT_AN_INTEGER),
        }),
        b"append" => command.arity(3, Command::append),
        b"strlen" => command.arity(2, Command::strlen),
        b"del" => command.arity(-2, Command::del),
        b"exists" => command.arity(-2, Command::exists),
        b"mget" => command.arity(-2, Command::mget),
        b"mset" => command.arity(-3, Command::mset),
        b"dbsize" => command.arity(1, |command| {
            command.needs = command.last_write();
            command.integer(command.server.store.len());
        }),
        b"flushall" => command.arity(-1, Command::flushall),
        b"ping" => command.arity(-1, |command| match command.arguments.len() {
            1 => command.out.extend_from_slice(b"+PONG\r\n"),
            2 => reply::bulk(command.out, command.arguments.get(1)),
            _ => command.wrong_arity(b"ping"),
        }),
        b"echo" => command.arity(2, |command| reply::bulk(command.out, command.arguments.get(1))),
        b"quit" => {
            command.out.extend_from_slice(reply::OK);
            close = true;
        }
        b"select" => command.arity(2, Command::select),
        b"info" => command.arity(-1, Command::info),
        b"config" => command.arity(-2, Command::config),
        b"command" => command.arity(-1, Command::command),
        _ => command.unknown(),
    }
    Outcome { needs: command.needs, close }
}

struct Command<'a> {
    server: &'a mut Server,
    arguments: Arguments<'a>,
    out: &'a mut Vec<u8>,
    needs: u64,
}

impl Command<'_> {
    fn arity(&mut self, arity: i64, run: impl FnOnce(&mut Self)) {
        let count = self.arguments.len() as i64;
        if count == arity || (arity < 0 && count >= -arity) {
            run(self);
        } else {
            let name = self.arguments.get(0).to_ascii_lowercase();
            self.wrong_arity(&name);
        }
    }

    fn wrong_arity(&mut self, name: &[u8]) {
        reply::error(self.out, &[b"ERR wrong number of arguments for '", name, b"' command"]);
    }

    fn fail(&mut self, text: &[u8]) {
        reply::error(self.out, &[text]);
    }

    fn ok(&mut self) {
        self.out.extend_from_slice(reply::OK);
    }

    fn integer(&mut self, value: usize) {
        reply::integer(self.out, value as i64);
    }

    fn unknown(&mut self) {
        const SHOWN: usize = 128;
        let shown = |text: &[u8], room: usize| text[..text.len().min(room)].to_vec();
        let name = shown(self.arguments.get(0), SHOWN);
        let mut list = Vec::new();
        for argument in self.arguments.from(1) {
            if list.len() >= SHOWN {
                break;
            }
            let argument = shown(argument, SHOWN - list.len());
            list.push(b'\'');
            list.extend_from_slice(&argument);
            list.extend_from_slice(b"' ");
        }
        reply::error(self.out, &[b"ERR unknown command '", &name, b"', with args beginning with: ", &list]);
    }

    /// Looks a key up and notes what the reply depends on. A missing key may have been removed by any batch.
    fn look(&mut self, key: &[u8]) -> Option<&[u8]> {
        match self.server.store.get(key) {
            Some((value, batch)) => {
                self.needs = self.needs.max(batch);
                Some(value)
            }
            None => {
                self.needs = self.needs.max(self.last_write());
                None
            }
        }
    }

    /// The last batch that holds anything.
    fn last_write(&self) -> u64 {
        let log = &self.server.log;
        if log.pending() > 0 { log.batch() } else { log.batch() - 1 }
    }

    /// Whether there is room for writing that; replies if not.
    fn has_room(&mut self, memory: usize, log: usize) -> bool {
        let room = self.server.has_room(memory, log);
        if !room {
            self.fail(OUT_OF_MEMORY);
        }
        room
    }

    /// Sets a key, in store and log.
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.needs = self.server.log.batch();
        self.server.store.set(key, value, self.needs);
        self.server.log.set(key, value);
    }

    fn get(&mut self) {
        let key = self.arguments.get(1);
        match self.server.store.get(key) {
            Some((value, batch)) => {
                self.needs = batch;
                reply::bulk(self.out, value);
            }
            None => {
                self.needs = self.last_write();
                self.out.extend_from_slice(reply::NIL);
            }
        }
    }

    fn set(&mut self) {
        let (key, value) = (self.arguments.get(1), self.arguments.get(2));
        let (mut if_missing, mut if_there, mut get) = (false, false, false);
        for option in self.arguments.from(3) {
            match () {
                () if option.eq_ignore_ascii_case(b"nx") && !if_there => if_missing = true,
                () if option.eq_ignore_ascii_case(b"xx") && !if_missing => if_there = true,
                () if option.eq_ignore_ascii_case(b"get") => get = true,
                () => return self.fail(SYNTAX),
            }
        }
        if !self.has_room(Store::cost(key.len(), value.len()), record_bytes(key.len(), value.len())) {
            return;
        }
        let mut there = false;
        if if_missing || if_there || get {
            let old = self.look(key).map(<[u8]>::to_vec);
            there = old.is_some();
            if get {
                match &old {
                    Some(old) => reply::bulk(self.out, old),
                    None => self.out.extend_from_slice(reply::NIL),
                }
            }
        }
        if (if_missing && there) || (if_there && !there) {
            if !get {
                self.out.extend_from_slice(reply::NIL);
            }
            return;
        }
        self.put(key, value);
        if !get {
            self.ok();
        }
    }

    fn add(&mut self, delta: Option<i64>) {
        let key = self.arguments.get(1);
        if !self.has_room(Store::cost(key.len(), MAX_DIGITS), record_bytes(key.len(), MAX_DIGITS)) {
            return;
        }
        let old = match self.look(key) {
            Some(value) => number::parse(value),
            None => Some(0),
        };
        let Some((old, delta)) = old.zip(delta) else { return self.fail(NOT_AN_INTEGER) };
        let Some(new) = old.checked_add(delta) else {
            return self.fail(b"ERR increment or decrement would overflow");
        };
        let mut buffer = [0; MAX_DIGITS];
        self.put(key, number::format(new, &mut buffer));
        reply::integer(self.out, new);
    }

    fn append(&mut self) {
        let (key, more) = (self.arguments.get(1), self.arguments.get(2));
        let length = self.look(key).map_or(0, <[u8]>::len);
        if length + more.len() > MAX_BULK {
            return self.fail(TOO_LONG);
        }
        // The value may move: both its old and its new place are counted.
        if !self.has_room(Store::cost(key.len(), length + more.len()), record_bytes(key.len(), more.len())) {
            return;
        }
        self.needs = self.server.log.batch();
        self.server.store.update(key, self.needs, |value| value.extend_from_slice(more));
        self.server.log.append(key, more);
        self.integer(length + more.len());
    }

    fn strlen(&mut self) {
        let length = self.look(self.arguments.get(1)).map_or(0, <[u8]>::len);
        self.integer(length);
    }

    fn del(&mut self) {
        let mut removed = 0;
        for key in self.arguments.from(1) {
            if self.server.store.remove(key) {
                self.server.log.remove(key);
                self.needs = self.server.log.batch();
                removed += 1;
            }
        }
        if removed < self.arguments.len() - 1 {
            self.needs = self.needs.max(self.last_write());
        }
        self.integer(removed);
    }

    fn exists(&mut self) {
        let count = self.arguments.from(1).filter(|key| self.look(key).is_some()).count();
        self.integer(count);
    }

    fn mget(&mut self) {
        // A reply is not to exceed what a connection may hold by more than one such command.
        let total: usize = self.arguments.from(1).map(|key| self.look(key).map_or(0, <[u8]>::len)).sum();
        if total > 4 * MAX_BULK {
            return self.fail(b"ERR reply exceeds maximum allowed size");
        }
        reply::array(self.out, self.arguments.len() - 1);
        for key in self.arguments.from(1) {
            match self.server.store.get(key) {
                Some((value, _)) => reply::bulk(self.out, value),
                None => self.out.extend_from_slice(reply::NIL),
            }
        }
    }

    fn mset(&mut self) {
        if self.arguments.len().is_multiple_of(2) {
            return self.wrong_arity(b"mset");
        }
        let pairs = |arguments: Arguments<'_>| {
            (1..arguments.len()).step_by(2).fold((0, 0), |(memory, log), index| {
                let (key, value) = (arguments.get(index).len(), arguments.get(index + 1).len());
                (memory + Store::cost(key, value), log + record_bytes(key, value))
            })
        };
        let (memory, log) = pairs(self.arguments);
        if !self.has_room(memory, log) {
            return;
        }
        for index in (1..self.arguments.len()).step_by(2) {
            self.put(self.arguments.get(index), self.arguments.get(index + 1));
        }
        self.ok();
    }

    fn flushall(&mut self) {
        match self.arguments.from(1).collect::<Vec<_>>()[..] {
            [] => {}
            [mode] if mode.eq_ignore_ascii_case(b"async") || mode.eq_ignore_ascii_case(b"sync") => {}
            _ => return self.fail(SYNTAX),
        }
        self.needs = self.server.log.batch();
        self.server.store.clear();
        self.server.log.clear();
        self.ok();
    }

    fn select(&mut self) {
        match number::parse(self.arguments.get(1)) {
            Some(0) => self.ok(),
            Some(_) => self.fail(b"ERR DB index is out of range"),
            None => self.fail(NOT_AN_INTEGER),
        }
    }

    fn info(&mut self) {
        let server = &self.server;
        self.needs = self.last_write();
        let text = format!(
            "# Server\r\nredis_version:7.0.0\r\nserver_name:ft-vm kv {}\r\nredis_mode:standalone\r\narch_bits:64\r\n\
             address:{}\r\nuptime_in_seconds:{}\r\n\r\n\
             # Clients\r\nconnected_clients:{}\r\n\r\n\
             # Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\n\r\n\
             # Persistence\r\nloading:0\r\naof_enabled:1\r\nlog_bytes:{}\r\nlog_live_bytes:{}\r\n\
             log_capacity_bytes:{}\r\n\r\n\
             # Stats\r\ntotal_commands_processed:{}\r\n\r\n\
             # Replication\r\nrole:master\r\n\r\n\
             # Keyspace\r\n",
            env!("CARGO_PKG_VERSION"),
            server.address,
            server.uptime,
            server.clients,
            server.store.memory(),
            server.limits.memory,
            server.log.used(),
            server.store.log_bytes(),
            server.log.capacity(),
            server.commands,
        );
        let keys = match server.store.len() {
            0 => Default::default(),
            keys => format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"),
        };
        reply::bulk(self.out, format!("{text}{keys}").as_bytes());
    }

    fn config(&mut self) {
        let sub = self.arguments.get(1);
        if !sub.eq_ignore_ascii_case(b"get") {
            return reply::error(self.out, &[b"ERR unknown subcommand '", sub, b"'. Try CONFIG HELP."]);
        }
        if self.arguments.len() < 3 {
            return self.wrong_arity(b"config|get");
        }
        let memory = format!("{}", self.server.limits.memory);
        let known: [(&str, &str); 5] = [
            ("save", ""),
            ("appendonly", "yes"),
            ("appendfsync", "always"),
            ("databases", "1"),
            ("maxmemory", &memory),
        ];
        let arguments = self.arguments;
        let asked = |name: &str| {
            arguments.from(2).any(|pattern| pattern == b"*" || pattern.eq_ignore_ascii_case(name.as_bytes()))
        };
        let found: Vec<_> = known.iter().filter(|(name, _)| asked(name)).collect();
        reply::array(self.out, 2 * found.len());
        for (name, value) in found {
            reply::bulk(self.out, name.as_bytes());
            reply::bulk(self.out, value.as_bytes());
        }
    }

    fn command(&mut self) {
        if self.arguments.len() == 1 {
            reply::array(self.out, COMMANDS.len());
            for &(name, arity) in COMMANDS {
                // Name, arity, flags, first key, last key, step.
                reply::array(self.out, 6);
                reply::bulk(self.out, name.as_bytes());
                reply::integer(self.out, arity);
                reply::array(self.out, 0);
                let (first, last, step) = match name {
                    "del" | "exists" | "mget" => (1, -1, 1),
                    "mset" => (1, -1, 2),
                    "append" | "decr" | "decrby" | "get" | "incr" | "incrby" | "set" | "strlen" => (1, 1, 1),
                    _ => (0, 0, 0),
                };
                for value in [first, last, step] {
                    reply::integer(self.out, value);
                }
            }
            return;
        }
        let sub = self.arguments.get(1);
        match () {
            () if sub.eq_ignore_ascii_case(b"count") => self.integer(COMMANDS.len()),
            // No documentation is kept: an empty map, which clients take for an old server's.
            () if sub.eq_ignore_ascii_case(b"docs") => reply::array(self.out, 0),
            () => reply::error(self.out, &[b"ERR unknown subcommand '", sub, b"'. Try COMMAND HELP."]),
        }
    }
}
