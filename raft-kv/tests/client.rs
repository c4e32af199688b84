//! The client against nodes that follow a script: whom it asks, what it repeats, what it reports.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft_core::sessions::SessionId;
use raft_core::{ClusterId, Index, Membership, NodeId, RoleName, Term};
use raft_kv::api::{
    Answer, Condition, ErrorReply, Header, LeaderHint, Members, NodeStatus, ReadLevel, Rejection,
    Reply, Request, Write,
};
use raft_kv::client::{Channel, ChannelError, Client, ClientError, NotSentKind};
use raft_kv::{Command, KeyRange, Outcome, PutOutcome, RangeReply, RangeRequest, Revision};

/// What a node does with a request.
#[allow(clippy::large_enum_variant, reason = "there are few of them")]
#[derive(Clone, Debug)]
enum Act {
    /// It answers.
    Say(Result<Answer, ErrorReply>),
    /// The request does not get there.
    NotSent(NotSentKind),
    /// It gets there, and no answer comes back.
    Lose,
    /// Nothing happens at all, until the client gives up.
    Hang,
    /// It answers as the state of the cluster says, after this time.
    Linger(Duration),
    /// Bytes come back that are no reply.
    Garble,
}

/// Nodes `n1`, `n2`, ... at the endpoints of those names. A request that nobody has a script for is
/// answered as the state of the cluster says.
#[derive(Default)]
struct Cluster {
    scripts: BTreeMap<String, VecDeque<Act>>,
    /// What each node believes: who leads, in which term.
    beliefs: BTreeMap<String, (Option<u64>, u64)>,
    /// Nodes that do not answer.
    down: BTreeMap<String, Act>,
    applied: u64,
    /// The last session that was opened.
    sessions: u64,
    /// Every request that got to a node.
    asked: Vec<(String, Request)>,
    attempts: Vec<String>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Cluster>>);

impl Channel for Fake {
    async fn call(
        &self,
        endpoint: &str,
        request: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, ChannelError> {
        let request = Request::decode(&request).unwrap();
        let mut act = self.0.lock().unwrap().act(endpoint, request.clone());
        let message = format!("{endpoint}: scripted");
        if let Act::Linger(time) = act {
            tokio::time::sleep(time).await;
            act = self.0.lock().unwrap().answer_now(endpoint, request);
        }
        match act {
            Act::Linger(_) => unreachable!("it is over"),
            Act::Say(body) => Ok(self.reply(endpoint, body).encode()),
            Act::NotSent(kind) => Err(ChannelError::NotSent { kind, message }),
            Act::Lose => Err(ChannelError::Lost { message }),
            Act::Hang => {
                tokio::time::sleep_until(deadline.into()).await;
                Err(ChannelError::Lost { message })
            }
            Act::Garble => Ok(Bytes::from_static(b"\x01\xff\xff")),
        }
    }
}

impl Fake {
    /// `nodes` nodes, the first of which leads in term 1.
    fn new(nodes: u64) -> Self {
        let fake = Self::default();
        for id in 1..=nodes {
            fake.believe(id, Some(1), 1);
        }
        fake.0.lock().unwrap().applied = 10;
        fake
    }

    fn believe(&self, id: u64, leader: Option<u64>, term: u64) {
        self.0.lock().unwrap().beliefs.insert(name(id), (leader, term));
    }

    fn script(&self, id: u64, acts: impl IntoIterator<Item = Act>) {
        self.0.lock().unwrap().scripts.entry(name(id)).or_default().extend(acts);
    }

    fn down(&self, id: u64, act: Act) {
        self.0.lock().unwrap().down.insert(name(id), act);
    }

    /// A client without a session, so that there are no writes but those of the test.
    fn client(&self, endpoints: &[u64]) -> Client<Self> {
        let endpoints = endpoints.iter().map(|id| name(*id)).collect();
        Client::new(self.clone(), endpoints, Duration::from_secs(2)).without_session()
    }

    fn session_client(&self, endpoints: &[u64]) -> Client<Self> {
        let endpoints = endpoints.iter().map(|id| name(*id)).collect();
        Client::new(self.clone(), endpoints, Duration::from_secs(2))
    }

