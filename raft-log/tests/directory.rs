//! The data directory: who may open it, and whose it is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;

use common::{Place, append, commands, config, founding, identity, node};
use raft_core::{ClusterId, LogStore, SnapshotMeta};
use raft_log::{DataDir, OpenError, RocksLog};

/// The message must name what it is about.
fn refused<T>(result: Result<T, OpenError>, names: &Path) -> OpenError {
    let Err(error) = result else { panic!("it was accepted") };
    let message = error.to_string();
    assert!(message.contains(&names.display().to_string()), "{message}");
    assert!(!message.contains('\n'), "{message}");
    error
}

#[test]
fn a_new_directory_is_created_and_initialised_once() {
    let place = Place::empty();
    let path = place.path().join("below");
    let mut dir = DataDir::open(&path).unwrap();
    assert_eq!(dir.identity(), None);
    assert!(matches!(
        refused(RocksLog::open(&dir, config()), &path),
        OpenError::NotInitialised { .. }
    ));
    assert!(matches!(refused(dir.expect(node(1), None), &path), OpenError::NotInitialised { .. }));
    dir.initialise(identity(), &founding(), &config()).unwrap();
    assert_eq!(dir.identity(), Some(identity()));
    let again = dir.initialise(identity(), &founding(), &config());
    assert!(matches!(refused(again, &path), OpenError::AlreadyInitialised { .. }));
    drop(dir);
    let mut dir = DataDir::open(&path).unwrap();
    assert_eq!(dir.identity(), Some(identity()));
    assert_eq!(dir.path(), path);
    let again = dir.initialise(identity(), &founding(), &config());
    assert!(matches!(refused(again, &path), OpenError::AlreadyInitialised { .. }));
    let mut log = RocksLog::open(&dir, config()).unwrap();
    assert_eq!(log.recover().unwrap().base, founding());
}

#[test]
fn a_node_that_joins_starts_without_a_configuration() {
    let place = Place::empty();
    let mut dir = DataDir::open(&place.path()).unwrap();
    dir.initialise(identity(), &SnapshotMeta::default(), &config()).unwrap();
    let mut log = RocksLog::open(&dir, config()).unwrap();
    assert_eq!(log.recover().unwrap(), raft_core::Recovered::default());
}

#[test]
fn a_second_opener_is_refused() {
    let place = Place::new();
    let opened = place.open().unwrap();
    let error = refused(DataDir::open(&place.path()), &place.path());
    let this = std::process::id();
    assert!(
        matches!(error, OpenError::Locked { process: Some(process), .. } if process == this),
        "{error}"
    );
    drop(opened);
    place.open().unwrap();
}

#[test]
fn what_is_not_a_directory_is_refused() {
    let place = Place::empty();
    let file = place.path();
    fs::write(&file, "hello").unwrap();
    assert!(matches!(refused(DataDir::open(&file), &file), OpenError::NotADirectory { .. }));
    let below = file.join("below");
    assert!(matches!(refused(DataDir::open(&below), &below), OpenError::Io { .. }));
    assert_eq!(fs::read(&file).unwrap(), b"hello");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    // Nobody may create a file there, not even root.
    let path = Path::new("/proc/self");
    assert!(matches!(refused(DataDir::open(path), path), OpenError::Io { .. }));
}

/// Rule L17, rule M10.
#[test]
fn a_directory_of_another_node_or_cluster_is_refused() {
    let place = Place::new();
    let dir = DataDir::open(&place.path()).unwrap();
    assert_eq!(dir.expect(node(1), None).unwrap(), identity());
    assert_eq!(dir.expect(node(1), Some(ClusterId(77))).unwrap(), identity());
    let error = refused(dir.expect(node(2), Some(ClusterId(77))), &place.path());
    let OpenError::OtherNode { found, expected, .. } = error else { panic!("{error}") };
    assert_eq!((found, expected), (node(1), node(2)));
    let error = refused(dir.expect(node(1), Some(ClusterId(78))), &place.path());
    let OpenError::OtherCluster { found, expected, .. } = error else { panic!("{error}") };
    assert_eq!((found, expected), (ClusterId(77), ClusterId(78)));
}

