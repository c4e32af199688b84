//! What scripts written for etcdctl rely on: each flag through the binary, and the fields of each answer.
//!
//! Ranges are asked for by a command and by a line of a shell, which have to say the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use raft_tests::{Answer, Background, Cluster, Options, Shell, until};
use serde_json::{Value, json};

fn lone() -> Cluster {
    Cluster::with(Options { nodes: 1, ..Options::default() })
}

fn done(shell: &mut Shell, line: &str) -> Value {
    match shell.ask(line) {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{line}: {kind}: {message}"),
    }
}

/// Keys of different ages, so that every order is another one: the last revision is 6.
fn some_keys(shell: &mut Shell) {
    for (line, revision) in [("a 1", 2), ("b 2", 3), ("c 3", 4), ("b 4", 5), ("ab 0", 6)] {
        assert_eq!(done(shell, &format!("put {line}")), json!({ "revision": revision }));
    }
}

fn kv(key: &str, value: &str, [created, modified, version]: [u64; 3]) -> Value {
    json!({
        "key": key, "value": value, "create_revision": created, "mod_revision": modified,
        "version": version, "lease": 0,
    })
}

#[test]
fn ranges() {
    let cluster = lone();
    let mut shell = cluster.shell();
    some_keys(&mut shell);
    for (words, expected) in [
        // Which keys.
        ("a b", "a ab of 2"),
        ("a --prefix", "a ab of 2"),
        ("b --from-key", "b c of 2"),
        ("'' --prefix", "a ab b c of 4"),
        ("'' --from-key", "a ab b c of 4"),
        ("nothing --prefix", "of 0"),
        // How much of them.
        ("'' --prefix --limit 2", "a ab of 4, more"),
        ("'' --prefix --limit=4", "a ab b c of 4"),
        ("'' --prefix --keys-only", "a ab b c of 4"),
        ("'' --prefix --count-only", "of 4"),
        ("'' --prefix --rev 4", "a b c of 3"),
        // In which order.
        ("'' --prefix --sort-by key --order ascend", "a ab b c of 4"),
        ("'' --prefix --order descend", "c b ab a of 4"),
        ("'' --prefix --sort-by=CREATE --order=DESCEND", "ab c b a of 4"),
        ("'' --prefix --sort-by modify", "a c b ab of 4"),
        ("'' --prefix --sort-by version --order descend --limit 1", "b of 4, more"),
        ("'' --prefix --sort-by value", "ab a c b of 4"),
        // Of which age.
        ("'' --prefix --min-mod-rev 5", "ab b of 4"),
        ("'' --prefix --max-mod-rev 4", "a c of 4"),
        ("'' --prefix --min-create-rev 4", "ab c of 4"),
        ("'' --prefix --max-create-rev 3", "a b of 4"),
    ] {
        let by_line = done(&mut shell, &format!("range {words}"));
        let words: Vec<_> = words.split(' ').map(|word| word.trim_matches('\'')).collect();
        let by_command = cluster.raft(&[&["get"], &words[..]].concat()).json();
        assert_eq!(by_command, by_line, "{words:?}");
        assert_eq!(in_short(&by_line), expected, "{words:?}");
        assert_eq!(by_line["revision"], 6, "that of the store, whatever was read: {words:?}");
    }
    let found = done(&mut shell, "range b c --rev 4");
    let expected = json!({
        "kvs": [kv("b", "2", [3, 3, 1])], "count": 1, "more": false, "revision": 6,
    });
    assert_eq!(found, expected);
    let found = done(&mut shell, "range b c --keys-only");
    assert_eq!(found["kvs"], json!([kv("b", "", [3, 5, 2])]));
    // A plain `get` is of one key, and has its fields.
    let mut expected = kv("b", "4", [3, 5, 2]);
    expected["revision"] = 6.into();
    assert_eq!(cluster.raft(&["get", "b"]).json(), expected);
    assert_eq!(cluster.raft(&["get", "nothing"]).code, Some(1));
    assert_eq!(in_short(&cluster.raft(&["range", "nothing"]).json()), "of 0");
}

/// The keys in an answer, in their order, and how many there are.
fn in_short(found: &Value) -> String {
    let keys = found["kvs"].as_array().unwrap().iter();
    let mut words: Vec<_> = keys.map(|kv| kv["key"].as_str().unwrap().to_owned()).collect();
    words.push(format!("of {}", found["count"]));
    let more = if found["more"] == true { ", more" } else { "" };
    words.join(" ") + more
}