    /// What was sent in a session, in order: to whom, session, number, lowest unacknowledged.
    fn tags(&self) -> Vec<(String, u64, u64, u64)> {
        let cluster = self.0.lock().unwrap();
        let tag = |(endpoint, request): &(String, Request)| {
            let Request::Write(Write { session: Some(tag), .. }) = request else { return None };
            Some((endpoint.clone(), tag.session.0, tag.sequence, tag.unacknowledged))
        };
        cluster.asked.iter().filter_map(tag).collect()
    }

    /// Who was sent a write, in order.
    fn writes(&self) -> Vec<String> {
        let cluster = self.0.lock().unwrap();
        let writes = cluster.asked.iter().filter(|(_, r)| matches!(r, Request::Write(_)));
        writes.map(|(endpoint, _)| endpoint.clone()).collect()
    }

    fn attempts(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().attempts)
    }

    fn reply(&self, endpoint: &str, body: Result<Answer, ErrorReply>) -> Reply {
        let cluster = self.0.lock().unwrap();
        let (_, term) = cluster.beliefs[endpoint];
        let header = Header {
            node: id(endpoint),
            term: Term(term),
            applied: Index(cluster.applied),
            revision: Revision(cluster.applied),
        };
        Reply { header, body }
    }
}

impl Cluster {
    fn act(&mut self, endpoint: &str, request: Request) -> Act {
        self.attempts.push(endpoint.to_owned());
        if let Some(act) = self.down.get(endpoint) {
            return act.clone();
        }
        let Some(belief) = self.beliefs.get(endpoint).copied() else {
            return Act::NotSent(NotSentKind::Unreachable);
        };
        self.asked.push((endpoint.to_owned(), request.clone()));
        // Probes are answered as they should be; scripts are for what is being tested.
        if request != Request::Members
            && let Some(act) = self.scripts.get_mut(endpoint).and_then(VecDeque::pop_front)
        {
            return act;
        }
        Act::Say(self.answer(endpoint, belief, request))
    }

    fn answer_now(&mut self, endpoint: &str, request: Request) -> Act {
        let belief = self.beliefs[endpoint];
        Act::Say(self.answer(endpoint, belief, request))
    }

    fn answer(
        &mut self,
        endpoint: &str,
        (leader, term): (Option<u64>, u64),
        request: Request,
    ) -> Result<Answer, ErrorReply> {
        let node_id = id(endpoint);
        let hint = leader.map(|id| LeaderHint { node: node(id), address: name(id) });
        let leads = leader == Some(node_id.as_u64());
        let not_leader = ErrorReply::NotLeader { leader: hint.clone(), term: Term(term) };
        match request {
            Request::Members => Ok(Answer::Members(Members {
                cluster_id: ClusterId(7),
                leader: hint,
                membership: Membership::of_voters(
                    self.beliefs.keys().map(|name| (id(name), name.clone())),
                ),
                membership_at: Index(1),
            })),
            Request::Status => Ok(Answer::Status(NodeStatus {
                cluster_id: ClusterId(7),
                node_id,
                address: endpoint.to_owned(),
                role: if leads { RoleName::Leader } else { RoleName::Follower },
                term: Term(term),
                leader_id: leader.map(node),
                last_index: Index(self.applied),
                commit_index: Index(self.applied),
                applied_index: Index(self.applied),
                revision: Revision(self.applied),
                condition: Condition::default(),
            })),
            Request::Write(Write { command: Command::OpenSession { ttl_ms }, .. }) if leads => {
                self.sessions += 1;
                let session = SessionId(self.sessions);
                Ok(Answer::Written(Outcome::Session { session, ttl_ms }))
            }
            Request::Write(_) if leads => {
                self.applied += 1;
                Ok(written(self.applied))
            }
            Request::Range(read) if leads || read.level == ReadLevel::Stale => {
                if Index(self.applied) < read.min_applied {
                    return Err(ErrorReply::Behind { applied: Index(self.applied) });
                }
                Ok(Answer::Range(RangeReply {
                    kvs: Vec::new(),
                    count: 0,
                    more: false,
                    revision: Revision(self.applied),
                    applied: Index(self.applied),
                }))
            }
            Request::Write(_) | Request::Range(_) | Request::Inspect(_) => Err(not_leader),
            Request::Watch(_) | Request::Digest { .. } => unreachable!("nobody asks that here"),
        }
    }
}