#[test]
fn a_damaged_or_newer_identity_is_refused() {
    let place = Place::new();
    let path = place.path().join("identity");
    let good = fs::read(&path).unwrap();
    for cut in 0..good.len() {
        fs::write(&path, &good[..cut]).unwrap();
        let error = refused(DataDir::open(&place.path()), &path);
        assert!(matches!(error, OpenError::DamagedIdentity { .. }), "{cut}: {error}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        fs::write(&path, &bad).unwrap();
        let error = refused(DataDir::open(&place.path()), &path);
        assert!(matches!(error, OpenError::DamagedIdentity { .. }), "{at}: {error}");
    }
    let body = "raft-identity 7\nsomething new\n";
    fs::write(&path, format!("{body}crc32c {:08x}\n", crc32c::crc32c(body.as_bytes()))).unwrap();
    let error = refused(DataDir::open(&place.path()), &path);
    assert!(matches!(error, OpenError::NewerFormat { found: 7, supported: 1, .. }), "{error}");
    fs::write(&path, &good).unwrap();
    place.open().unwrap();
}

/// Whatever `initialise` had done when it was interrupted, it can be repeated, with another
/// identity too.
#[test]
fn an_interrupted_initialisation_can_be_repeated() {
    let interrupted: [&dyn Fn(&Path); 4] = [
        &|data| fs::rename(data.join("identity"), data.join("identity.tmp")).unwrap(),
        &|data| fs::remove_file(data.join("identity")).unwrap(),
        &|data| {
            fs::remove_file(data.join("identity")).unwrap();
            fs::write(data.join("watermark"), [0; 100]).unwrap();
        },
        &|data| {
            fs::remove_file(data.join("identity")).unwrap();
            fs::remove_file(data.join("watermark")).unwrap();
            fs::remove_dir_all(data.join("log")).unwrap();
            fs::create_dir(data.join("log")).unwrap();
        },
    ];
    for interrupt in interrupted {
        let place = Place::new();
        interrupt(&place.path());
        let mut dir = DataDir::open(&place.path()).unwrap();
        assert_eq!(dir.identity(), None);
        let other = raft_core::Identity { node: node(2), ..identity() };
        dir.initialise(other, &SnapshotMeta::default(), &config()).unwrap();
        assert!(!place.path().join("identity.tmp").exists());
        let mut log = RocksLog::open(&dir, config()).unwrap();
        assert_eq!(log.recover().unwrap().base, SnapshotMeta::default());
        log.persist(&append(commands(1..=1, 1))).unwrap();
    }
}

/// Rule M10: a node that has lost only its identity file is not a new node.
#[test]
fn a_log_without_identity_is_not_initialised_over() {
    let lost: [&dyn Fn(&Path); 3] = [
        &|_| {},
        // The log is gone as well, the watermark tells.
        &|data| fs::remove_dir_all(data.join("log")).unwrap(),
        // RocksDB's root file is gone, too: it would start anew.
        &|data| {
            fs::remove_file(data.join("log/CURRENT")).unwrap();
            fs::remove_file(data.join("watermark")).unwrap();
        },
    ];
    for lose in lost {
        let place = Place::new();
        place.open().unwrap().persist(&append(commands(1..=1, 1))).unwrap();
        fs::remove_file(place.path().join("identity")).unwrap();
        lose(&place.path());
        let mut dir = DataDir::open(&place.path()).unwrap();
        let error = refused(dir.initialise(identity(), &founding(), &config()), &place.path());
        assert!(matches!(error, OpenError::Orphaned { .. }), "{error}");
    }
}

// A write-ahead log on another disk.

/// A place whose log writes ahead in another directory, which is given, too.
fn apart() -> (Place, Place, raft_log::RocksLogConfig) {
    let (place, elsewhere) = (Place::empty(), Place::empty());
    let mut config = config();
    config.wal_dir = Some(elsewhere.path());
    let mut dir = DataDir::open(&place.path()).unwrap();
    dir.initialise(identity(), &founding(), &config).unwrap();
    (place, elsewhere, config)
}

fn logs_in(path: &Path) -> usize {
    let names = fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".log")).count()
}

