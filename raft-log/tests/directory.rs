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
