//! The server behind the network: protocol, commands, and when a reply may leave.

mod memory_disk;

use kv_core::{Connection, Log, Server, Store};
use memory_disk::MemoryDisk;
use proptest::prelude::*;

fn server() -> (MemoryDisk, Server) {
    let mut disk = MemoryDisk::new(4096);
    let mut store = Store::default();
    let (log, _) = Log::open(&mut disk, 7, &mut store).expect("a blank disk");
    (disk, Server::new(store, log, 64 << 20, "test".into()))
}

/// What a fresh server answers to `input`, with all durable.
fn answer(input: &[u8]) -> String {
    let (_, mut server) = server();
    let mut connection = Connection::default();
    connection.receive(input);
    connection.run(&mut server);
    String::from_utf8_lossy(connection.sendable(u64::MAX)).into_owned()
}

#[test]
fn commands_answer_as_redis_does() {
    let not_integer = "-ERR value is not an integer or out of range\r\n";
    for (input, output) in [
        ("PING\r\n", "+PONG\r\n"),
        ("ping hello\r\n", "$5\r\nhello\r\n"),
        ("PING a b\r\n", "-ERR wrong number of arguments for 'ping' command\r\n"),
        ("*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n", "+PONG\r\n$2\r\nhi\r\n"),
        ("SET k v\r\nGET k\r\nGET nothing\r\n", "+OK\r\n$1\r\nv\r\n$-1\r\n"),
        ("SET k\r\n", "-ERR wrong number of arguments for 'set' command\r\n"),
        ("SET k v BAD\r\n", "-ERR syntax error\r\n"),
        ("SET k v NX XX\r\n", "-ERR syntax error\r\n"),
        ("SET k v XX\r\nSET k v NX\r\nSET k w NX\r\nSET k x XX GET\r\n", "$-1\r\n+OK\r\n$-1\r\n$1\r\nv\r\n"),
        ("INCR n\r\nINCRBY n 41\r\nDECR n\r\nDECRBY n 50\r\n", ":1\r\n:42\r\n:41\r\n:-9\r\n"),
        ("SET n abc\r\nINCR n\r\n", &format!("+OK\r\n{not_integer}")),
        ("INCRBY n 1x\r\nINCRBY n 01\r\n", &format!("{not_integer}{not_integer}")),
        (
            "SET n 9223372036854775807\r\nINCR n\r\nDECRBY n -9223372036854775808\r\n",
            "+OK\r\n-ERR increment or decrement would overflow\r\n-ERR decrement would overflow\r\n",
        ),
        (
            "APPEND a xy\r\nAPPEND a z\r\nSTRLEN a\r\nSTRLEN b\r\nGET a\r\n",
            ":2\r\n:3\r\n:3\r\n:0\r\n$3\r\nxyz\r\n",
        ),
        ("MSET a 1 b 2\r\nMGET a c b\r\nDBSIZE\r\n", "+OK\r\n*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n:2\r\n"),
        ("MSET a 1 b\r\n", "-ERR wrong number of arguments for 'mset' command\r\n"),
        ("MSET a 1 b 2\r\nEXISTS a a b c\r\nDEL a c\r\nDBSIZE\r\n", "+OK\r\n:3\r\n:1\r\n:1\r\n"),
        ("SET a 1\r\nFLUSHALL\r\nDBSIZE\r\nFLUSHALL what\r\n", "+OK\r\n+OK\r\n:0\r\n-ERR syntax error\r\n"),
        (
            "SELECT 0\r\nSELECT 1\r\nSELECT x\r\n",
            &format!("+OK\r\n-ERR DB index is out of range\r\n{not_integer}"),
        ),
        ("CONFIG GET save\r\n", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ("CONFIG GET\r\n", "-ERR wrong number of arguments for 'config|get' command\r\n"),
        ("COMMAND COUNT\r\nCOMMAND DOCS\r\n", &format!(":{}\r\n*0\r\n", kv_core::COMMANDS.len())),
        ("foo bar 'b z'\r\n", "-ERR unknown command 'foo', with args beginning with: 'bar' 'b z' \r\n"),
        ("QUIT\r\nPING\r\n", "+OK\r\n"),
        ("\r\n\r\n*0\r\n*-1\r\nPING\r\n", "+PONG\r\n"),
        ("ECHO \"a\\x41\\n\\\"b\"\r\n", "$5\r\naA\n\"b\r\n"),
        ("ECHO 'it\\'s'\n", "$4\r\nit's\r\n"),
    ] {
        assert_eq!(answer(input.as_bytes()), output, "{input:?}");
    }
}

#[test]
fn protocol_errors_close_the_connection() {
    for (input, text) in [
        ("*x\r\nPING\r\n", "invalid multibulk length"),
        ("*9999999\r\n", "invalid multibulk length"),
        ("*1\r\n$x\r\n", "invalid bulk length"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1\r\n$1048577\r\n", "invalid bulk length"),
        ("*1\r\nPING\r\n", "expected '$', got 'P'"),
        ("ECHO \"open\r\n", "unbalanced quotes in request"),
        (&"x".repeat(70_000), "too big inline request"),
        (&format!("*{}", "1".repeat(70_000)), "too big mbulk count string"),
        (&format!("*1\r\n${}", "1".repeat(70_000)), "too big bulk count string"),
    ] {
        let (_, mut server) = server();
        let mut connection = Connection::default();
        connection.receive(input.as_bytes());
        connection.run(&mut server);
        let sent = connection.sendable(0).to_vec();
        assert_eq!(String::from_utf8_lossy(&sent), format!("-ERR Protocol error: {text}\r\n"));
        assert!(!connection.is_finished());
        connection.sent(sent.len());
        assert!(connection.is_finished());
    }
}

#[test]
fn replies_wait_for_what_they_tell() {
    let (_, mut server) = server();
    let mut run = |connection: &mut Connection, input: &str| {
        connection.receive(input.as_bytes());
        connection.run(&mut server);
        server.log.batch()
    };
    let (mut writer, mut reader) = (Connection::default(), Connection::default());
    let batch = run(&mut writer, "PING\r\nSET a 1\r\nPING\r\n");
    assert_eq!(writer.sendable(batch - 1), b"+PONG\r\n", "what was before the write may leave");
    run(&mut reader, "GET a\r\n");
    assert_eq!(reader.sendable(batch - 1), b"", "a value that is not durable must not be seen");
    run(&mut reader, "PING\r\n");
    assert_eq!(reader.sendable(batch - 1), b"", "replies keep their order");
    assert_eq!(reader.sendable(batch), b"$1\r\n1\r\n+PONG\r\n");
    assert_eq!(writer.sendable(batch), b"+PONG\r\n+OK\r\n+PONG\r\n");
    let mut other = Connection::default();
    run(&mut other, "GET missing\r\n");
    assert_eq!(other.sendable(batch - 1), b"", "the key could be missing by a removal that is not durable");
}

#[test]
fn a_full_store_refuses_writes_and_keeps_what_it_has() {
    let (_, mut server) = server();
    let value = "x".repeat(100_000);
    let mut kept = 0;
    loop {
        let mut connection = Connection::default();
        let key = format!("k{kept}");
        let command =
            format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n{value}\r\n", key.len(), value.len());
        connection.receive(command.as_bytes());
        connection.run(&mut server);
        if server.log.pending() > 0 {
            server.log.take();
        }
        match connection.sendable(u64::MAX) {
            b"+OK\r\n" => kept += 1,
            refused => {
                assert_eq!(refused, b"-OOM command not allowed when used memory > 'maxmemory'.\r\n");
                break;
            }
        }
    }
    assert!(kept > 3, "{kept}");
    assert_eq!(server.store.len(), kept);
}

proptest! {
    /// However the bytes are cut, the answers are the same, and nothing panics on any bytes.
    #[test]
    fn cutting_the_input_changes_nothing(
        pieces in prop::collection::vec(
            prop_oneof![
                Just(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\n1\r\n\n2\r\n".to_vec()),
                Just(b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".to_vec()),
                Just(b"GET k\r\n".to_vec()),
                Just(b"ECHO 'a b'\n".to_vec()),
                Just(b"*1\r\n$4\r\n".to_vec()),
                prop::collection::vec(any::<u8>(), 0..20),
            ],
            0..12,
        ),
        cuts in prop::collection::vec(1_usize..9, 1..20),
    ) {
        let input = pieces.concat();
        let (_, mut server) = server();
        let mut connection = Connection::default();
        let mut rest = &input[..];
        let mut sizes = cuts.iter().cycle();
        let mut output = Vec::new();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(*sizes.next().expect("a cycle")));
            connection.receive(now);
            connection.run(&mut server);
            let ready = connection.sendable(u64::MAX).to_vec();
            connection.sent(ready.len());
            output.extend(ready);
            rest = later;
        }
        prop_assert_eq!(String::from_utf8_lossy(&output).into_owned(), answer(&input));
    }

    /// The table agrees with a map under any sequence of commands, and its counts return to zero.
    #[test]
    fn the_store_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u16..300, 0_usize..50), 0..800)) {
        let mut store = Store::default();
        let mut model = std::collections::BTreeMap::new();
        for (step, key, length) in steps {
            let (key, value) = (format!("key:{key}").into_bytes(), vec![b'v'; length]);
            match step {
                0 | 1 => {
                    store.set(&key, &value, 0);
                    model.insert(key.clone(), value);
                }
                2 => prop_assert_eq!(store.remove(&key), model.remove(&key).is_some()),
                _ => {
                    store.update(&key, 0, |old| old.extend_from_slice(&value));
                    model.entry(key.clone()).or_insert_with(Vec::new).extend(value);
                }
            }
            prop_assert_eq!(store.get(&key).map(|(value, _)| value), model.get(&key).map(Vec::as_slice));
        }
        prop_assert_eq!(store.len(), model.len());
        let mut all: Vec<_> = store.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        all.sort();
        prop_assert_eq!(all, model.clone().into_iter().collect::<Vec<_>>());
        for key in model.keys() {
            store.remove(key);
        }
        prop_assert_eq!((store.memory(), store.log_bytes()), (0, 0));
    }
}
