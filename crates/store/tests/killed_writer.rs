//! A writing process is killed at random moments; every commit that it acknowledged is found again.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use store::{Commit, Expect, Store, Write};

/// Set in the child: the store's address.
const CHILD_URL: &str = "ESIR_TEST_STORE_URL";
const ROUNDS: u64 = 12;
const THREADS: usize = 4;

/// Writes as fast as it can and prints each commit after it was acknowledged, until it is killed.
/// In the test run itself, where it is nobody's child, it does nothing.
#[test]
fn child() {
    let Ok(url) = std::env::var(CHILD_URL) else { return };
    let store = Store::open(&url).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let own = format!("thread/{thread}");
                loop {
                    let found = store.get(&own).unwrap();
                    let count: u64 =
                        found.as_ref().map_or(0, |v| String::from_utf8_lossy(&v.value).parse().unwrap());
                    let expect = found.map_or(Expect::Absent, |found| Expect::Version(found.version));
                    let next = (count + 1).to_string();
                    // Two keys in one commit: neither may ever be found without the other.
                    let writes = [
                        Write::put(own.clone(), expect, next.clone()),
                        Write::put(format!("log/{thread}/{next}"), Expect::Absent, next.clone()),
                    ];
                    assert!(matches!(store.commit(&writes).unwrap(), Commit::Done { .. }));
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "acknowledged {thread} {next}").unwrap();
                    out.flush().unwrap();
                }
            });
        }
    });
}

#[test]
fn no_acknowledged_commit_is_lost_when_the_writer_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("esir.db").display());
    let mut acknowledged = [0_u64; THREADS];
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD_URL, &url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<String>>());
        // Spread over the first batches, a checkpoint and the opening itself.
        std::thread::sleep(Duration::from_millis(15 + (round * 47) % 260));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            let Some((_, rest)) = line.split_once("acknowledged ") else { continue };
            // The last line may be cut short by the kill.
            let Some((thread, count)) = rest.split_once(' ') else { continue };
            let (Ok(thread), Ok(count)) = (thread.parse::<usize>(), count.parse()) else { continue };
            acknowledged[thread] = acknowledged[thread].max(count);
        }
        let store = Store::open(&url).unwrap();
        for (thread, acknowledged) in acknowledged.iter().enumerate() {
            let found = store.get(&format!("thread/{thread}")).unwrap();
            let count: u64 = found.map_or(0, |v| String::from_utf8_lossy(&v.value).parse().unwrap());
            assert!(count >= *acknowledged, "round {round}: acknowledged {acknowledged}, found {count}");
            let log = store.list(&format!("log/{thread}/")).unwrap();
            assert_eq!(log.len() as u64, count, "round {round}: half a commit");
        }
    }
    assert!(
        acknowledged.iter().all(|count| *count > 0),
        "the writer never got anything done: {acknowledged:?}"
    );
}
