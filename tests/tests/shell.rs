//! `raft shell`: one answer a line, in order, whatever happens.

use raft_tests::{Answer, Cluster, Options};
use serde_json::json;

#[test]
fn answers_every_line_in_order_and_goes_on_after_errors() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let mut shell = cluster.shell();
    for line in [
        "put a 1",
        "put 'two words' \"a \\\"quoted\\\" value\"",
        "get a",
        "get 'two words'",
        "get nothing",
        "frobnicate",
        "put a",
        "put '' x",
        "get 'open",
        "del a",
        "status",
    ] {
        shell.send(line);
    }
    let mut done = |what: &str| match shell.answer() {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{what}: {kind}: {message}"),
    };
    assert!(done("put")["revision"].is_u64());
    assert!(done("put with quotes")["revision"].is_u64());
    assert_eq!(done("get")["value"], "1");
    assert_eq!(done("get with quotes")["value"], "a \"quoted\" value");
    let mut failed = |kind: &str| match shell.answer() {
        Answer::Failed(found, message) => {
            assert_eq!(found, kind, "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
        Answer::Done(value) => panic!("{kind} is due, not {value}"),
    };
    failed("not_found");
    failed("usage");
    failed("usage");
    failed("usage");
    failed("usage");
    assert!(matches!(shell.answer(), Answer::Done(value) if value["deleted"] == json!(1)));
    assert!(matches!(shell.answer(), Answer::Done(value) if value.is_array()));
    assert_eq!(shell.finish(), Some(0));
}

#[test]
fn follows_the_leader_when_it_changes() {
    let mut cluster = Cluster::start();
    let follower = cluster.follower();
    // It knows one node only and is told of the others.
    let mut shell = cluster.shell_at(&[follower], "15s");
    assert!(shell.ask("put k 1").is_done());
    let leader = cluster.leader();
    cluster.kill(leader);
    // The first of these may be unknown, if it was on its way to the leader that died.
    let put = shell.ask("put k 2");
    assert!(put.is_done() || put.is_unknown(), "{put:?}");
    assert!(shell.ask("put k 3").is_done());
    assert!(matches!(shell.ask("get k"), Answer::Done(found) if found["value"] == json!("3")));
}

#[test]
fn ranges_transactions_and_compaction_answer_in_etcds_words() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let mut shell = cluster.shell();
    let mut ask = |line: &str| match shell.ask(line) {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{line}: {kind}: {message}"),
    };
    for (number, key) in ["u/a", "u/b", "u/c", "v"].into_iter().enumerate() {
        assert_eq!(ask(&format!("put {key} {number}"))["revision"], json!(number + 2));
    }
    let found = ask("range u/ --prefix --limit 2 --sort-by key --order descend --keys-only");
    assert_eq!((&found["count"], &found["more"]), (&json!(3), &json!(true)));
    let kv = json!({ "key": "u/c", "value": "", "create_revision": 4, "mod_revision": 4,
                     "version": 1, "lease": 0 });
    assert_eq!(found["kvs"][0], kv);
    assert_eq!(found["kvs"][1]["key"], "u/b");
    assert_eq!(ask("get u/ --prefix --count-only")["count"], 3);
    assert_eq!(ask("get u/b v --rev 3")["kvs"].as_array().unwrap().len(), 1);
    assert_eq!(ask("put v 9 --prev-kv")["prev_kv"]["value"], "3");

    let create = r#"txn {"compare":[{"key":"new","target":"version","op":"=","value":0}],
        "then":[{"put":{"key":"new","value":"x"}},{"range":{"key":"new"}}],
        "else":[{"delete_range":{"key":"u/","prefix":true,"prev_kv":true}}]}"#;
    let create = create.replace('\n', " ");
    let done = ask(&create);
    assert_eq!((&done["succeeded"], &done["revision"]), (&json!(true), &json!(7)));
    assert_eq!(done["responses"][0]["response_put"]["revision"], 7);
    assert_eq!(done["responses"][1]["response_range"]["kvs"][0]["value"], "x");
    let done = ask(&create);
    assert_eq!(done["succeeded"], json!(false));
    let deleted = &done["responses"][0]["response_delete_range"];
    assert_eq!((&deleted["deleted"], &deleted["prev_kvs"][2]["key"]), (&json!(3), &json!("u/c")));

    assert_eq!(ask("compact 7")["compact_revision"], 7);
    for line in ["range u/ --prefix --rev 6", "txn {\"then\":[{\"frob\":{}}]}", "range ''", "txn"] {
        let answer = shell.ask(line);
        assert!(
            matches!(&answer, Answer::Failed(kind, _) if kind == "usage"),
            "{line}: {answer:?}"
        );
    }
    assert_eq!(shell.finish(), Some(0));
}