#[test]
fn writes() {
    let cluster = lone();
    let mut shell = cluster.shell();
    some_keys(&mut shell);
    let mut ask = |line: &str| done(&mut shell, line);
    assert_eq!(
        ask("put a 2 --prev-kv"),
        json!({ "revision": 7, "prev_kv": kv("a", "1", [2, 2, 1]) })
    );
    assert_eq!(ask("put new 1 --prev-kv"), json!({ "revision": 8 }));
    assert_eq!(ask("lease grant 600 --id 7"), json!({ "id": 7, "ttl": 600, "revision": 8 }));
    ask("put a --ignore-value --lease 7");
    let found = ask("get a");
    assert_eq!((&found["value"], &found["lease"]), (&json!("2"), &json!(7)));
    ask("put a 3 --ignore-lease");
    assert_eq!(ask("get a")["lease"], 7);
    ask("put a 4");
    assert_eq!(ask("get a")["lease"], 0);

    let one = ask("del b --prev-kv");
    let expected = json!({ "deleted": 1, "revision": 12, "prev_kvs": [kv("b", "4", [3, 5, 2])] });
    assert_eq!(one, expected);
    assert_eq!(ask("del b"), json!({ "deleted": 0, "revision": 12 }));
    assert_eq!(ask("del a b"), json!({ "deleted": 2, "revision": 13 }));
    assert_eq!(ask("del n --from-key"), json!({ "deleted": 1, "revision": 14 }));
    assert_eq!(ask("del '' --prefix"), json!({ "deleted": 1, "revision": 15 }));
    assert_eq!(ask("compact 9"), json!({ "revision": 15, "compact_revision": 9 }));
}

#[test]
fn transactions() {
    let cluster = lone();
    let mut shell = cluster.shell();
    some_keys(&mut shell);
    // Every kind of comparison holds, and every kind of operation is answered.
    let line = r#"txn {"compare":[
            {"key":"a","target":"value","op":"=","value":"1"},
            {"key":"b","target":"version","op":">","value":1},
            {"key":"b","target":"create","op":"<","value":4},
            {"key":"b","target":"mod","op":"!=","value":3},
            {"key":"b","target":"lease","op":"=","value":0},
            {"key":"a","range_end":"z","target":"create","op":">","value":1}],
        "then":[{"put":{"key":"d","value":"5","prev_kv":true}},
            {"range":{"key":"a","prefix":true,"limit":1,"keys_only":true}},
            {"delete_range":{"key":"c","prev_kv":true}},
            {"txn":{"compare":[{"key":"c","target":"version","op":"=","value":0}],
                "then":[{"put":{"key":"e","value":"6"}}],"else":[{"range":{"key":"b"}}]}}],
        "else":[]}"#;
    let expected = json!({ "succeeded": true, "revision": 7, "responses": [
        { "response_put": { "revision": 7 } },
        { "response_range": { "kvs": [kv("a", "", [2, 2, 1])], "count": 2, "more": true } },
        { "response_delete_range":
            { "deleted": 1, "revision": 7, "prev_kvs": [kv("c", "3", [4, 4, 1])] } },
        { "response_txn": { "succeeded": false, "revision": 7, "responses": [
            { "response_range": { "kvs": [kv("b", "4", [3, 5, 2])], "count": 1, "more": false } },
        ] } },
    ] });
    assert_eq!(done(&mut shell, &line.replace('\n', " ")), expected);

    // The same on a command line, and in etcdctl's three parts on stdin.
    let put_back = r#"{"then":[{"put":{"key":"c","value":"3"}}]}"#;
    assert_eq!(cluster.raft(&["txn", put_back]).json()["succeeded"], true);
    let text = "value(\"a\") = \"1\"\nver(b) > \"1\"\ncreate(\"b\") < \"4\"\nmod(b) != \"3\"\n\
                lease(b) = \"0\"\n\nput d 5 --prev-kv\nget a --prefix --limit 1 --keys-only\n\
                del c --prev-kv\n\nget nothing\n";
    let ran = cluster.raft_reading(&["txn"], text);
    let expected = json!({ "succeeded": true, "revision": 9, "responses": [
        { "response_put": { "revision": 9, "prev_kv": kv("d", "5", [7, 7, 1]) } },
        { "response_range": { "kvs": [kv("a", "", [2, 2, 1])], "count": 2, "more": true } },
        { "response_delete_range":
            { "deleted": 1, "revision": 9, "prev_kvs": [kv("c", "3", [8, 8, 1])] } },
    ] });
    assert_eq!(ran.json(), expected);
    let ran = cluster.raft_reading(&["txn"], "value(a) = 2\n\nput a 3\n\nget a\n");
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let expected = json!({ "succeeded": false, "revision": 9, "responses": [
        { "response_range": { "kvs": [kv("a", "1", [2, 2, 1])], "count": 1, "more": false } },
    ] });
    assert_eq!(serde_json::from_str::<Value>(&ran.stdout).unwrap(), expected);
}

