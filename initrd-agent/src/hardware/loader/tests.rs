//! Workers against a kernel of our own.

use std::time::{Duration, Instant};

use super::*;

/// Notes what it gets; fails for `bad`, hangs for `hung` until told.
struct FakeKernel {
    inserted: Arc<Mutex<Vec<String>>>,
    release: Arc<(Mutex<bool>, Condvar)>,
}

fn start() -> (Loader, FakeKernel) {
    let inserted: Arc<Mutex<Vec<String>>> = Arc::default();
    let release: Arc<(Mutex<bool>, Condvar)> = Arc::default();
    let (log, gate) = (inserted.clone(), release.clone());
    let insert = move |module: &str, _: &[u8], _: &str| {
        if module.starts_with("hung") {
            let mut open = gate.0.lock().unwrap();
            while !*open {
                open = gate.1.wait(open).unwrap();
            }
        }
        log.lock().unwrap().push(module.to_owned());
        if module.starts_with("bad") { Err(Errno::ENODEV) } else { Ok(Inserted::New) }
    };
    let loader = Loader::start(Arc::new(insert), Arc::new(|_| {})).unwrap();
    (loader, FakeKernel { inserted, release })
}

impl FakeKernel {
    fn inserted(&self) -> String {
        self.inserted.lock().unwrap().join(" ")
    }

    fn release(&self) {
        *self.release.0.lock().unwrap() = true;
        self.release.1.notify_all();
    }
}

fn job(words: &str) -> Vec<JobStep> {
    let step = |word: &str| JobStep {
        module: word.trim_matches(['?', '~']).to_owned(),
        required: !word.ends_with('?'),
        image: (!word.starts_with('~')).then(|| (vec![1], String::new())),
    };
    words.split(' ').map(step).collect()
}

fn finish(loader: &Loader) {
    let begun = Instant::now();
    while !loader.unfinished().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", loader.states());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn steps_load_in_their_order() {
    let (loader, kernel) = start();
    loader.submit(job("libphy realtek? r8169"));
    finish(&loader);
    assert_eq!(kernel.inserted(), "libphy realtek r8169");
    assert_eq!(loader.state("r8169"), Some(LoadState::Loaded));
    assert_eq!(loader.state("ahci"), None);
}

#[test]
fn a_failed_soft_dependency_changes_nothing_and_a_hard_one_is_named() {
    let (loader, kernel) = start();
    loader.submit(job("bad_soft? ext4"));
    loader.submit(job("bad_hard driver"));
    finish(&loader);
    assert_eq!(loader.state("ext4"), Some(LoadState::Loaded));
    assert_eq!(loader.state("driver"), Some(LoadState::Failed("needs bad_hard".into())));
    assert!(!kernel.inserted().contains("driver"));
}

#[test]
fn who_shares_a_dependency_waits_for_it() {
    let (loader, kernel) = start();
    loader.submit(job("hung_core one"));
    loader.submit(job("~hung_core two"));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(kernel.inserted(), "");
    assert_eq!(loader.unfinished(), ["hung_core", "one", "two"]);
    kernel.release();
    finish(&loader);
    assert!(kernel.inserted().starts_with("hung_core "));
    assert_eq!(loader.state("two"), Some(LoadState::Loaded));
}

#[test]
fn a_driver_that_hangs_holds_up_no_other() {
    let (loader, kernel) = start();
    loader.submit(job("hung"));
    loader.submit(job("ahci"));
    let begun = Instant::now();
    while loader.state("ahci") != Some(LoadState::Loaded) {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(loader.unfinished(), ["hung"]);
    kernel.release();
    finish(&loader);
}

#[test]
fn reasons_are_words() {
    assert_eq!(why(Errno::ENODEV), "finds no device that it can drive (ENODEV)");
}
