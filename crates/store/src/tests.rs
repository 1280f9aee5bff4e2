use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What the store should hold, kept apart from it.
#[derive(Default)]
struct Oracle {
    entries: BTreeMap<String, Versioned>,
    version: u64,
}

impl Oracle {
    fn commit(&mut self, writes: &[Write]) -> Commit {
        for write in writes {
            let found = self.entries.get(&write.key).map(|entry| entry.version);
            let holds = match write.expect {
                Expect::Anything => true,
                Expect::Absent => found.is_none(),
                Expect::Version(version) => found == Some(version),
            };
            if !holds {
                return Commit::Conflict { key: write.key.clone() };
            }
        }
        self.version += 1;
        for write in writes {
            match &write.value {
                Some(value) => {
                    let entry = Versioned { value: value.clone(), version: self.version };
                    self.entries.insert(write.key.clone(), entry);
                }
                None => {
                    self.entries.remove(&write.key);
                }
            }
        }
        Commit::Done { version: self.version }
    }

    fn list(&self, prefix: &str) -> Vec<(String, Versioned)> {
        let all = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        all.map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }
}

fn any_write() -> impl Strategy<Value = Write> {
    let expect =
        prop_oneof![Just(Expect::Absent), Just(Expect::Anything), (1_u64..30).prop_map(Expect::Version),];
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..8));
    ("[ab~]/?[ab]?", expect, value).prop_map(|(key, expect, value)| Write { key, expect, value })
}

/// One of many short histories; reopening in the middle changes nothing.
fn check_history(url: &str, history: &[Vec<Write>], reopen_at: usize) -> Result<(), TestCaseError> {
    let mut store = Store::open(url).unwrap();
    let mut oracle = Oracle::default();
    for (index, writes) in history.iter().enumerate() {
        if index == reopen_at && url != "memory:" {
            drop(store);
            store = Store::open(url).unwrap();
        }
        match store.commit(writes) {
            Err(StoreError::Twice(_)) => continue,
            commit => prop_assert_eq!(commit.unwrap(), oracle.commit(writes)),
        }
        for prefix in ["", "a", "a/", "b", "~"] {
            prop_assert_eq!(store.list(prefix).unwrap(), oracle.list(prefix));
        }
        for write in writes {
            prop_assert_eq!(store.get(&write.key).unwrap(), oracle.entries.get(&write.key).cloned());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_history_ends_as_the_oracle_says(
        history in proptest::collection::vec(proptest::collection::vec(any_write(), 0..4), 0..20),
        reopen_at in 0_usize..20,
    ) {
        check_history("memory:", &history, reopen_at)?;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("esir.db").display());
        check_history(&url, &history, reopen_at)?;
    }
}

#[test]
fn only_one_of_many_threads_gets_each_step() {
    const THREADS: u64 = 8;
    const STEPS: u64 = 25;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("sqlite:{}", folder.path().join("esir.db").display())).unwrap();
    store.commit(&[Write::put("count", Expect::Absent, "0")]).unwrap();
    let step = |store: &Store| loop {
        let found = store.get("count").unwrap().unwrap();
        let count: u64 = String::from_utf8(found.value).unwrap().parse().unwrap();
        let write = Write::put("count", Expect::Version(found.version), (count + 1).to_string());
        if matches!(store.commit(&[write]).unwrap(), Commit::Done { .. }) {
            return;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let store = store.clone();
            scope.spawn(move || (0..STEPS).for_each(|_| step(&store)));
        }
    });
    let count = store.get("count").unwrap().unwrap();
    assert_eq!(count.value, (THREADS * STEPS).to_string().into_bytes());
}

#[test]
fn watcher_hears_commits_of_its_prefix_in_order_and_is_told_when_it_missed_some() {
    let store = Store::open("memory:").unwrap();
    let watch = store.watch("node/");
    let put = |key: &str| match store.commit(&[Write::put(key, Expect::Anything, "x")]).unwrap() {
        Commit::Done { version } => version,
        Commit::Conflict { key } => panic!("{key}"),
    };
    put("lease/1");
    let version = put("node/a");
    let change = Change::Keys { version, keys: vec!["node/a".to_owned()] };
    assert_eq!(watch.next(Duration::from_secs(5)), Some(change));
    assert_eq!(watch.next(Duration::ZERO), None);
    for _ in 0..1100 {
        put("node/b");
    }
    let heard: Vec<Change> = std::iter::from_fn(|| watch.next(Duration::ZERO)).collect();
    assert_eq!(heard.len(), 1024);
    put("node/c");
    assert_eq!(watch.next(Duration::ZERO), Some(Change::Missed));
}

#[test]
fn what_cannot_be_stored_is_refused_in_one_sentence() {
    let store = Store::open("memory:").unwrap();
    let key = |key: &str| store.commit(&[Write::put(key, Expect::Anything, "")]).unwrap_err().to_string();
    assert!(key("").contains("cannot be a key"));
    assert!(key("a b").contains("cannot be a key"));
    assert!(key(&"k".repeat(KEY_BYTES_MAX + 1)).contains("cannot be a key"));
    let large = store.commit(&[Write::put("a", Expect::Anything, vec![0; VALUE_BYTES_MAX + 1])]);
    assert!(matches!(large, Err(StoreError::ValueTooLarge { .. })));
    let twice = [Write::put("a", Expect::Anything, ""), Write::delete("a", Expect::Anything)];
    assert!(matches!(store.commit(&twice), Err(StoreError::Twice(_))));
    assert!(matches!(Store::open("redis:x"), Err(StoreError::Url(_))));
    assert!(matches!(Store::open("sqlite:"), Err(StoreError::Url(_))));
}

#[test]
fn file_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("esir.db");
    let url = format!("sqlite:{}", path.display());
    drop(Store::open(&url).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.execute("INSERT INTO migration VALUES (99)", []).unwrap();
    assert!(matches!(Store::open(&url), Err(StoreError::Schema { found: 99, .. })));
}