#[test]
fn watches() {
    let cluster = lone();
    let mut shell = cluster.shell();
    some_keys(&mut shell);
    done(&mut shell, "del c");
    let put = |key, value, numbers| json!({ "type": "PUT", "kv": kv(key, value, numbers) });
    let with = |mut event: Value, prev_kv| {
        event["prev_kv"] = prev_kv;
        event
    };
    let deleted = json!({ "type": "DELETE", "kv": kv("c", "", [0, 7, 0]) });
    for (words, expected) in [
        ("a --rev 2 --count 1", json!([put("a", "1", [2, 2, 1])])),
        (
            "a --prefix --rev 1 --count 2",
            json!([put("a", "1", [2, 2, 1]), put("ab", "0", [6, 6, 1])]),
        ),
        (
            "b --rev 3 --prev-kv --count 2",
            json!([
                put("b", "2", [3, 3, 1]),
                with(put("b", "4", [3, 5, 2]), kv("b", "2", [3, 3, 1])),
            ]),
        ),
        ("b d --rev 5 --count 2", json!([put("b", "4", [3, 5, 2]), deleted])),
        ("c --from-key --rev 5 --count 1", json!([deleted])),
        (
            "c --rev 2 --filter put --prev-kv --count 1",
            json!([with(deleted, kv("c", "3", [4, 4, 1]))]),
        ),
        ("c --rev 2 --filter delete --count 1", json!([put("c", "3", [4, 4, 1])])),
    ] {
        let told = done(&mut shell, &format!("watch {words}"));
        let last = expected.as_array().unwrap().last().unwrap()["kv"]["mod_revision"].clone();
        assert_eq!(told, json!({ "revision": last, "events": expected }), "{words}");
        let words: Vec<_> = words.split(' ').collect();
        let ran = cluster.raft(&[&["watch"], &words[..]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        // A command prints a line for each piece that comes, a shell one for all.
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let events: Vec<_> =
            lines.flat_map(|line| line["events"].as_array().unwrap().clone()).collect();
        assert_eq!(Value::from(events), expected, "{words:?}");
    }
}

#[test]
fn leases_sessions_locks_and_offices() {
    let cluster = lone();
    let mut shell = cluster.shell();
    let mut ask = |line: &str| done(&mut shell, line);
    assert_eq!(ask("lease grant 600 --id 7"), json!({ "id": 7, "ttl": 600, "revision": 1 }));
    ask("put k v --lease 7");
    let mut status = ask("lease timetolive 7 --keys");
    let left = status["ttl"].take();
    assert!((590..=600).contains(&left.as_u64().unwrap()), "{left}");
    let expected = json!({
        "id": 7, "granted_ttl": 600, "ttl": null, "key_count": 1, "keys": [{ "key": "k" }],
    });
    assert_eq!(status, expected);
    assert_eq!(ask("lease keep-alive 7"), json!({ "id": 7, "ttl": 600, "revision": 2 }));
    let mut list = ask("lease list");
    list["leases"][0]["ttl"].take();
    let row = json!({ "id": 7, "granted_ttl": 600, "ttl": null, "key_count": 1 });
    assert_eq!(list, json!({ "leases": [row], "more": false }));
    assert_eq!(ask("lease revoke 7"), json!({ "id": 7, "ttl": 0, "revision": 3 }));
    // As in etcd, one that would end at once lives for the shortest time there is.
    assert_eq!(ask("lease grant 0 --id 8")["ttl"], 1);

    let opened = ask("session open --ttl 60");
    let session = opened["session"].as_u64().unwrap();
    let same = json!({ "session": session, "ttl_ms": 60_000 });
    assert_eq!(opened, same);
    assert_eq!(ask(&format!("session keep-alive {session}")), same);
    let list = ask("session list");
    assert_eq!(list["more"], false);
    let rows = list["sessions"].as_array().unwrap();
    let row = rows.iter().find(|row| row["session"] == session).unwrap();
    let mut names: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["remaining_ms", "session", "ttl_ms", "unacknowledged"]);
    let closed = ask(&format!("session close {session}"));
    assert_eq!(closed, json!({ "session": session, "ttl_ms": 0 }));

    let held = ask("lock job --ttl 60s --wait 5s");
    let lease = held["lease"].as_u64().unwrap();
    let token = held["token"].as_u64().unwrap();
    let key = format!("job/{lease:016x}");
    assert_eq!(held, json!({ "key": key, "token": token, "lease": lease }));
    assert_eq!(ask(&format!("get {key}"))["create_revision"], token, "what is_held compares with");
    assert_eq!(ask("unlock job"), held);
    let elected = ask("elect office me --ttl 60s");
    let seen = ask("elect office --listen");
    let names = ["key", "value", "create_revision", "mod_revision", "version", "lease"];
    assert_eq!(seen.as_object().unwrap().len(), names.len());
    assert!(names.iter().all(|name| !seen[name].is_null()), "{seen}");
    assert_eq!((&seen["key"], &seen["value"]), (&elected["key"], &json!("me")));
    assert_eq!(seen["lease"], elected["lease"]);

    // The same from commands.
    let locked = started(&cluster, &["lock", "job"]);
    let held = until("the lock is held", || {
        locked.output().lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    });
    assert_eq!(held["key"], format!("job/{:016x}", held["lease"].as_u64().unwrap()));
    assert!(held["token"].as_u64().unwrap() > token);
}

/// A command that goes on until it is told to stop.
fn started(cluster: &Cluster, words: &[&str]) -> Background {
    let (endpoints, tls) = (cluster.endpoints(&[1]), cluster.tls_dir());
    let where_to = ["-o", "json", "--endpoints", &endpoints, "--tls-dir", tls.to_str().unwrap()];
    let words = words.iter().chain(&where_to).map(|word| (*word).to_owned());
    Background::start(&words.collect::<Vec<_>>())
}

/// For longer than it would live by itself; and no longer.
#[test]
fn a_lease_is_kept_alive_until_ctrl_c() {
    let cluster = lone();
    let mut shell = cluster.shell();
    done(&mut shell, "lease grant 1 --id 7");
    let mut keeping = started(&cluster, &["lease", "keep-alive", "7"]);
    until("it was kept alive ten times", || (keeping.output().lines().count() >= 10).then_some(()));
    for line in keeping.output().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["id"], &line["ttl"]), (&json!(7), &json!(1)));
    }
    assert!(shell.ask("lease timetolive 7").is_done());
    keeping.interrupt();
    assert!(keeping.wait(), "{}", keeping.log());
    until("it has ended", || (!shell.ask("lease timetolive 7").is_done()).then_some(()));
    assert_eq!(cluster.raft(&["lease", "keep-alive", "7", "--once"]).code, Some(2));
}