fn written(revision: u64) -> Answer {
    let outcome = PutOutcome { revision: Revision(revision), previous: None };
    Answer::Written(Outcome::Put(outcome))
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn name(id: u64) -> String {
    format!("n{id}")
}

fn id(name: &str) -> NodeId {
    name.strip_prefix('n').unwrap().parse().unwrap()
}

fn busy() -> Act {
    Act::Say(Err(ErrorReply::Busy { retry_after_ms: 5, message: "much to do".to_owned() }))
}

#[tokio::test(start_paused = true)]
async fn a_client_that_knows_one_follower_finds_the_leader_and_stays_with_it() {
    let fake = Fake::new(3);
    let client = fake.client(&[3]);
    for revision in 11..14 {
        assert_eq!(client.put("k", "v").await.unwrap().revision, Revision(revision));
    }
    assert_eq!(fake.writes(), ["n1", "n1", "n1"]);
    assert_eq!(fake.attempts(), ["n3", "n1", "n1", "n1", "n1"], "two probes, then writes only");
}

#[tokio::test(start_paused = true)]
async fn a_client_goes_on_with_members_it_was_not_given() {
    let fake = Fake::new(3);
    let client = fake.client(&[1]);
    client.put("k", "v").await.unwrap();
    fake.down(1, Act::NotSent(NotSentKind::Unreachable));
    fake.believe(2, Some(2), 2);
    fake.believe(3, Some(2), 2);
    client.put("k", "v").await.unwrap();
    assert_eq!(fake.writes(), ["n1", "n2"]);
}

/// The node that was cut off believes in a leader of an older term. Following it would be a detour
/// each time, and with two such nodes a circle.
#[tokio::test(start_paused = true)]
async fn a_hint_of_an_older_term_is_not_followed() {
    let fake = Fake::new(3);
    fake.believe(1, Some(1), 5);
    fake.believe(2, Some(3), 4);
    fake.believe(3, Some(2), 4);
    let client = fake.client(&[2, 1, 3]);
    client.put("k", "v").await.unwrap();
    // n2 is believed at first, since nothing newer is known.
    assert_eq!(fake.attempts(), ["n2", "n3", "n1", "n1"]);
    // From now on term 5 is known.
    fake.down(1, Act::NotSent(NotSentKind::Unreachable));
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error}");
    assert!(fake.attempts().len() < 40, "they do not send it to and fro");
}

/// Rule C4.
#[tokio::test(start_paused = true)]
async fn a_write_that_may_have_arrived_is_not_repeated() {
    for act in [
        Act::Lose,
        Act::Hang,
        Act::Garble,
        Act::Say(Err(ErrorReply::Unknown { message: "leadership was lost".to_owned() })),
        Act::Say(Ok(Answer::Members(Members {
            cluster_id: ClusterId(7),
            leader: None,
            membership: Membership::default(),
            membership_at: Index(0),
        }))),
    ] {
        let fake = Fake::new(3);
        fake.script(1, [act.clone()]);
        let client = fake.client(&[1, 2, 3]);
        let error = client.put("k", "v").await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }), "{act:?}: {error}");
        assert_eq!(fake.writes(), ["n1"], "{act:?}");
        // The next one starts afresh.
        client.put("k", "v").await.unwrap();
        assert_eq!(fake.writes().len(), 2, "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_surely_had_no_effect_is_repeated_until_it_has() {
    let fake = Fake::new(3);
    fake.script(
        1,
        [
            busy(),
            busy(),
            Act::Say(Err(ErrorReply::Superseded)),
            Act::NotSent(NotSentKind::Unreachable),
            Act::Say(Err(ErrorReply::NotLeader { leader: None, term: Term(1) })),
            Act::Say(Err(ErrorReply::Unavailable { message: "starting".to_owned() })),
        ],
    );
    let client = fake.client(&[1]);
    assert_eq!(client.put("k", "v").await.unwrap().revision, Revision(11));
    assert_eq!(fake.writes().iter().filter(|endpoint| *endpoint == "n1").count(), 7);
}