#[test]
fn a_write_ahead_log_may_be_elsewhere() {
    let (place, elsewhere, config) = apart();
    let data = place.path();
    for named in [true, false] {
        // Who does not name the place finds it.
        let config = if named { config.clone() } else { common::config() };
        let dir = DataDir::open(&data).unwrap();
        let mut log = RocksLog::open(&dir, config).unwrap();
        let first = log.recover().unwrap().last.0 + 1;
        log.persist(&append(commands(first..=first + 9, 1))).unwrap();
    }
    assert!(logs_in(&elsewhere.path()) > 0);
    assert_eq!(logs_in(&data.join("log")), 0);
    let stat = raft_log::verify(&data, &mut |_, _| {}).unwrap();
    assert_eq!(stat.entries, 20);

    // An operator may move it.
    let moved = Place::empty();
    fs::rename(elsewhere.path(), moved.path()).unwrap();
    let lost = raft_log::verify(&data, &mut |_, _| {});
    assert!(matches!(refused(lost, &elsewhere.path()), OpenError::ForeignWal { .. }));
    fs::remove_file(data.join("wal")).unwrap();
    std::os::unix::fs::symlink(moved.path(), data.join("wal")).unwrap();
    assert_eq!(raft_log::stat(&data).unwrap().entries, 20);

    // Damage is found where it is: in the newest file, before its last write.
    let files = fs::read_dir(moved.path()).unwrap().map(|item| item.unwrap().path());
    let newest =
        files.filter(|path| path.extension().is_some_and(|end| end == "log")).max().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[20] ^= 1;
    fs::write(&newest, bytes).unwrap();
    let message = raft_log::stat(&data).unwrap_err().to_string();
    assert!(message.contains(newest.file_name().unwrap().to_str().unwrap()), "{message}");
}

/// Rule L15: an empty mount point is not taken for a log that has nothing to replay.
#[test]
fn a_write_ahead_log_that_is_not_this_nodes_is_refused() {
    let (place, elsewhere, config) = apart();
    let dir = DataDir::open(&place.path()).unwrap();
    drop(RocksLog::open(&dir, config.clone()).unwrap());

    let mut other = common::config();
    other.wal_dir = Some(place.path().join("third"));
    let moved = RocksLog::open(&dir, other);
    assert!(matches!(refused(moved, &place.path().join("third")), OpenError::OtherWal { .. }));

    let wal = elsewhere.path();
    let identity_file = wal.join("identity");
    let good = fs::read(&identity_file).unwrap();
    for (text, names) in [(None, "mounted"), (Some("raft-identity 1\n"), "damaged")] {
        match text {
            Some(text) => fs::write(&identity_file, text).unwrap(),
            None => fs::remove_file(&identity_file).unwrap(),
        }
        let error = refused(RocksLog::open(&dir, config.clone()), &wal);
        assert!(error.to_string().contains(names), "{error}");
    }
    fs::write(&identity_file, &good).unwrap();
    drop(RocksLog::open(&dir, config.clone()).unwrap());
    drop(dir);

    // Neither another node nor a later life of this one begins in it.
    let second = Place::empty();
    let mut dir = DataDir::open(&second.path()).unwrap();
    let begun = dir.initialise(identity(), &founding(), &config);
    assert!(matches!(refused(begun, &wal), OpenError::ForeignWal { .. }));
    assert_eq!(dir.identity(), None);
}

#[test]
fn an_interrupted_initialisation_with_a_log_elsewhere_can_be_repeated() {
    let (place, elsewhere, config) = apart();
    let data = place.path();
    // Before the identity file was written; and before anything but the link was.
    for only_the_link in [false, true] {
        fs::remove_file(data.join("identity")).unwrap();
        if only_the_link {
            fs::remove_file(data.join("watermark")).unwrap();
            fs::remove_dir_all(data.join("log")).unwrap();
            fs::remove_dir_all(elsewhere.path()).unwrap();
        }
        let mut dir = DataDir::open(&data).unwrap();
        dir.initialise(identity(), &founding(), &config).unwrap();
        assert_eq!(base_of(&dir, &config), founding());
    }
}

fn base_of(dir: &DataDir, config: &raft_log::RocksLogConfig) -> SnapshotMeta {
    RocksLog::open(dir, config.clone()).unwrap().recover().unwrap().base
}