/// Each is refused by what is wrong with it, changes nothing, and has the exit code of a senseless request.
#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let cluster = lone();
    let mut shell = cluster.shell();
    some_keys(&mut shell);
    assert_eq!(done(&mut shell, "compact 4")["compact_revision"], 4);
    let long = "k".repeat(100_000);
    let puts = |count: usize| {
        let puts: Vec<_> = (0..count)
            .map(|number| json!({ "put": { "key": format!("k{number}"), "value": "v" } }))
            .collect();
        json!({ "then": puts }).to_string()
    };
    let twice = r#"{"then":["put k 1","put k 2"]}"#;
    for (words, parts) in [
        (&["put", &long, "v"][..], &["100000"][..]),
        (&["range", "b", "a"], &["\"b\"", "\"a\""]),
        (&["range", "b", "b"], &["\"b\""]),
        (&["del", "b", "a"], &["\"b\"", "\"a\""]),
        (&["get", "a", "--rev", "7"], &["7", "future", "6"]),
        (&["get", "a", "--rev", "3"], &["3", "compacted", "4"]),
        (&["compact", "7"], &["7", "future", "6"]),
        (&["compact", "4"], &["4", "compacted"]),
        (&["put", "a", "v", "--lease", "9"], &["lease 9"]),
        (&["put", "nothing", "--ignore-value"], &["nothing"]),
        (&["lease", "revoke", "9"], &["lease 9"]),
        (&["lease", "keep-alive", "9"], &["lease 9"]),
        (&["lease", "keep-alive", "9", "--once"], &["lease 9"]),
        (&["session", "keep-alive", "999"], &["session 999"]),
        (&["txn", &puts(129)], &["too many parts", "128"]),
        (&["txn", twice], &["\"k\" twice"]),
        (&["txn", "{\"then\":[\"get a --rev 99\"]}"], &["99", "future"]),
        (&["get", "a", "--sort-by", "age"], &["age"]),
        (&["get", "a", "--limit", "-1"], &["-1"]),
        (&["get", "a", "--prefix", "--from-key"], &["--prefix", "--from-key"]),
        (&["get", "a", "b", "--prefix"], &["--prefix"]),
        (&["put", "a", "v", "--ignore-value"], &["--ignore-value"]),
    ] {
        cluster.raft(words).assert_refused(2, parts);
    }
    cluster.raft(&["lease", "timetolive", "9"]).assert_refused(1, &["lease 9"]);
    assert!(shell.ask(&format!("txn {}", puts(128))).is_done(), "the limit itself");
    assert_eq!(
        done(&mut shell, "range k0 l --count-only")["revision"],
        7,
        "nothing else was written"
    );
}