/// A leader that has too much to do is not a leader that is gone.
#[tokio::test(start_paused = true)]
async fn who_is_busy_to_the_end_is_told_from_nobody_leading() {
    let fake = Fake::new(1);
    fake.down(1, busy());
    let client = fake.client(&[1]);
    let busy = |error| {
        let ClientError::Busy { retry_after, message } = &error else { panic!("{error:?}") };
        assert_eq!((*retry_after, &message[..]), (Duration::from_millis(5), "n1: much to do"));
        assert!(error.to_string().contains("try again in 5ms"), "{error}");
    };
    busy(client.put("k", "v").await.unwrap_err());
    busy(client.get("k", ReadLevel::Linearizable).await.unwrap_err());
}

#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_even_if_it_may_have_arrived() {
    for act in [Act::Lose, Act::Hang, Act::Garble, busy()] {
        let fake = Fake::new(3);
        fake.script(1, [act.clone()]);
        let client = fake.client(&[1, 2]);
        let got = client.get("k", ReadLevel::Linearizable).await;
        assert_eq!(got.unwrap().revision, Revision(10), "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_costs_a_part_of_the_timeout_only() {
    let fake = Fake::new(3);
    fake.down(1, Act::Hang);
    fake.believe(2, Some(2), 2);
    fake.believe(3, Some(2), 2);
    let client = fake.client(&[1, 2]);
    let start = tokio::time::Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(start.elapsed() <= Duration::from_millis(700), "{:?}", start.elapsed());
    // It is asked last from now on.
    fake.attempts();
    client.get("k", ReadLevel::Stale).await.unwrap();
    assert_eq!(fake.attempts(), ["n2"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_the_client_gives_up_after_its_timeout() {
    let fake = Fake::new(2);
    fake.believe(1, None, 3);
    fake.believe(2, None, 3);
    let client = fake.client(&[1, 2]);
    let start = tokio::time::Instant::now();
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::NoLeader { .. }), "{error}");
    assert!(error.to_string().contains("does not lead in term 3"), "{error}");
    let waited = start.elapsed();
    assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&waited), "{waited:?}");
    // It does not hammer them: a back-off, not a loop.
    assert!(fake.attempts().len() < 40);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_get_better_is_reported_at_once() {
    for (kind, is_right) in [
        (NotSentKind::Unresolvable, (|e| matches!(e, ClientError::BadEndpoint { .. })) as Check),
        (NotSentKind::Tls, |e| matches!(e, ClientError::NotPermitted { .. })),
    ] {
        let fake = Fake::new(2);
        fake.down(1, Act::NotSent(kind));
        fake.down(2, Act::NotSent(kind));
        let client = fake.client(&[1, 2]);
        let start = tokio::time::Instant::now();
        for error in [
            client.put("k", "v").await.unwrap_err(),
            client.get("k", ReadLevel::Stale).await.unwrap_err(),
            client.status_all().await.unwrap_err(),
        ] {
            assert!(is_right(&error), "{error}");
            assert!(error.to_string().contains("scripted"), "{error}");
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
    let fake = Fake::new(1);
    let error = Client::new(fake.clone(), vec![], Duration::from_secs(1)).members().await;
    assert!(matches!(error.unwrap_err(), ClientError::BadEndpoint { .. }));
}

type Check = fn(&ClientError) -> bool;

#[tokio::test(start_paused = true)]
async fn one_bad_endpoint_among_good_ones_does_not_matter() {
    let fake = Fake::new(3);
    fake.down(3, Act::NotSent(NotSentKind::Unresolvable));
    fake.client(&[3, 2]).put("k", "v").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_from_nobody_leading() {
    let fake = Fake::new(2);
    fake.down(1, Act::NotSent(NotSentKind::Unreachable));
    fake.down(2, Act::NotSent(NotSentKind::Unreachable));
    let client = fake.client(&[1, 2]);
    for error in [
        client.put("k", "v").await.unwrap_err(),
        client.get("k", ReadLevel::Linearizable).await.unwrap_err(),
        client.status_all().await.unwrap_err(),
    ] {
        let ClientError::Unreachable { endpoints, .. } = &error else { panic!("{error}") };
        assert_eq!(endpoints, "n1, n2");
    }
}

#[tokio::test(start_paused = true)]
async fn senseless_requests_are_reported_as_they_are() {
    let fake = Fake::new(1);
    let message = "the value has 2000000 bytes; at most 1048576 are allowed".to_owned();
    let kind = Rejection::ValueTooLarge;
    fake.script(
        1,
        [
            Act::Say(Err(ErrorReply::Rejected { kind, message: message.clone() })),
            Act::NotSent(NotSentKind::TooLarge),
            Act::Say(Err(ErrorReply::Compacted { revision: Revision(3), compacted: Revision(5) })),
        ],
    );
    let client = fake.client(&[1]);
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error, ClientError::Rejected { kind, message });
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Rejected { .. }), "{error}");
    let old = RangeRequest { revision: Some(Revision(3)), ..RangeRequest::new(KeyRange::all()) };
    let error = client.range(old, ReadLevel::Linearizable).await.unwrap_err();
    assert_eq!(error, ClientError::Compacted { revision: Revision(3), compacted: Revision(5) });
}

/// Rule C8.
#[tokio::test(start_paused = true)]
async fn a_client_does_not_go_back_in_time_at_a_follower() {
    let fake = Fake::new(2);
    let client = fake.client(&[2]);
    client.put("k", "v").await.unwrap();
    fake.script(2, [Act::Say(Err(ErrorReply::Behind { applied: Index(3) }))]);
    client.get("k", ReadLevel::Stale).await.unwrap();
    let asked = fake.0.lock().unwrap().asked.clone();
    for (_, request) in asked {
        if let Request::Range(read) = request {
            assert_eq!(read.min_applied, Index(11), "it has seen its own write");
        }
    }
    // If nobody has come so far, that is what it says.
    fake.0.lock().unwrap().applied = 5;
    let error = client.get("k", ReadLevel::Stale).await.unwrap_err();
    assert_eq!(error, ClientError::Behind { wanted: Index(11), applied: Index(5) });
}

#[tokio::test(start_paused = true)]
async fn status_shows_every_member_once() {
    let fake = Fake::new(3);
    fake.down(3, Act::Hang);
    let lines = fake.client(&[2]).status_all().await.unwrap();
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (line.node_id.unwrap().as_u64(), &line.address[..], line.status.is_ok()))
        .collect();
    assert_eq!(shown, [(1, "n1", true), (2, "n2", true), (3, "n3", false)]);
    assert_eq!(lines[0].status.as_ref().unwrap().role, RoleName::Leader);
}