#[test]
fn a_transaction_is_read_from_stdin_and_its_failure_is_exit_code_1() {
    let cluster = Cluster::with(Options { nodes: 1, ..Options::default() });
    let text = "version(\"a\") = \"0\"\n\nput a \"1 2\"\n\nget a\n";
    let done = cluster.raft_reading(&["txn"], text);
    assert_eq!(done.json()["succeeded"], json!(true));
    let failed = cluster.raft_reading(&["txn"], text);
    assert_eq!(failed.code, Some(1), "{failed:#?}");
    assert!(failed.stdout.contains(r#""value":"1 2""#), "{failed:#?}");
    cluster.raft_reading(&["txn"], "frob\n").assert_refused(2, &["frob"]);
}

#[test]
fn leases_and_sessions_end_by_the_clock_of_the_cluster() {
    let mut cluster = Cluster::start();
    let mut shell = cluster.shell();
    let mut ask = |line: &str| match shell.ask(line) {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{line}: {kind}: {message}"),
    };
    let granted = ask("lease grant 600 --id 7");
    assert_eq!((&granted["id"], &granted["ttl"]), (&json!(7), &json!(600)));
    ask("put kept v --lease 7");
    let short = ask("lease grant 3")["id"].as_u64().unwrap();
    ask(&format!("put gone v --lease {short}"));
    let status = ask("lease timetolive 7 --keys");
    assert_eq!(status["keys"], json!([{ "key": "kept" }]));
    let left = status["ttl"].as_u64().unwrap();
    assert!((590..=600).contains(&left), "{status}");
    // Nobody resets the time when another leader comes.
    let leader = cluster.leader();
    cluster.kill(leader);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let mut shell = cluster.shell();
    let start = std::time::Instant::now();
    while shell.ask("get gone").is_done() {
        assert!(start.elapsed() < std::time::Duration::from_secs(15), "it outlives its lease");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let mut ask = |line: &str| match shell.ask(line) {
        Answer::Done(value) => value,
        Answer::Failed(kind, message) => panic!("{line}: {kind}: {message}"),
    };
    assert_eq!(ask("lease list")["leases"].as_array().unwrap().len(), 1);
    let left = ask("lease timetolive 7")["ttl"].as_u64().unwrap();
    assert!((570..=598).contains(&left), "{left}");
    assert_eq!(ask("lease keep-alive 7")["ttl"], 600);
    ask("lease revoke 7");
    let session = ask("session open --ttl 60")["session"].as_u64().unwrap();
    let is_there = |list: serde_json::Value| {
        list["sessions"].as_array().unwrap().iter().any(|row| row["session"] == json!(session))
    };
    assert!(is_there(ask("session list")));
    ask(&format!("session close {session}"));
    assert!(!is_there(ask("session list")));
    for line in ["lease timetolive 7", "get kept"] {
        let answer = shell.ask(line);
        assert!(matches!(&answer, Answer::Failed(kind, _) if kind == "not_found"), "{answer:?}");
    }
    assert_eq!(shell.finish(), Some(0));
}
