//! Small races on real beds: everything arrives, is counted, and is gone afterwards. Skipped without root.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use bed::peers::{Aria2, Http};
use bed::{Bed, Disturbance, Harm, Mbit, Place, Shape, Source, race};

/// No race here takes longer, whatever else the machine does.
const DEADLINE: Duration = Duration::from_secs(60);
/// Large enough to be counted among headers.
const BYTES: u64 = 8 << 20;

fn bed(shape: Shape) -> Result<Option<(Bed, Source)>> {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: a bed needs root");
        return Ok(None);
    }
    let bed = Bed::new(shape)?;
    let source = Source::make(&bed.dir().join("image"), BYTES)?;
    Ok(Some((bed, source)))
}

#[test]
fn a_server_without_peers_sends_the_file_to_each_node() {
    let Some((bed, source)) = bed(Shape::new(2, Some(Mbit(200.0)))).unwrap() else { return };
    let outcome = race(&bed, &Http, &source, &[], &[], DEADLINE).unwrap();
    assert!(outcome.finished_s.iter().all(Option::is_some), "{outcome:?}");
    assert_eq!(outcome.wrong, [0; 0]);
    let sent = outcome.usage.server.sent_bytes;
    assert!((2 * BYTES..2 * BYTES * 11 / 10).contains(&sent), "two copies and their headers: {sent}");
    assert!(outcome.usage.nodes.iter().all(|node| node.received_bytes > BYTES));
    // A second race on the same bed starts from an empty one.
    let outcome = race(&bed, &Aria2, &source, &[], &[], DEADLINE).unwrap();
    assert!(outcome.finished_s.iter().all(Option::is_some), "{outcome:?}");
    let (namespace, dir) = (bed.namespace(Place::Node(1)), bed.dir().to_owned());
    assert!(namespace.exists() && dir.exists());
    drop(bed);
    assert!(!namespace.exists() && !dir.exists());
}

#[test]
fn a_killed_node_is_not_waited_for() {
    let Some((bed, source)) = bed(Shape::new(2, Some(Mbit(20.0)))).unwrap() else { return };
    let kill = Disturbance { after: Duration::from_millis(300), node: 1, harm: Harm::Kill };
    let outcome = race(&bed, &Http, &source, &[kill], &[], DEADLINE).unwrap();
    assert!(outcome.finished_s.iter().map(Option::is_some).eq([true, false]), "{outcome:?}");
}

#[test]
fn a_node_that_receives_something_else_is_found() {
    let dir = std::env::temp_dir().join(format!("bed-test-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let source = Source::make(&dir.join("image"), BYTES).unwrap();
    let copy = dir.join("copy");
    fs::copy(&source.path, &copy).unwrap();
    assert!(source.equals(&copy).unwrap());
    let mut bytes = fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&copy, bytes).unwrap();
    assert!(!source.equals(&copy).unwrap());
    fs::remove_dir_all(&dir).unwrap();
}