#[tokio::test(start_paused = true)]
async fn a_delete_sends_what_it_is_told() {
    let fake = Fake::new(1);
    let outcome = raft_kv::DeleteOutcome { revision: Revision(12), deleted: 1, previous: vec![] };
    let answer = Answer::Written(Outcome::DeleteRange(outcome.clone()));
    fake.script(1, [Act::Say(Ok(answer))]);
    let client = fake.client(&[1]);
    assert_eq!(client.delete(KeyRange::One("k".into())).await.unwrap(), outcome);
    let asked = fake.0.lock().unwrap().asked.clone();
    let (_, Request::Write(Write { command: Command::DeleteRange(sent), .. })) =
        asked.last().unwrap()
    else {
        panic!("{asked:?}")
    };
    assert_eq!(sent.range, KeyRange::One("k".into()));
}

fn ended() -> Act {
    let message = "session 1 has ended; open another".to_owned();
    Act::Say(Err(ErrorReply::Rejected { kind: Rejection::SessionEnded, message }))
}

/// Rule C2.
#[tokio::test(start_paused = true)]
async fn in_a_session_a_write_that_may_have_arrived_is_sent_again_under_its_number() {
    for act in [
        Act::Lose,
        Act::Hang,
        Act::Garble,
        Act::Say(Err(ErrorReply::Unknown { message: "leadership was lost".to_owned() })),
    ] {
        let fake = Fake::new(3);
        let client = fake.session_client(&[1, 2, 3]);
        client.put("k", "v").await.unwrap();
        fake.script(1, [act.clone()]);
        client.put("k", "v").await.unwrap();
        client.put("k", "v").await.unwrap();
        let to_leader: Vec<_> = fake.tags().into_iter().filter(|(to, ..)| to == "n1").collect();
        let tag = |sequence| ("n1".to_owned(), 1, sequence, sequence);
        assert_eq!(to_leader, [tag(1), tag(2), tag(2), tag(3)], "{act:?}");
    }
}

/// Rule C4.
#[tokio::test(start_paused = true)]
async fn a_write_that_nobody_answers_for_is_unknown_even_in_a_session() {
    let fake = Fake::new(1);
    let client = fake.session_client(&[1]);
    client.put("k", "v").await.unwrap();
    fake.down(1, Act::Hang);
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    // One that never left has had no effect.
    fake.down(1, Act::NotSent(NotSentKind::Unreachable));
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

/// Rule C2.
#[tokio::test(start_paused = true)]
async fn a_session_that_has_ended_is_replaced_if_nothing_can_have_been_done_in_it() {
    let fake = Fake::new(1);
    let client = fake.session_client(&[1]);
    client.put("k", "v").await.unwrap();
    fake.script(1, [ended()]);
    client.put("k", "v").await.unwrap();
    let tag = |session, sequence| ("n1".to_owned(), session, sequence, sequence);
    assert_eq!(fake.tags(), [tag(1, 1), tag(1, 2), tag(2, 1)]);
    // But if it may have been done before the session ended, a second time would be one too many.
    fake.script(1, [Act::Lose, ended()]);
    let error = client.put("k", "v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    assert_eq!(fake.tags().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn clones_share_a_session_and_open_it_once() {
    let fake = Fake::new(1);
    let client = fake.session_client(&[1]);
    let puts = (0..10).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.put("k", "v").await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    let mut numbers: Vec<_> =
        fake.tags().into_iter().map(|(_, s, number, _)| (s, number)).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=10).map(|number| (1, number)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_again_and_again_until_there_is_one() {
    let fake = Fake::new(1);
    fake.script(1, [Act::Lose, busy(), Act::Garble]);
    fake.session_client(&[1]).put("k", "v").await.unwrap();
    assert_eq!(fake.tags().len(), 1);
}

/// A leader that is gone is left as soon as the others have another, not when an attempt at it has taken too long;
/// and not before, since nobody else could answer. All by a clock that only the test moves.
#[tokio::test(start_paused = true)]
async fn a_leader_that_falls_silent_is_left_once_there_is_another() {
    let fake = Fake::new(3);
    let client = fake.session_client(&[1, 2, 3]).with_timeout(Duration::from_secs(60));
    client.put("k", "v").await.unwrap();
    fake.down(1, Act::Hang);
    let start = tokio::time::Instant::now();
    let election = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(fake.writes().last().unwrap(), "n1");
        (1..=3).for_each(|id| fake.believe(id, Some(2), 2));
    };
    // One of many asks the others for all of them.
    let puts: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.put("k", "v").await })
        })
        .collect();
    election.await;
    for put in puts {
        put.await.unwrap().unwrap();
    }
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
    let cluster = fake.0.lock().unwrap();
    let lookouts = cluster.asked.iter().filter(|(_, request)| *request == Request::Members).count();
    assert!(lookouts < 40, "{lookouts} questions");
}

/// Who takes long is not gone. To ask everybody else each time would make a busy cluster slower still: with a
/// connection each, a thousand clients did nothing else any more.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_always_slow_is_not_suspected_each_time() {
    let fake = Fake::new(3);
    let client = fake.session_client(&[1, 2, 3]);
    client.put("k", "v").await.unwrap();
    fake.attempts();
    fake.script(1, vec![Act::Linger(Duration::from_millis(120)); 50]);
    for _ in 0..50 {
        client.put("k", "v").await.unwrap();
    }
    let others = fake.attempts().into_iter().filter(|endpoint| endpoint != "n1").count();
    assert!((1..=8).contains(&others), "they were asked {others} times");

    // If it goes now, that is noticed a little later.
    fake.down(1, Act::Hang);
    fake.believe(2, Some(2), 2);
    fake.believe(3, Some(2), 2);
    let start = tokio::time::Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // Among quick answers a slow one is looked into at once again.
    for _ in 0..20 {
        client.put("k", "v").await.unwrap();
    }
    fake.down(2, Act::Hang);
    fake.believe(3, Some(3), 3);
    let start = tokio::time::Instant::now();
    client.put("k", "v").await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(110), "{:?}", start.elapsed());
}
